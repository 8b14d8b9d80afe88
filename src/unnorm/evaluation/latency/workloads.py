"""What is timed: a prompt being read, tokens being added to it, a training step; always of fixed size, eos or not."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import StaticCache

Kind = Literal["prefill", "decode", "train", "prompts"]
Mode = Literal["eager", "compile", "cuda-graphs"]
Sample = Callable[[int], float]
"""Runs once, for the block of that number, and gives the seconds that it took."""


class Workload(BaseModel):
    """prefill: time to the first token of prompts [batch_size, length]. decode: time of `new_tokens` tokens after them,
    by the one. train: a forward, a backward and an AdamW step (of learning rate 0) on such rows. prompts: of given
    prompts, one a block, the time of reading it and adding `new_tokens`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: Kind = "prefill"
    batch_size: int = Field(default=1, gt=0)
    length: int = Field(default=128, gt=0, description="tokens of each prompt or row")
    new_tokens: int = Field(default=32, gt=0)

    @property
    def name(self) -> str:
        if self.kind == "prompts":
            return f"prompts, {self.new_tokens} new tokens"
        tail = f" + {self.new_tokens}" if self.kind == "decode" else ""
        return f"{self.kind} {self.batch_size} × {self.length}{tail}"

    @property
    def positions(self) -> int:
        """The most positions that a model needs for it."""
        return self.length + (self.new_tokens if self.kind == "decode" else 0)


def prepare(
    model: Any,
    workload: Workload,
    prompts: Sequence[Sequence[int]] = (),
    *,
    fixed_cache: bool = False,
    seed: int = 0,
) -> Sample:
    """How `workload` is run on `model` once. Its parameters are not changed. prompts: token ids, for `prompts`.

    fixed_cache: keys and values lie in a cache of the final size from the start, so that no shape changes while tokens
    are added: what compiled and captured models need.
    """
    device = model.get_input_embeddings().weight.device
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(seed)
    shape = (workload.batch_size, workload.length)
    tokens = torch.randint(vocabulary, shape, generator=generator).to(device)
    if workload.kind == "prefill":
        return lambda block: _timed(device, lambda: _read(model, tokens, workload.length if fixed_cache else None))
    if workload.kind == "decode":
        return _decoder(model, tokens, workload, device, fixed_cache)
    if workload.kind == "train":
        return _trainer(model, tokens, device)
    room = max(map(len, prompts)) + workload.new_tokens if fixed_cache else None
    ids = [torch.tensor([list(prompt)], device=device) for prompt in prompts]

    def answer(block: int) -> float:
        prompt = ids[block % len(ids)]
        return _timed(device, lambda: _add(model, _read(model, prompt, room), workload.new_tokens))

    return answer


def _decoder(model: Any, tokens: torch.Tensor, workload: Workload, device: torch.device, fixed_cache: bool) -> Sample:
    def sample(block: int) -> float:
        # a fresh cache each time: not every kind can be cut back
        read = _read(model, tokens, workload.positions if fixed_cache else None)
        return _timed(device, lambda: _add(model, read, workload.new_tokens))

    return sample


def _trainer(model: Any, tokens: torch.Tensor, device: torch.device) -> Sample:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0)

    def step() -> None:
        model(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return lambda block: _timed(device, step)


@torch.no_grad()
def _read(model: Any, tokens: torch.Tensor, room: int | None) -> Any:
    """The prompts' cache and most likely next tokens. Logits of the last position only, as a server computes them.

    room: positions of a cache of fixed size; None: one that grows.
    """
    if room is None:
        return model(input_ids=tokens, use_cache=True, logits_to_keep=1)
    cache = StaticCache(config=model.config, max_cache_len=room)
    torch.compiler.cudagraph_mark_step_begin()
    return model(input_ids=tokens, past_key_values=cache, use_cache=True, logits_to_keep=1)


@torch.no_grad()
def _add(model: Any, read: Any, count: int) -> None:
    cache, token = read.past_key_values, read.logits[:, -1:].argmax(-1)
    for _ in range(count):
        torch.compiler.cudagraph_mark_step_begin()
        out = model(input_ids=token, past_key_values=cache, use_cache=True, logits_to_keep=1)
        cache, token = out.past_key_values, out.logits[:, -1:].argmax(-1)


def _timed(device: torch.device, run: Callable[[], Any]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
