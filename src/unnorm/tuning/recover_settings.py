"""How a recovery runs: one definition for Python, the command line and study files."""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.precision import choose
from unnorm.tuning.settings import LoraSettings, Precision, TrainingSettings

Train = Literal["all", "lora", "norms", "corrected"]
Minimized = Literal["kl", "ce"]

RATES: dict[Train, tuple[float, float]] = {
    "all": (4e-4, 5e-3),
    "lora": (1e-3, 2e-3),
    "norms": (2e-2, 2e-2),
    "corrected": (1e-3, 1e-2),
}
"""Of weights, and of norm parameters, which learn relatively. Those of `all` are for the largest step, and go down with
the square root of the tokens a step (arXiv 2205.10287: Adam's noise). The others are for steps of any size."""
RECOVER_TOKENS = 10_000_000
_STEPS, _SMALLEST_STEP, _LARGEST_STEP = 400, 512, 16384
"""How many steps a recovery wants at least; and tokens a step."""


class RecoverSettings(BaseModel):
    """A distillation from the original, or plain training in its place. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    tokens: int = Field(default=RECOVER_TOKENS, gt=0, description="tokens to learn from, at most")
    train: Train = Field(
        default="all",
        description="what learns: all weights; lora and the new norms; the norms alone; or these and corrected layers",
    )
    objective: Minimized = Field(
        default="kl",
        description="kl: distilled from the original; ce: trained on every token of the same rows, without it",
        exclude_if=lambda objective: objective == "kl",
    )
    target: float | None = Field(
        default=None, gt=0, description="stop once the held-out gap is at most this share of the original's loss"
    )
    batch_tokens: int | None = Field(
        default=None, gt=0, description="tokens a step; default: by tokens, from 512 to 16,384"
    )
    learning_rate: float | None = Field(
        default=None, gt=0, description="of weights; default: by what trains, and by tokens a step where all do"
    )
    norm_learning_rate: float | None = Field(default=None, gt=0, description="of norms; default: likewise")
    norm_parameters: Literal["relative", "raw"] = "relative"
    warmup: float = Field(default=0.05, ge=0, lt=1, description="share of the steps")
    lora: LoraSettings = LoraSettings(r=64, alpha=128, dropout=0.0)
    precision: Precision = "auto"
    compile: bool = Field(
        default=False,
        description="blocks are compiled (torch.compile), the original's too; not while they learn one at a time",
        exclude_if=lambda compile: not compile,
    )
    straighten: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="bend the curves straight until this share of the steps, so that each ends as a fixed scale",
        exclude_if=lambda straighten: straighten is None,
    )
    straighten_after: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of the steps before the curves begin to bend, in which the model recovers as it is",
        exclude_if=lambda after: after == 0,
    )

    straighten_sites: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="bend these curves alone, by path, role, glob or re:...; default: those of every site",
        exclude_if=lambda sites: sites is None,
    )

    @field_validator("target")
    @classmethod
    def _has_a_gap_to_close(cls, target: float | None, info: ValidationInfo) -> float | None:
        if target is not None and info.data.get("objective") == "ce":
            raise ValueError("a target is a gap to the original, which plain training (objective: ce) does not aim at")
        return target

    @field_validator("straighten")
    @classmethod
    def _bends_what_it_can(cls, straighten: float | None, info: ValidationInfo) -> float | None:
        others = info.data
        for key, given in (
            ("target", others.get("target") is not None),
            ("compile", others.get("compile")),
            ("objective: ce", others.get("objective") == "ce"),
            ("norm_parameters: raw", others.get("norm_parameters") == "raw"),
        ):
            if straighten is not None and given:
                raise ValueError(f"straighten does not go with {key}; leave one of the two out")
        return straighten

    @field_validator("straighten_after")
    @classmethod
    def _leaves_time_to_bend(cls, after: float, info: ValidationInfo) -> float:
        until = info.data.get("straighten")
        if after and until is None and "straighten" in info.data:
            raise ValueError("it says when bending begins; say with straighten when it ends, as in straighten: 0.8")
        if after and until is not None and after >= until:
            raise ValueError(f"bending begins at {after:.0%} of the steps and ends at {until:.0%}: give a smaller one")
        return after

    @field_validator("straighten_sites")
    @classmethod
    def _bends_them(cls, sites: tuple[str, ...] | None, info: ValidationInfo) -> tuple[str, ...] | None:
        if sites is not None and info.data.get("straighten") is None and "straighten" in info.data:
            raise ValueError("it says which curves are bent; say with straighten when they are, as in straighten: 0.7")
        return sites

    def training(self, row_tokens: int) -> TrainingSettings:
        """The same as the trainer takes it, for rows of `row_tokens` tokens; a step is whole rows."""
        wanted = self.batch_tokens or min(max(self.tokens // _STEPS, _SMALLEST_STEP), _LARGEST_STEP)
        step = max(1, wanted // row_tokens) * row_tokens
        share = min(max(step, _SMALLEST_STEP), _LARGEST_STEP) / _LARGEST_STEP if self.train == "all" else 1.0
        weights, norms = (rate * share**0.5 for rate in RATES[self.train])
        return TrainingSettings(
            tokens=self.tokens,
            batch_tokens=step,
            learning_rate=weights if self.learning_rate is None else self.learning_rate,
            norm_learning_rate=norms if self.norm_learning_rate is None else self.norm_learning_rate,
            norm_parameters=self.norm_parameters,
            schedule="cosine",
            warmup=self.warmup,
            weight_decay=0.0,
            adam_beta2=0.95,
            precision=choose(self.precision).name,
            compile=self.compile,
            lora=self.lora,
        )


def amiss_blockwise(objective: Minimized | None, train: Train | None, straighten: float | None) -> str:
    """Why a recovery with these cannot go block by block; nothing where it can."""
    if straighten is not None:
        return "straighten bends the curves of all blocks at once: recover block by block first, then straighten"
    can = objective == "kl" and train in ("all", "norms")
    return "" if can else "block by block goes with train: all or norms, and with objective: kl"


def recover_settings(**values: Any) -> RecoverSettings:
    """`RecoverSettings` of plain values; what is wrong is a `SettingsError` that names the key."""
    from unnorm.foundation.validation import Misplaced, dotted, sentence, validated

    try:
        return validated(RecoverSettings, values)
    except Misplaced as error:
        raise SettingsError(f"recovery: {dotted(error.location)}: {sentence(error)}") from error
