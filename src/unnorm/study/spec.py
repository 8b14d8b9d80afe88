"""The study file: YAML, read into one pydantic model. What is wrong in it is an error that names line and key."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unnorm.data.settings import Dataset, DataSettings
from unnorm.foundation.errors import SettingsError
from unnorm.study.arms import Arm, arm_from
from unnorm.study.cell import CellSettings
from unnorm.tuning.settings import DEFAULT_LEARNING_RATE, STRATEGIES, Strategy, TrainingSettings

VERSION = 1


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class StudyTraining(TrainingSettings):
    """Training settings of all cells; the learning rate may differ by strategy, never by arm."""

    max_length: int = Field(default=256, gt=1, description="tokens a row")
    learning_rate: float | dict[Strategy, float] = Field(  # type: ignore[assignment]
        default_factory=lambda: dict(DEFAULT_LEARNING_RATE), description="one number, or one a strategy"
    )


class Evaluation(_Part):
    """Held-out evaluation during and after training."""

    every_tokens: int = Field(default=200_000, gt=0)
    tokens: int = Field(default=100_000, gt=0)


class Completions(_Part):
    """Answers after training."""

    prompts: str = Field(default="builtin", description="builtin, mt-bench, or a .jsonl file of prompts")
    temperature: str = Field(default="greedy", description="greedy, fastchat (by category), or a number")
    max_new_tokens: int = Field(default=64, gt=0)


class After(_Part):
    """Stages after training."""

    completions: Completions | None = None


class StudyFile(_Part):
    """models × datasets × arms × strategies × seeds."""

    version: Literal[1] = 1
    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=80)
    models: list[str] = Field(min_length=1, description="hub ids or folders; ${VARIABLES} are expanded")
    datasets: list[Dataset] = Field(min_length=1)
    arms: list[str | dict[str, Any]] = Field(min_length=1, description="known ids, or {id, norm, calibrate, ...}")
    strategies: list[Strategy] = Field(default=list(STRATEGIES), min_length=1)
    seeds: list[int] = Field(default=[0], min_length=1)
    training: StudyTraining = StudyTraining()
    evaluation: Evaluation = Evaluation()
    after: After = After()

    @field_validator("datasets", mode="before")
    @classmethod
    def _short_form(cls, value: Any) -> Any:
        return (
            [{"source": item} if isinstance(item, str) else item for item in value]
            if isinstance(value, list)
            else value
        )

    def resolved_arms(self) -> list[Arm]:
        """The arms in order. Two of one id are a `SettingsError`."""
        arms = [arm_from(entry) for entry in self.arms]
        ids = [arm.id for arm in arms]
        if len(set(ids)) < len(ids):
            raise SettingsError(f"arms: each id may stand once, not {', '.join(ids)}.")
        return arms

    def cells(self) -> list[CellSettings]:
        """Every cell, those that share a base, data and start next to each other."""
        arms = self.resolved_arms()
        return [
            CellSettings(
                model=model,
                arm=arm,
                strategy=strategy,
                data=DataSettings(max_length=self.training.max_length, **dataset.model_dump()),
                training=self._training_of(strategy),
                evaluation_tokens=self.evaluation.tokens,
                evaluate_every_tokens=self.evaluation.every_tokens,
                checkpoint_every_tokens=self.evaluation.every_tokens,
                seed=seed,
            )
            for model in self.models
            for dataset in self.datasets
            for seed in self.seeds
            for arm in arms
            for strategy in self.strategies
        ]

    def _training_of(self, strategy: Strategy) -> TrainingSettings:
        rate = self.training.learning_rate
        if isinstance(rate, Mapping):
            if strategy not in rate:
                raise SettingsError(
                    f"training.learning_rate names no rate for {strategy!r}. Add one, or give one number."
                )
            rate = rate[strategy]
        plain = self.training.model_dump(exclude={"max_length", "learning_rate"})
        return TrainingSettings(**plain, learning_rate=rate)


def read_spec(path: Path) -> tuple[StudyFile, str]:
    """The study in a file, and its text. Whatever is wrong with it is a `SettingsError` that names line and key."""
    path = Path(path)
    if not path.is_file():
        raise SettingsError(f"there is no study file {str(path)!r}.")
    text = path.read_text(encoding="utf-8")
    return parse_spec(text, str(path)), text


def parse_spec(text: str, where: str) -> StudyFile:
    """The study in YAML `text`; `where` names it in messages."""
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise SettingsError(f"{where}{at}: not valid YAML: {problem}.") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{where} must hold a mapping with name, models, datasets and arms.")
    version = content.get("version", VERSION)
    if isinstance(version, int) and version > VERSION:
        raise SettingsError(
            f"{where} has version {version}; this unnorm reads up to {VERSION}. Install a newer unnorm."
        )
    try:
        spec = StudyFile.model_validate(_expand(content, where))
    except ValidationError as error:
        first = error.errors()[0]
        line, keys = _locate(node, first["loc"])
        if first["type"] == "missing":
            keys.append(str(first["loc"][-1]))
        message = "there is no such key" if first["type"] == "extra_forbidden" else first["msg"]
        raise SettingsError(f"{where}, line {line}: {'.'.join(keys)}: {message}.") from error
    for number, entry in enumerate(spec.arms):
        try:
            arm_from(entry)
        except SettingsError as error:
            raise SettingsError(f"{where}, line {_locate(node, ('arms', number))[0]}: arms: {error}") from error
    try:
        spec.cells()
    except SettingsError as error:
        raise SettingsError(f"{where}: {error}") from error
    return spec


def _expand(value: Any, where: str) -> Any:
    """`value` with ${VARIABLES} replaced in every text of it."""
    if isinstance(value, str):

        def look_up(match: re.Match[str]) -> str:
            if match[1] not in os.environ:
                raise SettingsError(f"{where} uses ${{{match[1]}}}, which is not set. Set it: export {match[1]}=...")
            return os.environ[match[1]]

        return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", look_up, value)
    if isinstance(value, list):
        return [_expand(item, where) for item in value]
    if isinstance(value, dict):
        return {key: _expand(item, where) for key, item in value.items()}
    return value


def _locate(node: Any, location: tuple[int | str, ...]) -> tuple[int, list[str]]:
    """The line of the deepest part of `location` that the YAML has, and the keys down to it.

    A key's own line, not its value's. pydantic's names for the branches of a union are no keys, and end the way down.
    """
    line = int(node.start_mark.line + 1)
    keys: list[str] = []
    for part in location:
        if isinstance(node, yaml.MappingNode):
            found = next(((key, value) for key, value in node.value if key.value == str(part)), None)
            if found is None:
                break
            line, node = int(found[0].start_mark.line + 1), found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
        keys.append(str(part))
    return line, keys
