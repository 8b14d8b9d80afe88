"""The fingerprint of a model: some of its fp32 logits on fixed token ids. It tells a right load from a wrong one."""

import copy
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

_TOKENS = 64
_COLUMNS = 16
_RELATIVE_TOLERANCE = 1e-3


class Fingerprint(BaseModel):
    """fp32 logits [T, 16] at T ≤ 64 fixed token ids and 16 fixed vocabulary columns, and how far they may differ."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    logits: list[list[float]] = Field(max_length=_TOKENS)
    tolerance: float = Field(gt=0, lt=1e3, description="largest absolute difference that still counts as equal")

    def difference(self, other: "Fingerprint") -> float:
        """Largest absolute difference to another one; infinite where the shapes differ."""
        mine, theirs = torch.tensor(self.logits), torch.tensor(other.logits)
        return float((mine - theirs).abs().max()) if mine.shape == theirs.shape else float("inf")


@torch.no_grad()
def fingerprint(model: Any) -> Fingerprint:
    """Compute it: eval mode, fp32, without adapters. A model held in bf16 or fp16 is widened in a copy."""
    if any(p.dtype in (torch.bfloat16, torch.float16) for p in model.parameters()):
        model = copy.deepcopy(model).float()
    was_training = model.training
    model.eval()
    try:
        if hasattr(model, "peft_config"):
            with model.disable_adapter():
                logits = _logits(model)
        else:
            logits = _logits(model)
    finally:
        model.train(was_training)
    tolerance = _RELATIVE_TOLERANCE * float(logits.square().mean().sqrt()) + 1e-6
    return Fingerprint(logits=[[round(v, 6) for v in row] for row in logits.tolist()], tolerance=tolerance)


def _logits(model: Any) -> torch.Tensor:
    vocabulary = model.config.vocab_size
    length = min(_TOKENS, getattr(model.config, "max_position_embeddings", None) or _TOKENS)
    device = next(model.parameters()).device
    tokens = (torch.arange(length, device=device) * 7919 + 13) % vocabulary
    columns = (torch.arange(_COLUMNS, device=device) * 104_729 + 7) % vocabulary
    with torch.autocast(device.type, enabled=False):
        logits: torch.Tensor = model(input_ids=tokens[None], use_cache=False).logits[0]
    return logits.float()[:, columns].cpu()
