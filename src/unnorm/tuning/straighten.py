"""Bend a swapped model's curves straight while it recovers, until each of them is a fixed scale.

A calibrated fixed scale is no start for a deep real model: it is linear, a gated MLP multiplies two readings of the
stream, and a token that is twice as large as those of the fit comes out four times as large, block after block. A curve
caps it. So the curves stay at first, and each caps a little later at every step (`norms.straight`), while the model
learns to do without; `StreamSizes` keeps it from growing large tokens again. At the end all that a curve does to a
token of the text is a multiplication, and fixed scales take their places.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from unnorm.foundation import ranks
from unnorm.foundation.errors import ModelError
from unnorm.metrics.batches import counted_tokens
from unnorm.norms.curve import CurveNorm
from unnorm.norms.spec import Norm
from unnorm.norms.straight import as_fixed_scale, gain, why_not_straight
from unnorm.surgery.passes import run, watched
from unnorm.surgery.swap import SwapRecord
from unnorm.tuning.relative import scale_

_STRAIGHT = 1 / 64
"""c where a curve counts as straight: a token of 25 times the typical size is bent by less than 1 %."""
_SMALLEST = 1e-3
"""Of a typical size of α x; a channel that is nearly always 0 has no size to keep."""


class Straightening:
    """The curves of a model on their way to fixed scales, as the sites had them when it was made."""

    def __init__(self, model: nn.Module, record: SwapRecord, batch: Mapping[str, torch.Tensor], share: float) -> None:
        """batch: text [B, T] that tells each curve's typical sizes. share: of the training, in which curves are bent.

        Raises `ModelError` where a swapped norm cannot be bent straight.
        """
        paths = [site.path for site in record.sites]
        for path in paths:
            spec = record.specs[path]
            if (why := why_not_straight(spec)) is not None:
                raise ModelError(
                    f"{path} cannot be bent straight: {spec.norm} {why}. Swap dyt or dyisru, with γ, at every site."
                )
        self.model, self.record, self.share = model, record, share
        measured = ranks.of_main(_sizes(model, paths, batch))
        self.typical = {path: measured[path][0] for path in paths}
        self.sigma = {path: measured[path][1] for path in paths}

    def at(self, done: float, norms: Sequence[nn.Module]) -> None:
        """Bend the curves as they are to be when `done` of the training is over, in [0, 1].

        norms: those that run at the sites, in the order of the record's sites, while their parameters are relative.
        """
        c = _STRAIGHT ** min(done / self.share, 1.0)
        for norm, (path, typical) in zip(norms, self.typical.items(), strict=True):
            spec = self.record.specs[path]
            scale_(norm, "alpha", c)
            scale_(norm, "weight", gain(spec, typical, c))  # type: ignore[arg-type]

    def straight(self) -> dict[str, Norm]:
        """The fixed scales that the curves have become, by path."""
        return {path: as_fixed_scale(_curve_at(self.model, path), sigma) for path, sigma in self.sigma.items()}


def _curve_at(model: nn.Module, path: str) -> CurveNorm:
    norm = model.get_submodule(path)
    assert isinstance(norm, CurveNorm), path
    return norm


def _sizes(
    model: nn.Module, paths: Sequence[str], batch: Mapping[str, torch.Tensor]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each path: the root mean square [C] of α x over the tokens of a batch, and the mean over them of a token's
    root mean square; fp32, where the norm's parameters are."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    keep = counted_tokens(inputs)

    def see(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
        tokens = (x[keep] if x.shape[:2] == keep.shape else x).flatten(0, -2).float()
        inner = _curve_at(model, path).inner(tokens)
        typical = inner.square().mean(0).sqrt().clamp_min(_SMALLEST)
        found[path] = typical, tokens.square().mean(-1).sqrt().mean().clamp_min(torch.finfo(torch.float32).tiny)

    with torch.no_grad(), watched(model, paths, see):
        run(model, inputs)
    return found
