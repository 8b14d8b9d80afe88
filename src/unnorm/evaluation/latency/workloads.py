"""What is timed: a prompt being read, tokens being added to it, a training step; always of fixed size, eos or not.

Prompts are read, and tokens added to them, with a cache that grows, or, compiled or captured, with one that stays.
Logits are of the last position only, as a server computes them; the likeliest token follows, whatever it is.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from transformers import StaticCache

from unnorm.foundation.errors import SettingsError


class Growing:
    """Keys and values lie in a cache that grows with every token."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self._cache: Any = None

    def ready(self, tokens: torch.Tensor) -> None:
        """What `read` needs, and takes no part of its time."""

    @torch.no_grad()
    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        """The likeliest next token [B, 1] of prompts `tokens` [B, T]."""
        # a fresh cache each time: not every kind can be cut back
        out = self._model(input_ids=tokens, use_cache=True, logits_to_keep=1)
        self._cache = out.past_key_values
        return likeliest(out)

    start = read
    """The same, as the beginning of `add`."""

    @torch.no_grad()
    def add(self, token: torch.Tensor, count: int) -> None:
        """Add `token` [B, 1] to what was read, and `count` − 1 more after it."""
        for _ in range(count):
            out = self._model(input_ids=token, past_key_values=self._cache, use_cache=True, logits_to_keep=1)
            self._cache, token = out.past_key_values, likeliest(out)


class Fixed:
    """Keys and values lie in one cache of the final size, so that no shape and no address changes: a compiled model is
    compiled once, and a captured one captured once."""

    def __init__(self, model: Any, compiled: Callable[..., Any], positions: int) -> None:
        self._model, self._compiled = model, compiled
        self._cache = StaticCache(config=model.config, max_cache_len=positions)

    def ready(self, tokens: torch.Tensor) -> None:
        self.start(tokens)  # a cache is laid out by the first tokens that it is given, which a compiler cannot follow
        self.reset()
        self.read(tokens)  # and of several models' code, that of this one is found last time's way
        self.reset()

    def reset(self) -> None:
        self._cache.reset()

    @torch.no_grad()
    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        return likeliest(self._step(self._compiled, tokens))

    @torch.no_grad()
    def start(self, tokens: torch.Tensor) -> torch.Tensor:
        self.reset()
        return likeliest(self._step(self._model, tokens))

    @torch.no_grad()
    def add(self, token: torch.Tensor, count: int) -> None:
        for _ in range(count):
            token = likeliest(self._step(self._compiled, token))

    def _step(self, run: Callable[..., Any], tokens: torch.Tensor) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return run(input_ids=tokens, past_key_values=self._cache, use_cache=True, logits_to_keep=1)


class Captured:
    """As `Fixed`, but what `model` launches is captured in CUDA graphs, one for reading and one for a token."""

    def __init__(self, model: Any, positions: int) -> None:
        self._fixed = Fixed(model, model, positions)
        self._read: Any = None
        self._step: Any = None
        self.token: torch.Tensor | None = None

    def ready(self, tokens: torch.Tensor) -> None:
        if self._read is None:
            self._fixed.start(tokens)  # which lays the cache out
            self._fixed.reset()
            self._read, self.token = self._captured(lambda: self._fixed.read(tokens))
        self._fixed.reset()

    def read(self, tokens: torch.Tensor) -> torch.Tensor:
        self._read.replay()
        assert self.token is not None
        return self.token

    def start(self, tokens: torch.Tensor) -> torch.Tensor:
        if self._step is None:
            token = self.token = self._fixed.start(tokens).clone()
            self._step, _ = self._captured(lambda: token.copy_(self._fixed.read(token)))
        return self._fixed.start(tokens)

    def add(self, token: torch.Tensor, count: int) -> None:
        assert self.token is not None
        self.token.copy_(token)
        for _ in range(count):
            self._step.replay()

    @staticmethod
    @torch.no_grad()
    def _captured(run: Callable[[], torch.Tensor]) -> tuple[Any, torch.Tensor]:
        """What replays `run`, and where its result then is. Before that `run` runs once, aside."""
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            run()
        torch.cuda.current_stream().wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = run()
        return graph, found


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
        if self.kind == "prompts":  # one prompt at a time
            return self.new_tokens
        return self.batch_size * (self.new_tokens if self.kind == "decode" else self.length)

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


def likeliest(out: Any) -> torch.Tensor:
    return out.logits[:, -1:].argmax(-1)  # type: ignore[no-any-return]
