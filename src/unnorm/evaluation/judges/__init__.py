"""Judges: each says which of two answers it prefers. One small interface, a file a judge; no statistics.

A judge is known by its kind: one of unnorm's, or `FILE.py:NAME`, one of the user's own.
"""

import inspect
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from math import isfinite, nan
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, NamedTuple

import orjson

from unnorm.evaluation.judges.interface import AnswerPair, Judge, Verdict
from unnorm.foundation.errors import RunError, SettingsError, UnnormError
from unnorm.foundation.hashing import digest_file
from unnorm.foundation.nearest import did_you_mean
from unnorm.foundation.own_code import run_file


class Listed(NamedTuple):
    """load: what makes the judge, imported when it is asked for. settings: what it takes, and what each is."""

    load: str
    settings: dict[str, str]


JUDGES = {
    "pairrm": Listed("unnorm.evaluation.judges.pairrm:load_pairrm", {"model": "a PairRM; it has its own"}),
    "reward": Listed(
        "unnorm.evaluation.judges.reward:load_reward",
        {"model": "the hub id or folder of a reward model"},
    ),
    "openai": Listed(
        "unnorm.evaluation.judges.openai:load_openai",
        {"model": "the name of the model at the endpoint", "base_url": "the endpoint, up to /v1"},
    ),
    "likelihood": Listed(
        "unnorm.evaluation.judges.likelihood:load_likelihood",
        {"model": "the hub id or folder of a language model to be the reference"},
    ),
}
"""Kind -> where it is made. A setting without a default in the function that makes it must be given."""

KIND_HELP = f"{', '.join(JUDGES)} (which is weak, and works offline); or one of your own, FILE.py:NAME"

_OWN = re.compile(r"(?P<file>.+\.py):(?P<name>[A-Za-z_]\w*)")
_MUST_HAVE = ("sees_order", "batch", "caveat", "identity", "judge")


class OwnJudge:
    """A judge of the user's own. What its file holds is part of its identity: other code is another judge."""

    def __init__(self, kind: str, judge: Judge) -> None:
        missing = [name for name in _MUST_HAVE if not hasattr(judge, name)]
        if missing:
            raise SettingsError(f"the judge {kind} has no {', '.join(missing)}. docs/extending.md shows a whole one.")
        self.kind, self._judge = kind, judge
        self.sees_order, self.batch, self.caveat = judge.sees_order, judge.batch, judge.caveat
        name = kind.replace("\\", "/").rpartition("/")[2]  # wherever the file lies
        try:  # as it will be read from a file, where a tuple is a list
            identity = orjson.loads(orjson.dumps(judge.identity))
        except TypeError as error:
            raise SettingsError(f"the identity of the judge {kind} cannot be written as JSON: {error}.") from error
        self.identity = {**identity, "kind": name, "code": code_of(kind)}

    def judge(self, pairs: Sequence[AnswerPair]) -> list[Verdict]:
        try:
            verdicts = list(self._judge.judge(pairs))
        except UnnormError:
            raise
        except Exception as error:  # whatever the user's code raises
            raise RunError(f"the judge {self.kind} failed: {type(error).__name__}: {error}.") from error
        if len(verdicts) != len(pairs) or not all(isinstance(verdict, Verdict) for verdict in verdicts):
            raise RunError(f"the judge {self.kind} must give a list with one Verdict for each of {len(pairs)} pairs.")
        return [replace(verdict, preference=self._number(verdict.preference)) for verdict in verdicts]

    def _number(self, preference: Any) -> float | None:
        """The preference as Python's own number, which a file can hold: a judge may give numpy's or torch's."""
        if preference is None:
            return None
        try:
            number = nan if isinstance(preference, str) else float(preference)
        except (TypeError, ValueError, RuntimeError):  # the last is torch's, of several numbers
            number = nan
        if not isfinite(number):
            raise RunError(
                f"the judge {self.kind} gave the preference {preference!r}. It is a finite number, 0 for a tie, or "
                "None for no verdict. Verdicts so far are kept."
            )
        return number


def load_judge(kind: str, model: str | None = None, base_url: str | None = None) -> Judge:
    """The judge `kind` with its `model`: a hub id or folder, or for `openai` the name that the endpoint knows.

    `pairrm` has a model of its own if none is given. base_url: of `openai`. A setting that is missing or belongs to
    another judge is a `SettingsError`; a model that cannot be loaded a `ModelError`.
    """
    return judge_maker(kind, model, base_url)()


def judge_maker(kind: str, model: str | None = None, base_url: str | None = None) -> Callable[[], Judge]:
    """What loads the judge. Whatever is wrong with the settings shows now, before any model is loaded."""
    check_kind(kind)
    own = kind not in JUDGES
    given = {name: value for name, value in (("model", model), ("base_url", base_url)) if value is not None}
    make = _made_by(kind) if own else resolve_name(JUDGES[kind].load)
    takes = inspect.signature(make).parameters
    for name in given.keys() - takes:
        others = [other for other, listed in JUDGES.items() if name in listed.settings]
        raise SettingsError(f"{_option(name)} belongs to the judge {', '.join(others)}; {kind} takes none.")
    for name, parameter in takes.items():
        if parameter.default is parameter.empty and name not in given:
            what = f": {JUDGES[kind].settings[name]}" if not own else ""
            raise SettingsError(f"the judge {kind} needs {_option(name)}{what}.")
    return lambda: OwnJudge(kind, make(**given)) if own else make(**given)


def check_kind(kind: str) -> None:
    """Refuse what is neither the kind of a judge nor `FILE.py:NAME`. Reads no file."""
    if kind not in JUDGES and not _OWN.fullmatch(kind):
        raise SettingsError(
            f"there is no judge {kind!r}.{did_you_mean(kind, JUDGES)} Known judges: {', '.join(JUDGES)}. "
            "One of your own is FILE.py:NAME."
        )


def code_of(kind: str) -> str | None:
    """Digest of the file that a judge of the user's own stands in; None for one of unnorm's."""
    own = _OWN.fullmatch(kind)
    return digest_file(Path(own["file"]).expanduser()) if own else None


def _made_by(kind: str) -> Any:
    """The class or function in the user's file that makes the judge."""
    file, _, name = kind.rpartition(":")
    made = getattr(run_file(file, "judges", f"the judge {kind!r}"), name, None)
    if not callable(made):
        raise SettingsError(f"{file} defines no {name!r}, which the judge {kind!r} names.")
    return made


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
