"""Options of the command line, looked at before anything is done: what they may be, as people write them, and what they
are called."""

import os
import re
from collections.abc import Iterable
from math import isfinite
from typing import Annotated, Any

import typer

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.nearest import did_you_mean

ReportTo = Annotated[
    list[str] | None, typer.Option(help="Send each step to a tracker: tensorboard, wandb, trackio, mlflow.")
]

_NAMES = {
    "models": "MODEL",
    "datasets": "DATA",
    "source": "DATA",
    "arms": "--to",
    "strategies": "--strategy",
    "seeds": "--seed",
    "policies": "--policy",
    "r": "--lora-rank",
    "targets": "--lora-targets",
    "dropout": "--lora-dropout",
    "every_tokens": "--evaluate-every",
}
"""Of settings whose option is not called after them."""


def option_of(location: tuple[int | str, ...]) -> str:
    """What the user calls the setting at `location`."""
    if "policies" in location:
        after = location.index("policies") + 1
        return " ".join(["--policy", *map(str, location[after : after + 1])])
    if location == ("evaluation", "tokens"):
        return "--evaluation-tokens"
    key = next((str(part) for part in reversed(location) if isinstance(part, str)), "")
    return _NAMES.get(key, "--" + key.replace("_", "-"))


def check_choice(option: str, value: str, known: Iterable[str]) -> None:
    """Refuse a word that is none of `known`."""
    known = list(known)
    if value not in known:
        raise SettingsError(f"{option} is one of {', '.join(known)}, not {value!r}.{did_you_mean(value, known)}")


def chosen_sharding(asked: str) -> Any:
    """How several devices share a model: `--sharding`, or what `accelerate launch` was told.

    Its FSDP is done here, not by accelerate, which would shard the model once more.
    """
    check_choice("--sharding", asked, ("ddp", "fsdp"))
    if os.environ.pop("ACCELERATE_USE_FSDP", "false").lower() != "true":
        return asked
    if os.environ.get("FSDP_VERSION", "1") != "2":
        raise SettingsError("this is FSDP2 alone. Launch with --use_fsdp --fsdp_version 2, or use --sharding fsdp.")
    return "fsdp"


def finite(value: float | None) -> float | None:
    """For options of numbers, as typer's callback: NaN and infinity pass its own limits."""
    if value is not None and not isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


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
