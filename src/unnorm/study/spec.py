"""The study file: YAML, read into one pydantic model. What is wrong in it is an error that names line and key."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PrivateAttr, field_validator

from unnorm.data.settings import Dataset, DataSettings
from unnorm.foundation.errors import SettingsError, UnnormError
from unnorm.foundation.validation import Location, Misplaced, dotted, sentence, shown, validated
from unnorm.study.arms import Arm, arm_from, arm_with
from unnorm.study.cell import CellSettings
from unnorm.study.sections import After, Evaluation, Named, NamedModel, Override, Part, Seed, StudyTraining, Tune
from unnorm.study.slices import (
    Place,
    Where,
    changes_at,
    check_where,
    chosen_places,
    merged,
    short_name,
)
from unnorm.study.yaml_lines import locate, read_text, read_yaml
from unnorm.tuning.settings import DEFAULT_LEARNING_RATE, STRATEGIES, Strategy, TrainingSettings

VERSION = 1
_MOST_CELLS = 100_000


class StudyFile(Part):
    """models × datasets × arms × strategies × seeds."""

    version: Literal[1] = 1
    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$",
        max_length=80,
        description="letters, digits, dots, dashes and underscores, a letter or digit first",
    )
    models: list[Named | NamedModel] = Field(
        min_length=1, description="hub ids or folders, or {name, model}; ${VARIABLES} are expanded"
    )
    datasets: list[Dataset] = Field(min_length=1)
    arms: list[str | dict[str, Any]] = Field(min_length=1, description="known ids, or {id, norm, calibrate, ...}")
    strategies: list[Strategy] = Field(default=list(STRATEGIES), min_length=1)
    seeds: list[Seed] = Field(default=[0], min_length=1)
    training: StudyTraining = StudyTraining()
    evaluation: Evaluation = Evaluation()
    tune: Tune | None = None
    include: list[Where] = Field(default=[], description="only these combinations; all, if there is none")
    exclude: list[Where] = Field(default=[], description="not these combinations")
    overrides: list[Override] = Field(default=[], description="settings of a slice of the matrix")
    after: After = After()
    _tree: Any = PrivateAttr(default=None)
    """Of the file, which tells what stands in which line."""
    _text: str = PrivateAttr(default="")
    """Of the file, with what it extends."""

    @field_validator("datasets", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return (
            [{"source": item} if isinstance(item, str) else item for item in value]
            if isinstance(value, list)
            else value
        )

    @property
    def model_names(self) -> list[str]:
        """What results call each model: the name that the file gives, else a hub id or a folder's last part."""
        return [
            each.name if isinstance(each, NamedModel) else _short(each, "models", number)
            for number, each in enumerate(self.models)
        ]

    @property
    def model_sources(self) -> list[str]:
        """Where each model is: a hub id or a folder."""
        return [each.model if isinstance(each, NamedModel) else each for each in self.models]

    @property
    def dataset_names(self) -> list[str]:
        return [each.name or _short(each.source, "datasets", n, "source") for n, each in enumerate(self.datasets)]

    @contextmanager
    def blamed(self, *location: int | str) -> Iterator[None]:
        """While open, a user's mistake that shows is one at `location`: its message begins with file, line and key."""
        try:
            yield
        except UnnormError as error:
            if self._tree is None or error.exit_code != UnnormError.exit_code:
                raise
            raise type(error)(f"{_at(self._tree, location)}: {error}") from error

    def resolved_arms(self) -> list[Arm]:
        """The arms in order. One that is wrong is a `Misplaced`."""
        arms = []
        for number, entry in enumerate(self.arms):
            try:
                arms.append(arm_from(entry))
            except SettingsError as error:
                raise Misplaced(str(error), "arms", number, *error.location) from error
        return arms

    def cells(self) -> list[CellSettings]:
        """Every cell with the learning rate that the file gives, those that share a base, data and start together.

        Raises `Misplaced` for what does not fit together.
        """
        resolved = self.resolved_arms()
        self._check_axes([arm.id for arm in resolved])
        arms = {arm.id: arm for arm in resolved}
        models = dict(zip(self.model_names, self.model_sources, strict=True))
        datasets = dict(zip(self.dataset_names, self.datasets, strict=True))
        every = [
            Place(model, dataset, arm, strategy, seed)
            for model in models
            for dataset in datasets
            for seed in self.seeds
            for arm in arms
            for strategy in self.strategies
        ]
        places = chosen_places(every, self.include, self.exclude)
        self._check_search(places)
        for number, override in enumerate(self.overrides):
            check_where(override.where, places, "overrides", number, "where")
            if not override.set.model_fields_set:
                raise Misplaced("nothing is set", "overrides", number, "set")
        given = [(each.where, each.set.model_dump(exclude_unset=True)) for each in self.overrides]
        overrides: dict[str, _Overrides] = {
            strategy: [(where, _under(strategy, changes)) for where, changes in given] for strategy in self.strategies
        }
        cells = [
            self._cell(place, models[place.model], datasets[place.dataset], arms[place.arm], overrides[place.strategy])
            for place in places
        ]
        judged_on = tuple(dict.fromkeys(cell.data for cell in cells))
        return [
            cell.model_copy(update={"beside": judged_on}) if cell.arm.recover and cell.arm.recover.data else cell
            for cell in cells
        ]

    def _cell(self, place: Place, model: str, dataset: Dataset, arm: Arm, overrides: "_Overrides") -> CellSettings:
        changes = changes_at(place, overrides)

        def changed(settings: Any, part: str) -> Any:
            try:
                return _changed(settings, changes.get(part, {}))
            except Misplaced as error:
                raise Misplaced(str(error), *_location_of(place, overrides, part, *error.location)) from error

        training, evaluation = changed(self.training, "training"), changed(self.evaluation, "evaluation")
        dataset = changed(dataset, "dataset")
        try:
            arm = arm_with(arm, changes.get("arm", {}))
        except SettingsError as error:
            raise Misplaced(str(error), *_location_of(place, overrides, "arm", *error.location)) from error
        strategy: Strategy = place.strategy  # type: ignore[assignment]
        cell = CellSettings(
            model=model,
            base_name=place.model if place.model != _short(model, "models") else None,
            arm=arm,
            strategy=strategy,
            data=DataSettings(max_length=training.max_length, **dataset.model_dump()),
            training=self._training_of(training, place, overrides),
            epochs=training.epochs,
            evaluation_tokens=evaluation.tokens,
            evaluate_every_tokens=evaluation.every_tokens,
            checkpoint_every_tokens=evaluation.every_tokens,
            seed=place.seed,
        )
        try:
            cell.rows_per_step()
        except SettingsError as error:
            raise Misplaced(str(error), *self._location_of_step(place, overrides)) from error
        return cell

    def _location_of_step(self, place: Place, overrides: "_Overrides") -> Location:
        """Where what makes up a step is set."""
        for key in ("batch_tokens", "max_length"):
            if _is_set(place, overrides, "training", key):
                return _location_of(place, overrides, "training", key)
        return "training", "batch_tokens" if "batch_tokens" in self.training.model_fields_set else "max_length"

    def _training_of(self, training: StudyTraining, place: Place, overrides: "_Overrides") -> TrainingSettings:
        strategy: Strategy = place.strategy  # type: ignore[assignment]
        rate = training.rate_of(strategy)
        tuned = self.tune is not None and bool(self.tune.rates_of(strategy))
        if tuned and rate is not None and "learning_rate" in training.model_fields_set:
            here = _is_set(place, overrides, "training", "learning_rate")
            raise Misplaced(
                f"the rate of {strategy} is both given and tuned: drop one of the two",
                *(_location_of(place, overrides, "training", "learning_rate") if here else ("tune", "learning_rate")),
            )
        if not tuned and rate is None:
            raise Misplaced(f"names no rate for {strategy!r}. Add one, or give one number", "training", "learning_rate")
        plain = training.model_dump(exclude={"max_length", "learning_rate", "epochs"})
        # a tuned cell's rate is put in when it is known
        return TrainingSettings(**plain, learning_rate=DEFAULT_LEARNING_RATE[strategy] if rate is None else rate)

    def _check_search(self, places: list[Place]) -> None:
        """Rates for other strategies than those of the cells would search nothing."""
        rates = self.tune.learning_rate if self.tune is not None else []
        here = dict.fromkeys(place.strategy for place in places)
        if isinstance(rates, Mapping) and here.keys().isdisjoint(rates):
            raise Misplaced(
                f"there are rates for {' and '.join(rates)} alone, and no cell of the study trains so. Give rates for "
                f"{' or '.join(here)}, or leave `tune` out",
                "tune",
                "learning_rate",
            )

    def _check_axes(self, arms: list[str]) -> None:
        """Nothing stands twice, and the product can be listed."""
        named = {"arms": arms, "models": self.model_names, "datasets": self.dataset_names}
        named |= {"strategies": list(self.strategies), "seeds": list(map(str, self.seeds))}
        for key, names in named.items():
            given = len(getattr(self, key))
            if len(set(names)) < given:
                hint = " Give one of them a `name`." if key in ("models", "datasets") else ""
                raise Misplaced(f"each may stand once, not {', '.join(names)}.{hint}", key)
        if len(set(self.model_sources)) < len(self.models):
            raise Misplaced(f"each model may stand once, not {', '.join(self.model_sources)}", "models")
        cells = prod(len(names) for names in named.values())
        if cells > _MOST_CELLS:
            longest = max(named, key=lambda key: len(named[key]))
            raise Misplaced(f"the study has {cells:,} cells, and {_MOST_CELLS:,} is the most", longest)


