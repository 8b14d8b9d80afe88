"""Amounts as people write them on a command line: 10M tokens, 1 %."""

import re
from typing import Any

import typer

from unnorm.foundation.errors import SettingsError

_UNITS = {"": 1, "k": 10**3, "m": 10**6, "b": 10**9}


def token_count(text: str, option: str) -> int:
    """`10M`, `500k`, `1.5B` or a plain number, above 0."""
    count = _count(text)
    if count < 1:
        raise SettingsError(f"{option} is a number of tokens above 0, such as 10M, 500k or 250000, not {text!r}.")
    return count


def tokens_option(help: str, least: int = 1) -> Any:
    """An option for a number of tokens, `least` or more, written as `token_count` reads it."""

    def parse(value: int | str) -> int:
        count = _count(str(value))
        if count < least:
            raise typer.BadParameter(
                f"must be a number of tokens, {least} or more, such as 10M, 500k or 250000, not {value!r}."
            )
        return count

    return typer.Option(metavar="TOKENS", parser=parse, help=help)


def _count(text: str) -> int:
    """0 for what is no whole number."""
    found = re.fullmatch(r"(\d+(?:[_,]\d{3})*(?:\.\d+)?)\s*([kmb]?)", text.strip(), re.IGNORECASE)
    count = float(re.sub("[_,]", "", found[1])) * _UNITS[found[2].lower()] if found else 0
    return int(count) if count == int(count) else 0


def share(text: str, option: str) -> float:
    """`1%` or `0.01`, above 0."""
    found = re.fullmatch(r"(\d*\.?\d+)\s*(%?)", text.strip())
    value = float(found[1]) / (100 if found[2] else 1) if found else 0.0
    if value <= 0:
        raise SettingsError(f"{option} is a share above 0, such as 1% or 0.01, not {text!r}.")
    return value
