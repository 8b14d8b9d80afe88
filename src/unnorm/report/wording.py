"""Shares, counts and lists as people read them: one decimal, or as many as it takes to see what is meant."""

from collections.abc import Sequence


def listed(items: Sequence[str]) -> str:
    """As in `a, b and c`."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def count_of(number: int, noun: str) -> str:
    """As in `1 strategy` and `2 strategies`."""
    plural = f"{noun.removesuffix('y')}ies" if noun.endswith("y") else f"{noun}s"
    return f"{number} {noun if number == 1 else plural}"


def share(value: float) -> str:
    """Without a sign of its own."""
    return f"{value:,.{_digits(abs(value))}%}"


def signed(value: float, digits: int | None = None) -> str:
    """With a sign, and a minus that is one."""
    return f"{value:+,.{_digits(abs(value)) if digits is None else digits}%}".replace("-", "−")


def signed_interval(low: float, high: float) -> str:
    """Both ends with as many decimals as tell them apart."""
    digits = _digits(high - low)
    return f"{signed(low, digits)} to {signed(high, digits)}"


def _digits(size: float) -> int:
    return 1 if size >= 0.002 or size == 0 else 2 if size >= 0.0002 else 3
