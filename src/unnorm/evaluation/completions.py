"""Completions: what a model answers to prompts, in batches whose composition changes nothing."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import torch
from torch.nn.utils.rnn import pad_sequence
from transformers import LogitsProcessor

from unnorm.foundation.errors import SettingsError
from unnorm.surgery.base import context_length, under_adapters
from unnorm.surgery.passes import in_eval
from unnorm.surgery.vocabulary import check_ids


class GumbelSampler(LogitsProcessor):
    """Adds to each row's logits [B, V] noise of its own, so that what it draws does not depend on its batch; rows of
    temperature 0 are left alone, to be decoded greedily.

    `argmax(logits / T + g)` with g standard Gumbel noise is a draw from `softmax(logits / T)` (the Gumbel-max trick;
    Maddison et al. 2014, arXiv 1411.0030), so greedy decoding of noisy logits samples.
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int]) -> None:
        self.temperatures = list(temperatures)
        self.generators = [
            torch.Generator().manual_seed(seed) if temperature > 0 else None
            for temperature, seed in zip(temperatures, seeds, strict=True)
        ]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        noisy = scores.to(torch.float32, copy=True)  # in bf16 the noise would be rounded to a few values
        for row, generator in enumerate(self.generators):
            if generator is not None:
                uniform = torch.rand(scores.shape[-1], generator=generator, dtype=torch.float64)
                noise = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
                noisy[row] = noisy[row] / self.temperatures[row] + noise.to(noisy)
        return noisy  # type: ignore[return-value]


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


@torch.no_grad()
def complete_each(
    model: Any, tokenizer: Any, asks: Sequence[Ask], *, max_new_tokens: int, batch_size: int
) -> Iterator[tuple[int, Completion]]:
    """Number and answer of each of `asks`, longest prompts first: answers come a batch at a time.

    Answers end at eos (the tokenizer's, or one that the model's settings name) or after `max_new_tokens`. Nothing else
    of these settings counts: a penalty for repetition would count padding too, and so depend on the batch. Prompts are
    padded on the left and masked; on a model that lets padding leak, each is answered alone. Of a prompt that is too
    long for the model's context beside `max_new_tokens`, the end is kept. A `SettingsError` where there is no room for
    any.
    """
    if not asks:
        return
    most = context_length(model)
    if most is not None and max_new_tokens >= most:
        raise SettingsError(
            f"{max_new_tokens} new tokens leave no room for a prompt: the model has {most} positions. Ask for fewer "
            "(max_new_tokens)."
        )
    room = (most or 2**30) - max_new_tokens
    order = sorted(range(len(asks)), key=lambda number: -min(len(asks[number].ids), room))
    size = batch_size if batch_size == 1 or batching_is_clean(model) else 1
    with in_eval(model):
        for first in range(0, len(order), size):
            batch = order[first : first + size]
            answers = _answer(model, tokenizer, [asks[number] for number in batch], room, max_new_tokens)
            yield from zip(batch, answers, strict=True)


def _answer(model: Any, tokenizer: Any, asks: Sequence[Ask], room: int, max_new_tokens: int) -> list[Completion]:
    from transformers import GenerationConfig, LogitsProcessorList

    started = time.perf_counter()
    device = model.get_input_embeddings().weight.device
    kept = [ask.ids[-room:] for ask in asks]
    ends = _ends(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else ends[0]
    for row in kept:
        check_ids(model, [pad, *row])
    tokens, mask = _padded([torch.tensor(row, dtype=torch.int64, device=device) for row in kept], pad)
    with _without_settings(model):
        out = model.generate(
            input_ids=tokens,
            attention_mask=mask,
            generation_config=GenerationConfig(
                max_new_tokens=max_new_tokens, do_sample=False, pad_token_id=pad, eos_token_id=ends
            ),
            logits_processor=LogitsProcessorList(
                [GumbelSampler([a.temperature for a in asks], [a.seed for a in asks])]
            ),
        )
    seconds = time.perf_counter() - started
    answers = []
    for ask, row, prompt in zip(asks, out[:, tokens.shape[1] :].tolist(), kept, strict=True):
        stop = next((at for at, token in enumerate(row) if token in ends), None)
        ids = row if stop is None else row[:stop]
        text = tokenizer.decode(ids, skip_special_tokens=True)
        reason: Literal["stop", "length"] = "length" if stop is None else "stop"
        answers.append(Completion(text, ids, reason, seconds, len(prompt), len(ask.ids) - len(prompt)))
    return answers


def _padded(rows: list[torch.Tensor], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask [B, T] of rows of ids, padded on the left."""
    ids = pad_sequence(rows, batch_first=True, padding_value=pad, padding_side="left")
    mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True, padding_side="left")
    return ids, mask


@contextmanager
def _without_settings(model: Any) -> Iterator[None]:
    """While open, what `generate` is not told does not come from the model's own generation settings: repetition
    penalty, beams, forbidden words. What kind of cache it decodes with, and whether compiled, stays."""
    from transformers import GenerationConfig

    inner = under_adapters(model)
    own = inner.generation_config
    kept = {name: getattr(own, name, None) for name in ("cache_implementation", "compile_config")}
    inner.generation_config = GenerationConfig(**kept)
    try:
        yield
    finally:
        inner.generation_config = own


def _ends(model: Any, tokenizer: Any) -> list[int]:
    """Ids that end an answer: the tokenizer's eos first, then what the model's generation settings add."""
    own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    more = own if isinstance(own, list) else [own]
    return list(dict.fromkeys(token for token in (tokenizer.eos_token_id, *more) if token is not None))


@torch.no_grad()
def batching_is_clean(model: Any) -> bool:
    """Whether prompts padded on the left are answered as they would be alone: on some architectures padding leaks.

    Compares the logits by which two prompts of different length are answered in one batch, and each on its own.
    They count as equal up to a thousandth of the logits' root mean square; in bf16 and fp16, whose sums depend on the
    shapes, up to a tenth.
    """
    device = model.get_input_embeddings().weight.device
    vocabulary = model.config.get_text_config().vocab_size
    parts = [(torch.arange(n, device=device) * 31 + 7 * n) % vocabulary for n in (3, 9)]
    with in_eval(model), _without_settings(model):
        batched = _logits(model, *_padded(parts, 0))
        alone = torch.cat([_logits(model, *_padded([part], 0)) for part in parts], dim=1)
    tolerance = 0.1 if next(model.parameters()).dtype in (torch.bfloat16, torch.float16) else 1e-3
    return bool((batched - alone).abs().max() <= tolerance * alone.square().mean().sqrt())


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
