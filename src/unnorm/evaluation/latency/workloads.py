"""What is timed: a prompt being read, tokens being added to it, a training step; always of fixed size, eos or not."""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field

from unnorm.evaluation.latency.decoders import Captured, Fixed, Growing
from unnorm.foundation.errors import SettingsError

WorkloadKind = Literal["prefill", "decode", "train", "prompts"]
RunMode = Literal["eager", "compile", "cuda-graphs", "compiled-cuda-graphs"]
Sample = Callable[[int], float]
"""Runs once, for the block of that number, and gives the seconds that it took."""


class Workload(BaseModel):
    """prefill: time to the first token of prompts [batch_size, length]. decode: time of `new_tokens` tokens after them,
    by the one. train: a forward, a backward and an AdamW step (of learning rate 0) on such rows. prompts: of given
    prompts, one a block, the time of reading it and adding `new_tokens`."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    kind: WorkloadKind = "prefill"
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
    def tokens(self) -> int:
        """Tokens of a run: those that are added, or else those that are read."""
        return self.batch_size * (self.new_tokens if self.kind in ("decode", "prompts") else self.length)

    @property
    def positions(self) -> int:
        """The most positions that a model needs for it."""
        return self.length + (self.new_tokens if self.kind == "decode" else 0)


def prepare(
    model: Any,
    workload: Workload,
    prompts: Sequence[Sequence[int]] = (),
    *,
    mode: RunMode = "eager",
    compiled: Callable[..., Any] | None = None,
    seed: int = 0,
) -> Sample:
    """How `workload` is run on `model` once. Its parameters are not changed. prompts: token ids, for `prompts`.

    compiled: what the compiled modes call instead of `model`. In every mode but eager tokens are added to a cache of
    fixed size and place, and prompts, but for `prefill`, are read as in eager mode, as transformers' generate does.
    """
    device = model.get_input_embeddings().weight.device
    vocabulary = model.config.get_text_config().vocab_size
    generator = torch.Generator().manual_seed(seed)
    shape = (workload.batch_size, workload.length)
    tokens = torch.randint(vocabulary, shape, generator=generator).to(device)
    if workload.kind == "train":
        if mode == "cuda-graphs":
            raise SettingsError("a training step cannot be captured by itself. Choose eager or compiled-cuda-graphs.")
        return _trainer(model if compiled is None else compiled, model, tokens, device)
    longest = max(map(len, prompts)) + workload.new_tokens if workload.kind == "prompts" else workload.positions
    decoder: Growing | Fixed | Captured
    if mode == "eager":
        decoder = Growing(model)
    elif mode == "cuda-graphs":
        decoder = Captured(model, longest)
    else:
        assert compiled is not None
        decoder = Fixed(model, compiled, longest)
    if workload.kind == "prefill":

        def read(block: int) -> float:
            decoder.ready(tokens)
            return _timed(device, lambda: decoder.read(tokens))

        return read
    if workload.kind == "decode":

        def decode(block: int) -> float:
            token = decoder.start(tokens)
            return _timed(device, lambda: decoder.add(token, workload.new_tokens))

        return decode
    ids = [torch.tensor([list(prompt)], device=device) for prompt in prompts]

    def answer(block: int) -> float:
        prompt = ids[block % len(ids)]
        return _timed(device, lambda: decoder.add(decoder.start(prompt), workload.new_tokens))

    return answer


def _trainer(run: Callable[..., Any], model: Any, tokens: torch.Tensor, device: torch.device) -> Sample:
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.0, weight_decay=0.0)

    def step() -> None:
        run(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return lambda block: _timed(device, step)


def _timed(device: torch.device, run: Callable[[], Any]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