def dataset_name(dataset: Dataset) -> str:
    """What results call the data set."""
    return dataset.name or short_name(dataset.source)


def _short(name: str, *location: int | str) -> str:
    try:
        return short_name(name)
    except (OSError, RuntimeError, ValueError) as error:  # too long for a path, ~ of nobody, a zero byte
        reason = getattr(error, "strerror", None) or str(error)
        raise Misplaced(f"{shown(name)} cannot be the name of a file or folder: {reason}", *location) from error


_Overrides = list[tuple[Where, dict[str, Any]]]
"""Where each holds, and what it sets there."""


def _under(strategy: str, changes: dict[str, Any]) -> dict[str, Any]:
    """What an override sets in cells of a strategy: of a rate for each of several, that one's, if it is named. The
    file's own rates hold for the others."""
    training = changes.get("training") or {}
    rates = training.get("learning_rate")
    if not isinstance(rates, Mapping):
        return changes
    others = {key: value for key, value in training.items() if key != "learning_rate"}
    return {**changes, "training": {**others, **({"learning_rate": rates[strategy]} if strategy in rates else {})}}


def _is_set(place: Place, overrides: _Overrides, part: str, key: int | str) -> bool:
    """Whether an override sets `key` of a `part` of what holds at `place`."""
    return any(where.holds(place) and key in (changes.get(part) or {}) for where, changes in overrides)


