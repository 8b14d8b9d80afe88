"""Reading prompts and adding tokens to them: with a cache that grows, or, compiled or captured, with one that stays.

Logits of the last position only, as a server computes them; the likeliest token follows, whatever it is.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import StaticCache


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


def likeliest(out: Any) -> torch.Tensor:
    return out.logits[:, -1:].argmax(-1)  # type: ignore[no-any-return]
