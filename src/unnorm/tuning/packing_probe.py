"""Whether packed rows stay apart on a given model: measured once, since on some architectures they leak in silence."""

from typing import Any

import torch

_LENGTHS = (5, 7)


@torch.no_grad()
def packing_is_clean(model: Any, tolerance: float = 1e-3) -> bool:
    """Compare the logits of two sequences packed into one row with those of each on its own.

    tolerance: largest difference, relative to the logits' root mean square, that still counts as equal. A model that
    does not take `position_ids` is not clean.
    """
    device = next(model.parameters()).device
    vocabulary = model.config.get_text_config().vocab_size
    parts = [(torch.arange(n, device=device) * 31 + 7 * n) % vocabulary for n in _LENGTHS]
    positions = [torch.arange(n, device=device) for n in _LENGTHS]
    was_training = model.training
    model.eval()
    try:
        packed = model(
            input_ids=torch.cat(parts)[None], position_ids=torch.cat(positions)[None], use_cache=False
        ).logits[0]
        alone = torch.cat([model(input_ids=part[None], use_cache=False).logits[0] for part in parts])
    except TypeError:
        return False
    finally:
        model.train(was_training)
    return bool((packed - alone).abs().max() <= tolerance * alone.square().mean().sqrt())
