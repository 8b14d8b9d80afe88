"""What scores say: loss, perplexity, accuracy and bits, each with its interval; and how two models differ.

Intervals are 95 % bootstrap intervals over conversations: tokens of one conversation are not independent.
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np

from unnorm.evaluation.intervals import Estimate, interval
from unnorm.evaluation.scores import SUMS, Scores, Tokens
from unnorm.foundation.errors import DataError

_NATS, _TOKENS, _TOP1, _TOP5, _BYTES = range(len(SUMS))


@dataclass(frozen=True)
class Losses:
    """Of one set of tokens: nats_per_token, nats_per_byte (comparable between tokenizers), top1 and top5 (shares of
    tokens); perplexity is exp(nats_per_token)."""

    nats_per_token: Estimate
    perplexity: Estimate
    nats_per_byte: Estimate | None
    top1: Estimate
    top5: Estimate
    tokens: int
    bytes: int
    conversations: int

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Difference:
    """Of two models over the same conversations, first − second: `per` token or byte, with the loss of each.

    relative: first / second − 1.
    """

    per: Literal["token", "byte"]
    first: float
    second: float
    difference: Estimate
    relative: Estimate
    conversations: int
    left_out: int
    """Conversations that only one of them has."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def losses(scores: Scores, tokens: Tokens = "trained", *, seed: int = 0) -> Losses:
    """What `scores` say of the trained tokens, or of all. A `DataError` where there is none."""
    sums = _sums(scores, tokens)
    if not len(sums):
        raise DataError("there is no token to evaluate on.")
    has_text = bool(sums[:, _BYTES].sum())
    pairs = [(_NATS, _TOKENS), (_TOP1, _TOKENS), (_TOP5, _TOKENS), *([(_NATS, _BYTES)] if has_text else [])]
    nats, top1, top5, *per_byte = _intervals(sums, lambda s: np.stack([s[a] / s[b] for a, b in pairs]), seed)
    low, high = (None if bound is None else _exp(bound) for bound in (nats.low, nats.high))
    return Losses(
        nats_per_token=nats,
        perplexity=Estimate(_exp(nats.value), low, high),
        nats_per_byte=per_byte[0] if has_text else None,
        top1=top1,
        top5=top5,
        tokens=int(sums[:, _TOKENS].sum()),
        bytes=int(sums[:, _BYTES].sum()),
        conversations=len(sums),
    )


def by_group(scores: Scores, *, seed: int = 0) -> dict[str, Losses]:
    """Of trained tokens, the same for each group of conversations, by name; groups without one are left out."""
    found = {}
    for group in sorted(set(scores.groups)):
        part = scores.of(scores.groups == group)
        if len(_sums(part, "trained")):
            found[group] = losses(part, seed=seed)
    return found


def by_position(scores: Scores, tokens: Tokens = "trained") -> list[dict[str, Any]]:
    """For each range of positions in the conversation (1, 2 to 3, 4 to 7, ...): loss, accuracy, and tokens."""
    found = []
    for k, (nats, count, top1, top5) in enumerate(scores.positions[("trained", "all").index(tokens)]):
        if count:
            place = {"from": 2**k, "to": 2 ** (k + 1) - 1}
            sums = {"nats_per_token": nats, "top1": top1, "top5": top5}
            rates = {name: float(value / count) for name, value in sums.items()}
            found.append({**place, **rates, "tokens": int(count)})
    return found


def compare(first: Scores, second: Scores, tokens: Tokens = "trained", *, seed: int = 0) -> Difference:
    """How much higher the first model's loss is, paired over the conversations that both have scored.

    Per token if both read the same tokens, else per byte. A `DataError` where they share no conversation.
    """
    shared, mine, theirs = np.intersect1d(first.keys, second.keys, return_indices=True)
    one, other = getattr(first, tokens)[mine], getattr(second, tokens)[theirs]
    same = bool((first.ids[mine] == second.ids[theirs]).all())
    unit = _TOKENS if same else _BYTES
    counted = (one[:, unit] > 0) & (other[:, unit] > 0)
    one, other = one[counted], other[counted]
    if not len(one):
        raise DataError("the two have no conversation in common that holds such a token.")
    table = np.stack([one[:, _NATS], one[:, unit], other[:, _NATS], other[:, unit]], 1)

    def both(s: Any) -> np.ndarray:
        mine, theirs = s[0] / s[1], s[2] / s[3]
        return np.stack([mine - theirs, mine / theirs - 1])

    difference, relative = _intervals(table, both, seed)
    total = table.sum(0)
    return Difference(
        per="token" if same else "byte",
        first=float(total[0] / total[1]),
        second=float(total[2] / total[3]),
        difference=difference,
        relative=relative,
        conversations=len(one),
        left_out=len(first.keys) + len(second.keys) - 2 * len(shared),
    )


def _sums(scores: Scores, tokens: Tokens) -> np.ndarray:
    sums: np.ndarray = getattr(scores, tokens)
    return sums[sums[:, _TOKENS] > 0]


def _intervals(table: np.ndarray, statistic: Callable[[Any], np.ndarray], seed: int) -> list[Estimate]:
    """`statistic` takes the sums of the columns of `table` [n, columns] and gives [k] estimates."""
    values = statistic(table.sum(0))
    if len(table) < 2:
        return [Estimate(float(value), None, None) for value in values]

    def of_sums(*columns: np.ndarray, axis: int) -> np.ndarray:
        return statistic([column.sum(axis) for column in columns])

    bounds = zip(values, *interval(of_sums, tuple(table.T), seed), strict=True)
    return [Estimate(float(value), float(low), float(high)) for value, low, high in bounds]


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf
