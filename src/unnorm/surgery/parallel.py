"""Calibration from running sums: one pass over any number of batches, every site at once, nothing kept but the sums.

Each site is fitted to the original model's activations, so errors of earlier sites are not seen: a little worse than
one pass through the model as it is being converted, and as much data as one likes.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.progress import track
from unnorm.norms.affine import SEARCH_TOKENS, AffineNorm, AffineSpec
from unnorm.norms.affine_fit import Moments
from unnorm.norms.spec import Fit, Norm, NormSpec
from unnorm.surgery.inputs import counted, counted_rows
from unnorm.surgery.outliers import large_share, left_out, size_limit, sizes
from unnorm.surgery.passes import run, watched


class _Sums:
    """Running sums at one site, for each candidate shape."""

    def __init__(self, spec: AffineSpec, x: torch.Tensor, share: float | None) -> None:
        size = sizes(x)
        self.limit = size_limit(size, share)
        self.large = large_share(size)
        kept = x if self.limit is None else x[size <= self.limit]
        self.some = kept[:: -(-len(kept) // SEARCH_TOKENS)].float()
        self.spec = spec
        self.candidates: list[AffineNorm] = spec.candidates(x.shape[-1], self.some)
        self.sums = [Moments() for _ in self.candidates]
        self.seconds = 0.0

    def add(self, x: torch.Tensor, y: torch.Tensor) -> None:
        if self.limit is not None:
            keep = sizes(x) <= self.limit
            x, y = x[keep], y[keep]
        if not len(x):
            return
        for candidate, sums in zip(self.candidates, self.sums, strict=True):
            sums.add(candidate.features(x.float()), y)

    def finish(self) -> tuple[AffineNorm, Fit]:
        errors = torch.stack([s.error(*s.solve(with_bias=self.spec.has_bias)) for s in self.sums])
        module: Any = self.spec.build(self.some.shape[1], self.some.device)
        chosen = self.spec.choose_(module, self.candidates, errors)
        return module, self.spec.finish_(module, Moments.by_channel(self.sums, chosen), self.some)


def fit_parallel(
    model: nn.Module,
    specs: Mapping[str, NormSpec],
    batches: list[dict[str, torch.Tensor]],
    share: float | None,
    note: Callable[[str, Fit, float, float], None],
) -> dict[str, Norm]:
    """Fitted norms by path. share: of tokens to leave out, as for `calibrate`, judged by the first batch. note: told
    path, fit, seconds and the first batch's share of large tokens."""
    foreign = sorted({spec.norm for spec in specs.values() if not isinstance(spec, AffineSpec)})
    if foreign:
        raise SettingsError(
            f"the norm {foreign[0]!r} is not of the form γ t(x) + β (AffineSpec), so running sums do not fit it. "
            "Calibrate in one pass, and leave alone what is called at several places."
        )
    sums: dict[str, _Sums] = {}
    keep: torch.Tensor | None = None

    def see(path: str, x: torch.Tensor, y: torch.Tensor) -> None:
        before = time.perf_counter()
        x, y = counted_rows(keep, x, y)
        if path not in sums:
            sums[path] = _Sums(specs[path], x, left_out(specs[path], share))  # type: ignore[arg-type]
        sums[path].add(x, y)
        sums[path].seconds += time.perf_counter() - before

    with watched(model, specs, see):
        for batch in track(batches, "calibrating"):
            keep = counted(batch)
            run(model, batch)
    norms: dict[str, Norm] = {}
    for path in (path for path in specs if path in sums):
        norms[path], fit = sums[path].finish()
        note(path, fit, sums[path].seconds, sums[path].large)
    return norms
