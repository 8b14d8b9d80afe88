"""The sections of a study file: training, evaluation, the search of the learning rate, stages after it, overrides."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator, model_validator

from unnorm.evaluation.judges import JUDGES, KIND_HELP, check_kind
from unnorm.evaluation.questions import temperature_of
from unnorm.foundation.errors import SettingsError
from unnorm.study.slices import DatasetChanges, Where, partial
from unnorm.tuning.settings import DEFAULT_LEARNING_RATE, Strategy, TrainingSettings

Rate = Annotated[float, Field(gt=0)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Named = Annotated[str, Field(min_length=1)]


class Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class StudyTraining(TrainingSettings):
    """Training settings of all cells; the learning rate may differ by strategy, never by arm, unless it is tuned."""

    epochs: int | None = Field(default=None, gt=0, description="instead of tokens: the training part so many times")
    max_length: int = Field(default=256, gt=1, description="tokens a row")
    learning_rate: Rate | dict[Strategy, Rate] = Field(  # type: ignore[assignment]
        default_factory=lambda: dict(DEFAULT_LEARNING_RATE), description="one number, or one a strategy"
    )

    @model_validator(mode="after")
    def _one_length(self) -> "StudyTraining":
        if self.epochs is not None and "tokens" in self.model_fields_set:
            raise ValueError("tokens and epochs both say how long to train: give one of them")
        return self

    def rate_of(self, strategy: Strategy) -> float | None:
        """The learning rate of a strategy; None where the file names none for it."""
        return self.learning_rate.get(strategy) if isinstance(self.learning_rate, Mapping) else self.learning_rate


class Evaluation(Part):
    """Held-out evaluation during and after training."""

    every_tokens: int = Field(default=200_000, gt=0)
    tokens: int = Field(default=100_000, gt=0)


class Tune(Part):
    """The same small search of the learning rate for each arm, on a part of the training data held out for it."""

    learning_rate: list[Rate] | dict[Strategy, list[Rate]] = Field(
        description="rates to try, or such a list a strategy"
    )
    tokens: int | None = Field(default=None, gt=0, description="training tokens of each try; default: the cell's own")
    seed: Seed | None = Field(default=None, description="of every try; default: the study's first")

    @field_validator("learning_rate")
    @classmethod
    def _several(cls, rates: Any) -> Any:
        if rates == {}:
            raise ValueError("there is no rate to try: give a list of rates, or one for each strategy to search")
        for each in rates.values() if isinstance(rates, Mapping) else [rates]:
            if len(set(each)) < 2:
                raise ValueError("a search needs two different rates at least")
        return rates

    def rates_of(self, strategy: Strategy) -> list[float]:
        """The rates to try under a strategy, lowest first; none where it is not tuned."""
        rates = self.learning_rate.get(strategy, []) if isinstance(self.learning_rate, Mapping) else self.learning_rate
        return sorted(set(rates))


class Completions(Part):
    """Answers after training."""

    prompts: str = Field(default="builtin", description="builtin, mt-bench, or a .jsonl file of prompts")
    temperature: str = Field(default="greedy", description="greedy, fastchat (by category), or a number")
    max_new_tokens: int = Field(default=64, gt=0)

    @field_validator("temperature", mode="before")
    @classmethod
    def _as_text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value

    @field_validator("temperature")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            temperature_of("", value)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return value


class JudgeStage(Part):
    """Each arm's answers against the reference's, in both orders."""

    kind: str = Field(description=KIND_HELP, examples=list(JUDGES))
    model: str | None = Field(default=None, description="the judge's model; pairrm has its own")
    base_url: str | None = Field(default=None, description="openai: the endpoint; its key: OPENAI_API_KEY")
    margin: float = Field(default=0.0, ge=0, description="a score this small is a tie, in the judge's unit")

    @field_validator("kind")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            check_kind(value)
        except SettingsError as error:
            raise ValueError(str(error)) from error
        return value


class LatencyStage(Part):
    """Each arm's speed against the reference's, in one process, alternating."""

    budget_seconds: float = Field(default=30.0, gt=0, description="a pair of arms, all workloads together")
    batch_size: int = Field(default=1, gt=0)
    length: int = Field(default=128, gt=0, description="tokens of a prompt")
    new_tokens: int = Field(default=32, gt=0)


class TasksStage(Part):
    """Tasks of lm-evaluation-harness on each cell's model (extra `lm-eval`)."""

    names: list[Named] = Field(min_length=1, description="of tasks, groups or tags, as the harness has them")
    limit: int | None = Field(default=None, gt=0, description="the first questions of each task; default: all")
    folder: Named | None = Field(default=None, description="of task files (.yaml), which come before the harness's own")
    batch_size: int = Field(default=8, gt=0)
    seed: Seed = Field(default=0, description="of the examples shown before a question; the same in every cell")

    @field_validator("names")
    @classmethod
    def _once(cls, names: list[str]) -> list[str]:
        if len(set(names)) < len(names):
            raise ValueError("each task may stand once")
        return names

    @property
    def folder_path(self) -> Path | None:
        return Path(self.folder).expanduser() if self.folder else None


class After(Part):
    """Stages after training."""

    completions: Completions | None = None
    judge: JudgeStage | None = None
    latency: LatencyStage | None = None
    tasks: TasksStage | None = None

    @model_validator(mode="wrap")
    @classmethod
    def _of_other_stages(cls, value: Any, handler: Any) -> Any:
        """A stage without a field here says itself what it is set by."""
        if cls is not After or not isinstance(value, Mapping) or value.keys() <= cls.model_fields.keys():
            return handler(value)
        from unnorm.study.after.stages import STAGES  # which know this module

        fields: Any = {stage.name: (stage.settings | None, None) for stage in STAGES if stage.settings is not None}
        return create_model("After", __base__=After, **fields).model_validate(value)

    @model_validator(mode="after")
    def _answers(self) -> "After":
        if self.judge is not None and self.completions is None:
            raise ValueError("judge needs answers to judge: add completions")
        return self


class Changes(Part):
    """What is set otherwise for a slice."""

    training: partial(StudyTraining) | None = None  # type: ignore[valid-type]
    evaluation: partial(Evaluation) | None = None  # type: ignore[valid-type]
    dataset: DatasetChanges | None = None  # type: ignore[valid-type]
    arm: dict[str, Any] | None = Field(default=None, description="settings of the norm, calibrate, recover, inherit")


class Override(Part):
    """`set` holds wherever `where` does."""

    where: Where
    set: Changes


class NamedModel(Part):
    """A base, and what results call it."""

    name: Named = Field(description="what results call it, and `where` too")
    model: Named = Field(description="a hub id or a folder")
