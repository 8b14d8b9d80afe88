"""Calibrate: fit each new norm to real tokens in one forward pass, before any training and without a gradient.

The pass runs through the model as it is being converted. At each site, in execution order, the old norm says what it
would give on the present input, the new norm is fitted to that in closed form, and the pass goes on with the new
norm's output: so each site is fitted on the activations that it will really see, errors of earlier sites included.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import DataError
from unnorm.metrics.token_sums import head_only_at
from unnorm.norms.spec import Norm, NormSpec

Inputs = torch.Tensor | Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class SiteFit:
    """How the new norm fits at one site: share of variance explained, α, share of saturated activations, seconds."""

    path: str
    r2: float
    alpha: float
    saturation: float
    seconds: float


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration did: the tokens it saw, seconds in all and in fitting alone, and the fit at each site."""

    tokens: int
    seconds: float
    fit_seconds: float
    sites: tuple[SiteFit, ...]

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def calibrate(
    model: nn.Module, specs: Mapping[str, NormSpec], data: Inputs | Iterable[Inputs]
) -> tuple[dict[str, Norm], CalibrationReport]:
    """Fitted norms for the sites `specs` names, and the report. `model` itself is left as it was.

    data: token ids [B, T], model inputs (`input_ids` [B, T], perhaps `position_ids` and an `attention_mask`, whose
    zeros are left out of the fit), or an iterable of either, which is put together into one batch.
    """
    started = time.perf_counter()
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in as_one_batch(data).items()}
    keep = inputs["attention_mask"].bool() if "attention_mask" in inputs else None
    norms: dict[str, Norm] = {}
    fits: list[SiteFit] = []

    def fit_here(path: str, module: nn.Module, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if path not in norms:
            before = time.perf_counter()
            norm = specs[path].build(x.shape[-1], x.device)
            counted = keep if keep is not None and x.shape[:2] == keep.shape else slice(None)
            fit = specs[path].fit_(norm, x[counted].flatten(0, -2), y[counted].flatten(0, -2))
            norms[path] = norm
            fits.append(SiteFit(path, fit.r2, fit.alpha, fit.saturation, time.perf_counter() - before))
        out: torch.Tensor = norms[path](x)
        return out

    handles = [
        model.get_submodule(path).register_forward_hook(
            lambda module, args, out, path=path: fit_here(path, module, args[0], out)
        )
        for path in specs
    ]
    was_training = model.training
    model.eval()
    try:
        head = getattr(model, "get_output_embeddings", lambda: None)()
        if head is None:
            model(**inputs, use_cache=False)
        else:  # nothing is read from the logits: one position is enough
            first = torch.zeros(inputs["input_ids"].shape, dtype=torch.bool, device=device)
            first[0, 0] = True
            with head_only_at(head, first):
                model(**inputs, use_cache=False)
    finally:
        model.train(was_training)
        for handle in handles:
            handle.remove()
    missed = [path for path in specs if path not in norms]
    if missed:
        raise DataError(f"the forward pass did not reach {', '.join(missed)}, so there is nothing to calibrate on.")
    tokens = int(keep.sum()) if keep is not None else inputs["input_ids"].numel()
    report = CalibrationReport(
        tokens=tokens,
        seconds=time.perf_counter() - started,
        fit_seconds=sum(fit.seconds for fit in fits),
        sites=tuple(fits),
    )
    return norms, report


def as_one_batch(data: Inputs | Iterable[Inputs]) -> dict[str, torch.Tensor]:
    """Model inputs of one batch from whatever `calibrate` takes; shorter batches are padded, with an attention mask."""
    parts = [data] if isinstance(data, (torch.Tensor, Mapping)) else list(data)
    batches = [{"input_ids": part} if isinstance(part, torch.Tensor) else dict(part) for part in parts]
    if not batches or any("input_ids" not in batch or batch["input_ids"].numel() == 0 for batch in batches):
        raise DataError("there are no tokens to calibrate on: give token ids [B, T] or model inputs with `input_ids`.")
    for batch in batches:
        if batch["input_ids"].ndim != 2 or batch["input_ids"].is_floating_point():
            raise DataError(
                f"calibration wants integer token ids of shape [B, T], not {tuple(batch['input_ids'].shape)} "
                f"of {batch['input_ids'].dtype}. Tokenise the text and stack it into a batch first."
            )
    wanted = ("input_ids", "position_ids", "attention_mask")
    batches = [{name: batch[name] for name in wanted if name in batch} for batch in batches]
    length = max(batch["input_ids"].shape[1] for batch in batches)
    if any(batch["input_ids"].shape[1] != length or batch.keys() != batches[0].keys() for batch in batches):
        if any("position_ids" in batch for batch in batches):
            raise DataError("batches with position_ids (packed rows) must all have the same length.")
        for batch in batches:
            batch.setdefault("attention_mask", torch.ones_like(batch["input_ids"]))
    return {name: torch.cat([_pad_to(batch[name], length) for batch in batches]) for name in batches[0]}


def _pad_to(tensor: torch.Tensor, length: int) -> torch.Tensor:
    return torch.nn.functional.pad(tensor, (0, length - tensor.shape[1]))