def _location_of(place: Place, overrides: _Overrides, part: str, *below: int | str) -> Location:
    """Where `below` stands in the last override that sets it for `place`; if none does, in the last that sets anything
    in `part`."""
    setting = [n for n, (where, changes) in enumerate(overrides) if where.holds(place) and part in changes]
    exact = [n for n in setting if below and below[0] in (overrides[n][1][part] or {})]
    return "overrides", max(exact or setting, default=0), "set", part, *below


def _changed(settings: Any, changes: Mapping[str, Any]) -> Any:
    """`settings` with `changes` put over what the file gives; a length of training takes the other's place."""
    if not changes:
        return settings
    given = settings.model_dump(exclude_unset=True)
    for one, other in (("tokens", "epochs"), ("epochs", "tokens")):
        if changes.get(one) is not None and other in given and isinstance(settings, StudyTraining):
            del given[other]
    return validated(type(settings), merged(given, changes))


def read_spec(path: Path) -> tuple[StudyFile, str]:
    """The study in a file, and its text, with that of files that it extends. Whatever is wrong with it is a
    `SettingsError` that names file, line and key."""
    path = Path(path)
    text = read_text(path)
    spec = parse_spec(text, str(path), path.parent)
    return spec, spec._text


def parse_spec(text: str, where: str, folder: Path | None = None) -> StudyFile:
    """The study in YAML `text`; `where` names it in messages. folder: as for `read_yaml`."""
    content, node, whole = read_yaml(text, where, folder)
    version = content.get("version", VERSION)
    if isinstance(version, int) and version > VERSION:
        raise SettingsError(
            f"{_at(node, ('version',))}: {shown(version)} is newer than this unnorm, which reads up to "
            f"{VERSION}. Install a newer unnorm."
        )
    try:
        spec = validated(StudyFile, content)
        spec.cells()
    except Misplaced as error:
        what = f"{_at(node, error.location)}: {sentence(error)}{_of_another_file(node, where, error.location)}"
        raise SettingsError(what, *error.location) from error
    spec._tree, spec._text = node, whole
    return spec


def _at(node: Any, location: Location) -> str:
    """File, line and key, as far as the file has them."""
    return ": ".join(filter(None, (locate(node, location), dotted(location))))


def _of_another_file(node: Any, where: str, location: Location) -> str:
    """What to do about a part of the matrix that no longer fits it, if it stands in a file that `where` extends."""
    if location[:1] not in [("include",), ("exclude",), ("overrides",), ("tune",)]:
        return ""
    key = location[0]
    if locate(node, location).startswith(f"{where}, "):
        return ""
    return f" {where} takes `{key}` over from there: give `{key}` in it too, or `{key}: null` for none."
