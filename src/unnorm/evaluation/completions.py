"""Completions: what a model answers to prompts, in batches whose composition changes nothing."""

import time
from collections.abc import Iterator, Sequence
from typing import Any, Literal, NamedTuple

import torch

from unnorm.evaluation.batching_probe import batching_is_clean
from unnorm.evaluation.sampling import GumbelSampler
from unnorm.surgery.base import context_length
from unnorm.surgery.vocabulary import check_ids


class Ask(NamedTuple):
    """Token ids of a prompt, and how it is answered: temperature 0 is greedy; `seed` draws its own noise."""

    ids: list[int]
    temperature: float = 0.0
    seed: int = 0


class Completion(NamedTuple):
    """An answer: its text and token ids without eos, how it ended, and the seconds of the batch it was made in.

    prompt_tokens: those the model saw; cut: how many of the prompt's first tokens it did not, for lack of room.
    """

    text: str
    token_ids: list[int]
    finish_reason: Literal["stop", "length"]
    seconds: float
    prompt_tokens: int
    cut: int


def complete(
    model: Any, tokenizer: Any, asks: Sequence[Ask], *, max_new_tokens: int = 64, batch_size: int = 16
) -> list[Completion]:
    """An answer to each of `asks`, in order. See `complete_each`."""
    found = dict(complete_each(model, tokenizer, asks, max_new_tokens=max_new_tokens, batch_size=batch_size))
    return [found[number] for number in range(len(asks))]


@torch.no_grad()
def complete_each(
    model: Any, tokenizer: Any, asks: Sequence[Ask], *, max_new_tokens: int, batch_size: int
) -> Iterator[tuple[int, Completion]]:
    """Number and answer of each of `asks`, longest prompts first: answers come a batch at a time.

    Answers end at eos (the tokenizer's, or one that the model's settings name) or after `max_new_tokens`. Prompts are
    padded on the left and masked; on a model that lets padding leak, each is answered alone. Of a prompt that is too
    long for the model's context beside `max_new_tokens`, the end is kept.
    """
    if not asks:
        return
    room = max(1, (context_length(model) or 2**30) - max_new_tokens)
    order = sorted(range(len(asks)), key=lambda number: -min(len(asks[number].ids), room))
    size = batch_size if batch_size == 1 or batching_is_clean(model) else 1
    was_training = model.training
    model.eval()
    try:
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            answers = _answer(model, tokenizer, [asks[number] for number in batch], room, max_new_tokens)
            yield from zip(batch, answers, strict=True)
    finally:
        model.train(was_training)


def _answer(model: Any, tokenizer: Any, asks: Sequence[Ask], room: int, max_new_tokens: int) -> list[Completion]:
    from transformers import GenerationConfig, LogitsProcessorList

    started = time.perf_counter()
    device = model.get_input_embeddings().weight.device
    kept = [ask.ids[-room:] for ask in asks]
    length = max(map(len, kept))
    ends = _ends(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    for row in kept:
        check_ids(model, [pad, *row])
    tokens = torch.full((len(asks), length), pad, device=device)
    mask = torch.zeros_like(tokens)
    for number, row in enumerate(kept):
        tokens[number, length - len(row) :] = torch.tensor(row, device=device)
        mask[number, length - len(row) :] = 1
    out = model.generate(
        input_ids=tokens,
        attention_mask=mask,
        generation_config=GenerationConfig(
            max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad, eos_token_id=ends
        ),
        logits_processor=LogitsProcessorList([GumbelSampler([a.temperature for a in asks], [a.seed for a in asks])]),
    )
    seconds = time.perf_counter() - started
    answers = []
    for ask, row, prompt in zip(asks, out[:, length:].tolist(), kept, strict=True):
        stop = next((at for at, token in enumerate(row) if token in ends), None)
        ids = row if stop is None else row[:stop]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        reason: Literal["stop", "length"] = "length" if stop is None else "stop"
        answers.append(Completion(text, ids, reason, seconds, len(prompt), len(ask.ids) - len(prompt)))
    return answers


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's eos first, then what the model's generation settings add."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(token for token in (tokenizer.eos_token_id, *more) if token is not None))
