"""Slices of a study's matrix: which combinations are in it, and what is set otherwise for some of them."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, create_model

from unnorm.data.settings import Dataset
from unnorm.foundation.nearest import did_you_mean
from unnorm.foundation.validation import Misplaced
from unnorm.tuning.settings import Strategy


class Place(NamedTuple):
    """One combination of the matrix. model and dataset by their names, as results name them."""

    model: str
    dataset: str
    arm: str
    strategy: str
    seed: int

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Place":
        """Of a record that has the five among its keys."""
        return cls(*(record[axis] for axis in cls._fields))

    @property
    def stratum(self) -> tuple[str, str, str]:
        """(model, data set, strategy): what arms are compared within."""
        return self.model, self.dataset, self.strategy

    @property
    def slot(self) -> "Slot":
        return Slot(self.model, self.dataset, self.arm, self.strategy)


class Slot(NamedTuple):
    """What a search finds one learning rate for: all seeds of it share the rate."""

    model: str
    dataset: str
    arm: str
    strategy: str

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "Slot":
        """Of a record that has the four among its keys."""
        return cls(*(record[axis] for axis in cls._fields))


def reference_of(arms: Sequence[str]) -> str:
    """The arm that the others are compared with: `original` where there is one, else the first."""
    return "original" if "original" in arms else arms[0]


class Where(BaseModel):
    """Combinations, by any of their parts: one value or several for each; what is left out may be anything."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str | list[str] | None = None
    dataset: str | list[str] | None = None
    arm: str | list[str] | None = None
    strategy: Strategy | list[Strategy] | None = None
    seed: int | list[int] | None = None

    def holds(self, place: Place) -> bool:
        return all(getattr(place, axis) in values for axis, values in self.asked().items())

    def asked(self) -> dict[str, list[Any]]:
        """Axis -> the values asked for; only of axes that are named."""
        found = {axis: getattr(self, axis) for axis in Place._fields}
        return {a: v if isinstance(v, list) else [v] for a, v in found.items() if v is not None}


def partial(model: type[BaseModel], *, without: Sequence[str] = ()) -> type[BaseModel]:
    """`model` with no field required and unknown keys refused: what may be set otherwise, with the same checks."""
    fields: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if name not in without:
            kind: Any = field.annotation
            if isinstance(kind, type) and issubclass(kind, BaseModel):
                kind = partial(kind)
            constrained = Annotated[kind, *field.metadata] if field.metadata else kind
            fields[name] = (constrained | None, Field(default=None, description=field.description))
    config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    return create_model(f"{model.__name__}Changes", __config__=config, **fields)


DatasetChanges = partial(Dataset, without=("source", "name"))


def check_where(where: Where, places: Sequence[Place], *location: int | str) -> None:
    """Raise `Misplaced` if a value is none of the study's, or no combination is left that fits."""
    for axis, values in where.asked().items():
        known = list(dict.fromkeys(getattr(place, axis) for place in places))
        for value in values:
            if value not in known:
                names = ", ".join(map(str, known))
                hint = did_you_mean(value, known)
                raise Misplaced(f"there is no {axis} {value!r} in this study; it has {names}.{hint}", *location, axis)
    if not any(where.holds(place) for place in places):
        raise Misplaced("no cell fits all of this", *location)


def chosen_places(places: Sequence[Place], include: Sequence[Where], exclude: Sequence[Where]) -> list[Place]:
    """Those of `places` that any of `include` holds (all, if it is empty) and none of `exclude`."""
    for name, wheres in (("include", include), ("exclude", exclude)):
        for number, where in enumerate(wheres):
            check_where(where, places, name, number)
    kept = [p for p in places if not include or any(where.holds(p) for where in include)]
    kept = [p for p in kept if not any(where.holds(p) for where in exclude)]
    if not kept:
        raise Misplaced("no cell is left", "exclude" if exclude else "include")
    return kept


def changes_at(place: Place, overrides: Sequence[tuple[Where, Mapping[str, Any]]]) -> dict[str, Any]:
    """What is set otherwise at `place`. Two overrides that set one thing to different values there: `Misplaced`."""
    found: dict[str, Any] = {}
    origin: dict[tuple[str, ...], tuple[int, Any]] = {}
    for number, (where, changes) in enumerate(overrides):
        if not where.holds(place):
            continue
        for keys, value in _leaves(changes):
            before, other = origin.setdefault(keys, (number, value))
            if other != value:
                raise Misplaced(
                    f"{'.'.join(keys)} is set to {value!r} here and to {other!r} in overrides.{before}, and both hold "
                    f"for {' / '.join(map(str, place))}",
                    "overrides",
                    number,
                    "set",
                    *keys,
                )
        found = merged(found, changes)
    return found


def merged(one: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`one` with what `over` says put over it, mappings key by key."""
    result = dict(one)
    for key, value in over.items():
        before = result.get(key)
        result[key] = merged(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return result


def _leaves(content: Mapping[str, Any], prefix: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*prefix, str(key)))
        else:
            yield (*prefix, str(key)), value


_HASH = re.compile(r"[-_.@][0-9a-f]{12,64}$")


def short_name(name: str) -> str:
    """A hub id as it is; of a path its last part, without a file's suffix."""
    path = Path(name).expanduser()
    return path.resolve().stem if path.is_file() else path.resolve().name if path.is_dir() else name


def without_hash(name: str) -> str:
    """The name without the hash that it may end in, which says nothing to people."""
    return _HASH.sub("", name)
