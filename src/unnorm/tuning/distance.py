"""How far a swapped model is from its original, on tokens that neither learnt from: KL, loss and gap."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from math import isfinite
from typing import Any

import torch

from unnorm.foundation import ranks
from unnorm.foundation.errors import DataError, NonFiniteError
from unnorm.foundation.progress import track
from unnorm.metrics.divergence import Compared, compare
from unnorm.surgery.base import under_adapters
from unnorm.surgery.passes import in_eval

USABLE = 0.10
"""A gap above this share is said to be no usable model."""


@dataclass(frozen=True)
class Distance:
    """On held-out tokens. kl: KL(original ‖ model) in nats a token; agreement: share of tokens after which both find
    the same next one likeliest; loss, original_loss: nats a token of the answers, or of all text that has no turns;
    tokens: how many of these there were; broken: rows whose logits are not finite, which count in nothing else.

    Prompts do not count in the losses. Much of them is a template's, which tells nothing and which an original predicts
    badly, so that a gap over all tokens comes out far too small.
    """

    kl: float
    agreement: float
    loss: float
    original_loss: float
    tokens: int
    broken: int = 0

    @property
    def gap(self) -> float:
        """loss / original_loss − 1."""
        return self.loss / self.original_loss - 1

    @property
    def usable(self) -> bool:
        return self.gap <= USABLE

    def describe(self) -> str:
        """One line for people."""
        return (
            f"held-out loss {self.loss:.4f} against the original's {self.original_loss:.4f} nats a token: "
            f"gap {self.gap:+.1%} ({self.tokens:,} tokens)"
        )

    def to_dict(self) -> dict[str, Any]:
        found = {**asdict(self), "gap": self.gap}
        if not self.broken:
            del found["broken"]
        return found


Sums = tuple[Compared, int]
"""Of some rows, and how many others were broken."""
_NOTHING = Compared(0.0, 0, 0, 0.0, 0.0, 0)


def _added(one: Sums, other: Sums) -> Sums:
    sums = Compared(*(a + b for a, b in zip(one[0], other[0], strict=True)))  # type: ignore[arg-type]
    return sums, one[1] + other[1]


def _unbroken(found: Compared, batch: Mapping[str, torch.Tensor], again: Callable[..., Compared]) -> Sums:
    """The sums `found` of a batch, or of those of its rows that are finite where they are not."""
    if isfinite(found.loss) and isfinite(found.kl):
        return found, 0
    rows = len(batch["input_ids"])
    if rows == 1:
        return _NOTHING, 1
    pieces = [{name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(rows)]
    return reduce(_added, (_unbroken(again(piece), piece, again) for piece in pieces))


@torch.no_grad()
def distance(
    model: Any,
    original: Any,
    batches: Sequence[Mapping[str, torch.Tensor]],
    *,
    quiet: bool = True,
    title: str = "measuring",
    broken_apart: bool = False,
) -> Distance:
    """The distance of `model` (perhaps with adapters around it) from `original` on batches of `input_ids` [B, T] and
    other model inputs, on the model's device, each in the dtype of its weights. `labels` [B, T] are -100 at tokens
    that are not to count in the losses; without them all count. broken_apart: rows in which the model's logits are not
    finite are counted apart, and no figure holds them; else they make the figures NaN or infinite. Not for a sharded
    model.

    Under torch.distributed every process must call it with the same batches; they share the work. Raises `DataError` if
    there is nothing to predict, `NonFiniteError` if the original's loss is not finite, or every row is broken.
    """
    device = next(model.parameters()).device
    heads = [under_adapters(m).get_output_embeddings() for m in (model, original)]
    total: Sums = (_NOTHING, 0)

    def measured(batch: Mapping[str, torch.Tensor]) -> Compared:
        return compare(model, heads[0], original, heads[1], batch)

    with in_eval(model), in_eval(original):
        shown = track(batches, title, len(batches), quiet=quiet)
        for batch, counts in ranks.shared(shown):
            here = {name: tensor.to(device) for name, tensor in batch.items()}
            found = measured(here)
            both = _unbroken(found, here, measured) if broken_apart and isfinite(found.original_loss) else (found, 0)
            if counts:
                total = _added(total, both)
    sums, broken = reduce(_added, ranks.of_all(total))
    if broken and not sums.predicted:
        raise NonFiniteError("the model's logits are not finite in any held-out row.")
    if not sums.predicted:
        raise DataError("there is nothing to measure on: the held-out rows hold no token that follows another.")
    if not isfinite(sums.original_loss):
        raise NonFiniteError("the original's logits are not finite on held-out tokens: its weights are damaged.")
    return Distance(
        kl=sums.kl / sums.tokens,
        agreement=sums.agreed / sums.tokens,
        loss=sums.loss / sums.predicted,
        original_loss=sums.original_loss / sums.predicted,
        tokens=sums.predicted,
        broken=broken,
    )
