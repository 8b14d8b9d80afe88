"""Completions: what a model answers, greedily, to a few prompts."""

from collections.abc import Sequence
from typing import Any

import torch

from unnorm.data.encode import encode_prompt


@torch.no_grad()
def complete(model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int = 48) -> list[str]:
    """Greedy answers to prompt texts, cut at eos. One batch, padded on the left and masked by position."""
    device = next(model.parameters()).device
    ids = [encode_prompt(prompt, tokenizer) for prompt in prompts]
    length = max(map(len, ids))
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    tokens = torch.full((len(ids), length), pad, device=device)
    mask = torch.zeros_like(tokens)
    for number, row in enumerate(ids):
        tokens[number, length - len(row) :] = torch.tensor(row, device=device)
        mask[number, length - len(row) :] = 1
    was_training = model.training
    model.eval()
    try:
        out = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            pad_token_id=pad,
            eos_token_id=tokenizer.eos_token_id,
        )
    finally:
        model.train(was_training)
    answers = []
    for row in out[:, length:].tolist():
        end = row.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in row else len(row)
        answers.append(tokenizer.decode(row[:end], skip_special_tokens=True))
    return answers
