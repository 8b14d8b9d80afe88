"""Whether prompts padded on the left are answered as they would be alone: on some architectures padding leaks."""

from typing import Any

import torch

_LENGTHS = (3, 9)


@torch.no_grad()
def batching_is_clean(model: Any, tolerance: float = 1e-3) -> bool:
    """Compare the logits by which two prompts of different length are answered in one batch, and each on its own.

    tolerance: largest difference, relative to the logits' root mean square, that still counts as equal; in bf16 and
    fp16, whose sums depend on the shapes, a hundred times as much.
    """
    device = model.get_input_embeddings().weight.device
    vocabulary = model.config.get_text_config().vocab_size
    parts = [(torch.arange(n, device=device) * 31 + 7 * n) % vocabulary for n in _LENGTHS]
    longest = max(_LENGTHS)
    tokens = torch.stack([torch.nn.functional.pad(part, (longest - len(part), 0)) for part in parts])
    mask = torch.stack([torch.arange(longest, device=device) >= longest - len(part) for part in parts]).long()
    was_training = model.training
    model.eval()
    try:
        batched = _logits(model, tokens, mask)
        alone = torch.cat([_logits(model, part[None], torch.ones_like(part)[None]) for part in parts], dim=1)
    finally:
        model.train(was_training)
    loose = 100 if next(model.parameters()).dtype in (torch.bfloat16, torch.float16) else 1
    return bool((batched - alone).abs().max() <= loose * tolerance * alone.square().mean().sqrt())


def _logits(model: Any, tokens: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Logits [2, B, V] of the first two tokens that `generate` adds: of the prompt, and of a step with its cache."""
    out = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        max_new_tokens=2,
        min_new_tokens=2,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return torch.stack(out.logits).float()
