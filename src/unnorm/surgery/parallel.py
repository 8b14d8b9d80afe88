"""Calibration from running sums: over any number of batches, every site at once, with nothing kept but the sums.

Each site is fitted to the original model's activations, so errors of earlier sites are not seen: a little worse than
one pass through the model as it is being converted, and as much data as one likes.
"""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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


class _Place(NamedTuple):
    """One of the places that a site is called at, as its first batch shows it."""

    limit: torch.Tensor | None
    """The size [] beyond which a token is left out."""
    large: float
    """Share of tokens that are large, among this place's own."""
    some: torch.Tensor
    """Of the tokens that are not left out [n, C], n ≤ `SEARCH_TOKENS`, fp32."""

    @classmethod
    def of(cls, x: torch.Tensor, share: float | None) -> "_Place":
        size = sizes(x)
        limit = size_limit(size, share)
        kept = x if limit is None else x[size <= limit]
        return cls(limit, large_share(size), kept[:: -(-len(kept) // SEARCH_TOKENS)].float())


class _Sums:
    """Running sums at one site over all of its places, for each candidate shape."""

    def __init__(self, spec: AffineSpec, places: list[_Place]) -> None:
        self.limits = [place.limit for place in places]
        self.large = max(place.large for place in places)
        self.some = torch.cat([place.some for place in places])
        self.spec = spec.beside_large_tokens() if self.large else spec
        self.candidates: list[AffineNorm] = self.spec.candidates(self.some.shape[1], self.some)
        self.sums = [Moments() for _ in self.candidates]
        self.seconds = 0.0

    def add(self, x: torch.Tensor, y: torch.Tensor, place: int) -> None:
        limit = self.limits[min(place, len(self.limits) - 1)]
        if limit is not None:
            keep = sizes(x) <= limit
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
    """Fitted norms by path. share: of tokens to leave out at each place that a site is called at, as for `calibrate`,
    judged by the first batch, which runs once more for that. note: told path, fit, seconds and the first batch's share
    of large tokens, at the place that has most."""
    foreign = sorted({spec.norm for spec in specs.values() if not isinstance(spec, AffineSpec)})
    if foreign:
        raise SettingsError(
            f"the norm {foreign[0]!r} is not of the form γ t(x) + β (AffineSpec), so running sums do not fit it. "
            "Calibrate in one pass, and leave alone what is called at several places."
        )
    keep = counted(batches[0])
    places: dict[str, list[_Place]] = {}

    def look(path: str, x: torch.Tensor, y: torch.Tensor) -> None:
        (x,) = counted_rows(keep, x)
        places.setdefault(path, []).append(_Place.of(x, left_out(specs[path], share)))

    with watched(model, specs, look):
        run(model, batches[0])
    sums = {path: _Sums(specs[path], found) for path, found in places.items()}  # type: ignore[arg-type]
    calls = Counter[str]()

    def see(path: str, x: torch.Tensor, y: torch.Tensor) -> None:
        before = time.perf_counter()
        x, y = counted_rows(keep, x, y)
        sums[path].add(x, y, calls[path])
        calls[path] += 1
        sums[path].seconds += time.perf_counter() - before

    with watched(model, places, see):
        for batch in track(batches, "calibrating"):
            keep = counted(batch)
            calls.clear()
            run(model, batch)
    norms: dict[str, Norm] = {}
    for path in (path for path in specs if path in sums):
        norms[path], fit = sums[path].finish()
        note(path, fit, sums[path].seconds, sums[path].large)
    return norms
