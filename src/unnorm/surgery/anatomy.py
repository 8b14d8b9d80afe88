"""The anatomy of sites: what comes into each norm on real tokens, and what of it an elementwise norm will not follow.

A norm divides each token by the token's own size, so a model may let a token grow a hundredfold and never notice. An
elementwise norm sees one activation at a time. Three things make that hard, and all show in the original model: a first
position that is far larger than the rest (an attention sink, arXiv 2402.17762, 2603.05498), single other tokens that
are, and channels that are. `anatomy_verdict` says in words which of them there are.

Nothing is kept of a batch but counts and sums, so any number of batches fits in memory.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import DataError, ModelError
from unnorm.metrics.batches import counted_tokens
from unnorm.norms.curve import CurveNorm
from unnorm.norms.dyt import DyT
from unnorm.surgery.anatomy_verdict import LARGE_CHANNEL, AnatomyVerdict, SiteAnatomy, verdict
from unnorm.surgery.inputs import Inputs, as_batches, firsts
from unnorm.surgery.outliers import LARGE_TOKEN
from unnorm.surgery.passes import run, watched
from unnorm.surgery.sites import Site, find_sites

_LOW, _HIGH, _AN_OCTAVE = -40, 40, 96
"""Counted from 2^-40 to 2^40, in 96 bins an octave: each is 0.7 % wide."""


class Spread:
    """Counts of positive numbers in bins of equal ratio, with their exact sums and largest."""

    def __init__(self) -> None:
        self.counts = torch.zeros((_HIGH - _LOW) * _AN_OCTAVE, dtype=torch.int64)
        self.sum = self.squares = self.largest = 0.0

    def add(self, values: torch.Tensor) -> None:
        """Take in values [N], finite and not negative."""
        if not len(values):
            return
        values = values.cpu().double()
        bins = ((values.clamp_min(2.0**_LOW).log2() - _LOW) * _AN_OCTAVE).long().clamp_max(len(self.counts) - 1)
        self.counts += bins.bincount(minlength=len(self.counts))
        self.sum += float(values.sum())
        self.squares += float(values.square().sum())
        self.largest = max(self.largest, float(values.max()))

    @property
    def count(self) -> int:
        return int(self.counts.sum())

    @property
    def variation(self) -> float:
        """Standard deviation over mean."""
        mean = self.sum / self.count
        return math.sqrt(max(self.squares / self.count - mean**2, 0.0)) / max(mean, 1e-30)

    def quantile(self, share: float) -> float:
        """The number that `share` of all are not above, to within 0.7 %."""
        at = int(torch.searchsorted(self.counts.cumsum(0), max(1, math.ceil(share * self.count))))
        return float(2.0 ** (_LOW + (at + 0.5) / _AN_OCTAVE))

    def share_above(self, value: float) -> float:
        """Share of numbers above `value`, to the bin."""
        at = int((math.log2(max(value, 2.0**_LOW)) - _LOW) * _AN_OCTAVE)
        return int(self.counts[at + 1 :].sum()) / self.count


_FIT_TOKENS = 512  # of the first batch: what α is fitted to
_MOST_CHANNELS = 8  # named at a site


@dataclass(frozen=True)
class Anatomy:
    """What was found at each site, in execution order, on how many tokens and sequences, and what follows from it."""

    tokens: int
    sequences: int
    sites: tuple[SiteAnatomy, ...]
    verdict: AnatomyVerdict

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def site_anatomy(model: nn.Module, batches: Inputs | Iterable[Inputs]) -> Anatomy:
    """The anatomy of every norm site of `model`, which must not be swapped yet.

    batches: token ids [B, T] or model inputs (`input_ids` [B, T], perhaps an `attention_mask`, or `position_ids` that
    start anew with each sequence of a packed row, and then `tokens` [B], how many a row holds before its padding), or
    an iterable of either, which is gone through once. Padding is left out. Raises `ModelError` for a swapped model or a
    site with non-finite inputs, `DataError` where there are no tokens.
    """
    sites = find_sites(model)
    swapped = [site.path for site in sites if not site.kind.startswith(("layernorm", "rmsnorm"))]
    if swapped:
        raise ModelError(
            f"{swapped[0]} is swapped already. The anatomy says what a swap will meet, so look at the original."
        )
    device = next(model.parameters()).device
    found = {site.path: _Sums(site) for site in sites}
    tokens = sequences = 0
    here: list[torch.Tensor] = []  # of the batch that runs: where tokens are, and which of them are first, [B, T] each

    def see(path: str, x: torch.Tensor, y: torch.Tensor) -> None:
        keep, first = here
        found[path].add(_of_tokens(x, keep), _of_tokens(y, keep), first)

    with watched(model, found, see):
        for batch in [batches] if isinstance(batches, (torch.Tensor, Mapping)) else batches:
            (inputs,) = as_batches(batch)
            inputs = {name: tensor.to(device) for name, tensor in inputs.items()}
            keep = counted_tokens(inputs)
            here[:] = keep, firsts(inputs)[keep]
            run(model, inputs)
            tokens, sequences = tokens + int(keep.sum()), sequences + int(here[1].sum())
    if tokens <= sequences:
        raise DataError("there are no sequences of more than one token. Give more text.")
    done = tuple(found[site.path].finish() for site in sites if found[site.path].sizes.count)
    return Anatomy(tokens, sequences, done, verdict(done))


def _of_tokens(x: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
    """x at the N tokens that `keep` [B, T] counts, [N, H, C] (H heads, or 1), in whatever form its site sees it."""
    rows, length = keep.shape
    if x.ndim == 4 and x.shape[:2] != keep.shape:
        x = x.transpose(1, 2)  # heads before positions
    elif x.ndim == 2 and x.shape[0] == keep.numel():
        x = x.view(rows, length, -1)
    if x.shape[:2] != keep.shape:
        raise ModelError(
            f"a norm sees a tensor {tuple(x.shape)} of {rows} rows of {length}: no token is to be told there."
        )
    return x[keep].reshape(int(keep.sum()), -1, x.shape[-1])


class _Sums:
    """Counts and sums at one site."""

    def __init__(self, site: Site) -> None:
        self.site, self.centred = site, site.kind.startswith("layernorm")
        self.sizes, self.first = Spread(), Spread()
        self.squares = torch.zeros(site.width, dtype=torch.float64)  # of tokens other than the first
        self.fitted: tuple[CurveNorm, ...] = ()  # one α, one a channel
        self.flat = torch.zeros(2, site.width, dtype=torch.float64)
        self.seen = 0

    def add(self, x: torch.Tensor, y: torch.Tensor, first: torch.Tensor) -> None:
        """x, y [N, H, C], what comes in and out at N tokens (H heads, or 1); first [N]."""
        x = x.float()
        size = (x.var(-1, unbiased=False) if self.centred else x.square().mean(-1)).sqrt()  # [N, H]
        if not bool(size.isfinite().all()):
            raise ModelError(f"what comes into {self.site.path} is not finite. Load the model in fp32 or bf16.")
        self.sizes.add(size[~first].flatten())
        self.first.add(size[first].flatten())
        self.squares += x[~first].flatten(0, 1).square().sum(0).cpu().double()
        x, y = x.flatten(0, 1), y.flatten(0, 1)
        if not self.fitted:
            some = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))[:_FIT_TOKENS].to(x.device)
            self.fitted = tuple(_fit(spec, x[some], y[some]) for spec in (DyT(), DyT(alpha="channel")))
        for norm, flat in zip(self.fitted, self.flat, strict=True):
            flat += (norm.inner(x).abs_() > norm.spec.flat_beyond).sum(0).cpu()
        self.seen += len(x)

    def finish(self) -> SiteAnatomy:
        spread = (self.squares / self.sizes.count).sqrt()
        times = spread / spread.median().clamp_min(1e-30)
        out = [int(c) for c in times.argsort(descending=True)[:_MOST_CHANNELS] if times[c] >= LARGE_CHANNEL]
        one, channel = (self.flat.sum(1) / self.seen / self.site.width).tolist()
        median = self.sizes.quantile(0.5)
        return SiteAnatomy(
            path=self.site.path,
            role=self.site.role,
            kind=self.site.kind,
            width=self.site.width,
            order=self.site.order,
            first=self.first.quantile(0.5),
            median=median,
            low=self.sizes.quantile(0.05),
            high=self.sizes.quantile(0.95),
            variation=self.sizes.variation,
            largest=self.sizes.largest,
            large=self.sizes.share_above(LARGE_TOKEN * median),
            channels=tuple((c, round(float(times[c]), 1)) for c in out),
            saturation=one,
            saturation_channel=channel,
            flat_channels=int((self.flat[0] > self.seen / 2).sum()),
        )


def _fit(spec: DyT, x: torch.Tensor, y: torch.Tensor) -> CurveNorm:
    norm = spec.build(x.shape[-1], x.device)
    spec.fit_(norm, x, y)
    return norm
