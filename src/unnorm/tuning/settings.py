"""Training settings: one definition for the command line, files and docs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Strategy = Literal["frozen", "selective", "full"]
STRATEGIES: tuple[Strategy, ...] = ("frozen", "selective", "full")
Precision = Literal["fp32", "bf16", "fp16"]

DEFAULT_LEARNING_RATE: dict[Strategy, float] = {"frozen": 3e-3, "selective": 3e-3, "full": 4e-4}


class LoraSettings(BaseModel):
    """LoRA (Hu et al. 2021, arXiv 2106.09685) through peft."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    r: int = Field(default=8, gt=0, description="rank")
    alpha: int = Field(default=32, gt=0, description="scale: updates are multiplied by alpha / r")
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: Literal["auto"] | list[str] = Field(
        default="auto", description="module names; auto: every linear layer but the output head"
    )


class TrainingSettings(BaseModel):
    """How one cell trains. Unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    tokens: int = Field(default=1_000_000, gt=0, description="training tokens, prompts included, padding not")
    batch_tokens: int = Field(default=4096, gt=0, description="tokens a step, over all devices")
    learning_rate: float = Field(default=3e-3, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(
        default=1.0, gt=0, description="gradients are clipped to this norm; the log holds it unclipped"
    )
    precision: Precision = Field(default="bf16", description="bf16 and fp16: autocast over fp32 weights")
    lora: LoraSettings = LoraSettings()
    train_sites: list[str] | None = Field(
        default=None, description="selective: the norm sites that train, as site patterns; all, if not given"
    )
