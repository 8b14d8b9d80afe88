"""How far a swapped model is from its original, on tokens that neither learnt from: KL, loss and gap."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from math import isfinite, log
from typing import Any

import torch

from unnorm.foundation import ranks
from unnorm.foundation.errors import DataError, NonFiniteError
from unnorm.foundation.progress import track
from unnorm.metrics.divergence import Compared, compare
from unnorm.surgery.base import under_adapters
from unnorm.surgery.packed_attention import packed_attention
from unnorm.surgery.passes import in_eval

USABLE = 0.10
"""A gap above this share is said to be no usable model."""


@dataclass(frozen=True)
class Distance:
    """On held-out tokens. kl: KL(original ‖ model) in nats a token; agreement: share of tokens after which both find
    the same next one likeliest; loss, original_loss: nats a token of the answers, or of all text that has no turns;
    tokens: how many of these there were; broken: rows of which nothing is left, which count in nothing else.

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

    def no_farther_than(self, start: "Distance") -> bool:
        """Whether the KL is no larger than at the start; a start that is no number is farther than any."""
        return isfinite(self.kl) and not self.kl > start.kl

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


def _row_by_row(
    batch: Mapping[str, torch.Tensor], measured: Callable[[Mapping[str, torch.Tensor]], Compared], chance: float
) -> Sums:
    """The sums of those rows of a batch of which something is left, and how many others there are.

    chance: the loss of a guess, in nats a token. A row is broken where it is worse by that than the original.
    """

    def one(row: Mapping[str, torch.Tensor]) -> Sums:
        found = measured(row)
        worse = found.loss - found.original_loss
        left = isfinite(found.kl) and isfinite(worse) and worse <= chance * found.predicted
        return (found, 0) if left or not isfinite(found.original_loss) else (_NOTHING, 1)

    rows = ({name: tensor[i : i + 1] for name, tensor in batch.items()} for i in range(len(batch["input_ids"])))
    return reduce(_added, map(one, rows))


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
    that are not to count in the losses; without them all count. broken_apart: rows of which nothing is left are
    counted apart, and no figure holds them: the model's logits are not finite there, or its loss is that of a guess,
    ln(vocabulary) nats a token, or more above the original's.

    Under torch.distributed every process must call it with the same batches; they share the work. Raises `DataError` if
    there is nothing to predict, `NonFiniteError` if the original's loss is not finite, or every row is broken.
    """
    device = next(model.parameters()).device
    heads = [under_adapters(m).get_output_embeddings() for m in (model, original)]
    chance = log(heads[1].weight.shape[0])
    total: Sums = (_NOTHING, 0)

    def measured(batch: Mapping[str, torch.Tensor]) -> Compared:
        return compare(model, heads[0], original, heads[1], batch)

    with in_eval(model), in_eval(original), packed_attention(model, original):
        shown = track(batches, title, len(batches), quiet=quiet)
        for batch, counts in ranks.shared(shown):
            here = {name: tensor.to(device) for name, tensor in batch.items()}
            found = _row_by_row(here, measured, chance) if broken_apart else (measured(here), 0)
            if counts:
                total = _added(total, found)
    sums, broken = reduce(_added, ranks.of_all(total))
    if broken and not sums.predicted:
        raise NonFiniteError("nothing is left of the model: no held-out row is better than a guess.")
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
