"""Training settings: one definition for the command line, files and docs."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Strategy = Literal["frozen", "selective", "full"]
STRATEGIES: tuple[Strategy, ...] = ("frozen", "selective", "full")
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Sharding = Literal["ddp", "fsdp"]
SPREAD = {"devices", "sharding"}
"""Settings that change no result but by how sums are rounded and what dropout draws."""

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
    norm_parameters: Literal["relative", "raw"] = Field(
        default="relative",
        description="relative: norms learn α₀·eᵃ, γ₀(1 + g), β in units of the median |γ₀|, in every arm",
    )
    norm_learning_rate: float | None = Field(
        default=None,
        gt=0,
        description="of norm parameters; default: learning_rate",
        exclude_if=lambda rate: rate is None,
    )
    adam_beta2: float = Field(default=0.999, gt=0, lt=1, exclude_if=lambda beta: beta == 0.999)
    precision: Precision = Field(
        default="auto",
        description="auto: bf16 where the device multiplies it natively, else fp32. bf16 and fp16: autocast over "
        "fp32 weights",
    )
    compile: bool = Field(
        default=False,
        description="blocks are compiled (torch.compile): faster steps after the compiler's time, other rounding",
        exclude_if=lambda compile: not compile,
    )
    lora: LoraSettings = LoraSettings()
    train_sites: list[str] | None = Field(
        default=None, description="selective: the norm sites that train, as site patterns; all, if not given"
    )
    devices: int = Field(
        default=1,
        gt=0,
        description="GPUs that one cell is spread over, or processes where there is none; a step has the same tokens",
        exclude_if=lambda devices: devices == 1,
    )
    sharding: Sharding = Field(
        default="ddp",
        description="ddp: each device holds the whole model; fsdp: each holds a part of every block (FSDP2)",
        exclude_if=lambda sharding: sharding == "ddp",
    )
