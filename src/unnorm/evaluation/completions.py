"""Completions: what a model answers, greedily, to a few prompts."""

import time
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch

from unnorm.data.encode import encode_prompt
from unnorm.surgery.base import context_length


class Completion(NamedTuple):
    """An answer: its text and token ids without eos, how it ended, and the seconds of the batch it was made in."""

    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    seconds: float


@torch.no_grad()
def complete(model: Any, tokenizer: Any, prompts: Sequence[str], *, max_new_tokens: int = 64) -> list[Completion]:
    """Greedy answers to prompt texts, cut at eos. One batch, padded on the left and masked by position.

    Of a prompt that is too long for the model's context beside `max_new_tokens`, the end is kept.
    """
    started = time.perf_counter()
    device = next(model.parameters()).device
    room = max(1, (context_length(model) or 2**30) - max_new_tokens)
    ids = [encode_prompt(prompt, tokenizer)[-room:] for prompt in prompts]
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
        stopped = tokenizer.eos_token_id in row
        ids = row[: row.index(tokenizer.eos_token_id)] if stopped else row
        text = tokenizer.decode(ids, skip_special_tokens=True)
        answers.append(Completion(text, ids, "stop" if stopped else "length", time.perf_counter() - started))
    return answers
