"""Bend a swapped model's curves straight while it recovers, until each of them is a fixed scale.

A calibrated fixed scale is no start for a deep real model: it is linear, a gated MLP multiplies two readings of the
stream, and a token that is twice as large as those of the fit comes out four times as large, block after block. A curve
caps it. So the curves stay at first, and each caps a little later at every step (`norms.straight`), while the model
learns to do without; `StreamSizes` keeps it from growing large tokens again. At the end all that a curve does to a
token of the text is a multiplication, and fixed scales take their places.

Norms that are fixed scales already learn as curves that are all but straight: they cap what runs away meanwhile.

Some sites may do, such as those that attention reads: the curves of the others stay, and go on capping.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from unnorm.foundation import ranks
from unnorm.foundation.errors import ModelError
from unnorm.metrics.batches import counted_tokens
from unnorm.norms.curve import CurveNorm
from unnorm.norms.fixed_scale import FixedScaleNorm
from unnorm.norms.spec import Norm
from unnorm.norms.straight import STRAIGHT, TYPICAL, as_curve, as_fixed_scale, gain, why_not_straight
from unnorm.surgery.passes import run, watched
from unnorm.surgery.patterns import select
from unnorm.surgery.sites import Site
from unnorm.surgery.swap import SwapRecord, place_
from unnorm.tuning.relative import scale_
from unnorm.tuning.stream_sizes import StreamSizes

_SMALLEST = 1e-3
"""Of a channel's typical size in units of a token's, and of α x; one that is nearly always 0 has no size to keep."""


class Straightening:
    """The curves of a model on their way to fixed scales, as the sites had them when it was made."""

    def __init__(
        self,
        model: nn.Module,
        record: SwapRecord,
        batch: Mapping[str, torch.Tensor],
        *,
        sites: Sequence[str] | None,
        after: float,
        until: float,
    ) -> None:
        """batch: text [B, T] that tells each curve's typical sizes. sites: patterns of those that are bent; None: all.
        after, until: shares of the training, between which curves are bent; before, the model learns as in any
        recovery.

        Raises `ModelError` where a norm among them cannot be bent straight, `SiteError` for a pattern of none.
        """
        paths = [site.path for site in bent_sites(record, sites)]
        for path in paths:
            spec = record.specs[path]
            if (why := why_not_straight(spec)) is not None:
                raise ModelError(
                    f"{path} cannot be bent straight: {spec.norm} {why}. Swap dyt or dyisru, with γ, there."
                )
        self.model, self.after, self.until = model, after, until
        self.typical: dict[str, torch.Tensor] = {}
        self.sigma: dict[str, torch.Tensor] = {}
        found = ranks.of_main(_sizes(model, paths, batch))
        curves = {}
        for path in paths:
            size, self.sigma[path] = found[path]
            norm = model.get_submodule(path)
            if isinstance(norm, FixedScaleNorm):
                curves[path] = as_curve(norm, size)
                self.typical[path] = torch.full_like(size, TYPICAL)
            else:
                self.typical[path] = (size * norm.alpha.detach()).abs().clamp_min(_SMALLEST)  # type: ignore[operator]
        straight = {path for path in record.specs if isinstance(model.get_submodule(path), FixedScaleNorm)}
        self.straight_before = bool(straight)
        self.uncapped = [path for path in record.specs if path in found or path in straight]
        """Where nothing bounds a token once the curves are bent: also at fixed scales that stay as they are."""
        self.paths, self.lines = paths, place_(model, curves)
        """lines: the fixed scales that there were, by path, in whose places curves stand now."""
        self.norms: list[nn.Module] = []
        self.sizes = StreamSizes([])

    def watch(self, norms: Mapping[str, nn.Module]) -> StreamSizes:
        """What keeps tokens near one size once curves are bent.

        norms: those that run at the model's sites, by path, while their parameters are relative.
        """
        self.norms = [norms[path] for path in self.paths]
        self.sizes = StreamSizes([norms[path] for path in self.uncapped])
        return self.sizes

    def at(self, done: float) -> None:
        """Bend the curves as they are to be when `done` of the training is over, in [0, 1]."""
        bent = STRAIGHT ** min(max(done - self.after, 0.0) / (self.until - self.after), 1.0)
        self.sizes.counts = done >= self.after or self.straight_before
        for norm, path in zip(self.norms, self.paths, strict=True):
            c = STRAIGHT if path in self.lines else bent
            scale_(norm, "alpha", c)
            scale_(norm, "weight", gain(norm.spec, self.typical[path], c))  # type: ignore[arg-type]

    def straight(self) -> dict[str, Norm]:
        """The fixed scales that the curves have become, by path."""
        return {path: as_fixed_scale(_curve_at(self.model, path), sigma) for path, sigma in self.sigma.items()}


def bent_sites(record: SwapRecord, patterns: Sequence[str] | None) -> list[Site]:
    """The swapped sites that `patterns` mean, in the order of the record; all of them if it is None."""
    return record.sites if patterns is None else select(record.sites, list(patterns))


def _curve_at(model: nn.Module, path: str) -> CurveNorm:
    norm = model.get_submodule(path)
    assert isinstance(norm, CurveNorm), path
    return norm


def _sizes(
    model: nn.Module, paths: Sequence[str], batch: Mapping[str, torch.Tensor]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """For each path, over the tokens of a batch: the root mean square of x, [C], and the mean of a token's root mean
    square over its channels; fp32, where the model is."""
    found: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items()}
    keep = counted_tokens(inputs)
    least = torch.finfo(torch.float32).tiny

    def see(path: str, x: torch.Tensor, out: torch.Tensor) -> None:
        squares = (x[keep] if x.shape[:2] == keep.shape else x).flatten(0, -2).float().square()
        sigma = squares.mean(-1).sqrt().mean().clamp_min(least)
        found[path] = squares.mean(0).sqrt().clamp_min(_SMALLEST * float(sigma)), sigma

    with torch.no_grad(), watched(model, paths, see):
        run(model, inputs)
    return found
