"""Keep tokens near one size where they enter the norms, while curves that cap large ones are bent straight.

Without a cap, a token that comes in a few times as large as the others grows without bound from block to block, and
through the attention it spoils all that follow it in its text. Two things keep that from happening:

- a penalty on each token at each norm, of the square of log(size / (`_USUAL` × the median token's)) where that is
  positive. A logarithm, since sizes may be off by orders of magnitude, and a gradient must not;
- rows in which a token has run away, by over `RUN_AWAY` times, leave the loss. Their divergence says nothing, and its
  gradient has gone through every block in which the token grew: one such step undid a hundred others. They count in
  the penalty alone, up to the norm where it happened.

Text holds too few of the rare pieces of words that run away first, so arbitrary tokens count, too: of some rows of
them, the one whose largest token is the largest. That row is distilled as well: without it a model whose curves were
bent on some kinds of text lost much on others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unnorm.metrics.batches import counted_tokens
from unnorm.surgery.outliers import sizes
from unnorm.surgery.passes import hooked

Batch = dict[str, torch.Tensor]
Run = Callable[[Mapping[str, torch.Tensor]], Any]
_USUAL = 1.3
RUN_AWAY = 8.0
"""From how many times the median token's size at a norm on a token has run away."""
_WEIGHT = 3.0
"""Of the penalty beside the divergence, in nats."""
_ARBITRARY = 64
"""How many arbitrary tokens go with a forward pass."""
_DRAWN = 4
"""Of how many rows of arbitrary tokens the worst one is taken."""


def in_medians(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """Each token's size at a norm in units of the median one, which has no gradient: fp32 [B, T].

    x: what comes in, [B, T, ...]. keep: where tokens are, bool [B, T]. A token whose size is 0 or no finite number has
    no gradient either: it would not be a number, whatever it is multiplied by.
    """
    x = x.flatten(2)
    size = sizes(x)
    sized = size.detach().isfinite() & (size.detach() > 0)
    if not sized.all():
        size = torch.where(sized, sizes(torch.where(sized[..., None], x, 1.0)), size.detach())
    return size / size.detach()[keep].nanmedian()


class StreamSizes:
    """Watches the inputs of `norms`, in execution order, in a model's forward passes."""

    def __init__(self, norms: Sequence[nn.Module]) -> None:
        self.norms = list(norms)
        self.counts = True
        """Whether sizes count in what is minimized now."""
        self.seen: dict[int, torch.Tensor] = {}
        self.keep = torch.ones(0)
        self._judged: tuple[torch.Tensor, torch.Tensor] | None = None

    @contextmanager
    def watching(self, batch: Mapping[str, torch.Tensor], graded: bool = True) -> Iterator[None]:
        """While open, what comes into the norms is kept; batch: what the model runs on, [B, T].

        graded: of forward passes with a gradient; False: of those without.
        """

        def see(norm: nn.Module, args: Any) -> None:
            if torch.is_grad_enabled() is graded and args[0].shape[:2] == self.keep.shape:
                self.seen[id(norm)] = args[0]

        self.keep = counted_tokens(batch)
        with hooked([norm.register_forward_pre_hook(see) for norm in self.norms]):
            try:
                yield
            finally:
                self.seen.clear()
                self._judged = None

    @staticmethod
    def arbitrary(batch: Mapping[str, torch.Tensor], vocabulary: int) -> dict[str, torch.Tensor]:
        """Rows of tokens drawn from all of the vocabulary; others for another batch, the same for the same one."""
        ids = batch["input_ids"]
        generator = torch.Generator().manual_seed(int(ids.sum()))
        drawn = torch.randint(vocabulary, (_DRAWN, min(_ARBITRARY, ids.shape[1])), generator=generator)
        return {"input_ids": drawn.to(ids.device)}

    def largest(self, batch: Mapping[str, torch.Tensor], run: Run) -> torch.Tensor:
        """Of each row of a batch the largest token at any norm, in units of the median one there: fp32 [B], infinite
        where it is no number.

        run: makes the model run on the batch; without a gradient here.
        """
        with torch.no_grad(), self.watching(batch, graded=False):
            run(batch)
            largest = torch.zeros(len(self.keep), device=self.keep.device)
            for x in self.seen.values():
                ratio = in_medians(x, self.keep).masked_fill(~self.keep, 0.0)
                largest = largest.maximum(ratio.nan_to_num(float("inf"), float("inf")).amax(1))
        return largest

    def worst(self, batch: Mapping[str, torch.Tensor], run: Run) -> Batch:
        """The one row of a batch in which a token is the largest. run: as for `largest`."""
        row = int(self.largest(batch, run).argmax())
        return {name: tensor[row : row + 1] for name, tensor in batch.items()}

    def judged(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The penalty in nats, an fp32 scalar with gradient, summed over the tokens of the pass that was watched; and
        in which rows a token has run away, bool [B]. Asked for once the pass is over, it is worked out once."""
        if self._judged is None:
            self._judged = self._judge()
        return self._judged

    def _judge(self) -> tuple[torch.Tensor, torch.Tensor]:
        away = torch.zeros(len(self.keep), dtype=torch.bool, device=self.keep.device)
        penalty = torch.zeros((), device=self.keep.device)
        for x in self.seen.values():
            ratio = in_medians(x, self.keep).nan_to_num(float("inf"))  # what is no number has run away, too
            counts = self.keep & ~away[:, None]
            over = (ratio.clamp(_USUAL, RUN_AWAY) / _USUAL).log().square()
            penalty = penalty + over.masked_fill(~counts, 0.0).sum()
            away = away | ((ratio.detach() > RUN_AWAY) & self.keep).any(1)
        return _WEIGHT * penalty, away
