"""Calibrate: fit each new norm to real tokens, before any training and without a gradient.

`one-pass` (the default) runs one batch through the model as it is being converted. At each site, in execution order,
the old norm says what it would give on the present input, the new norm is fitted to that in closed form, and the pass
goes on with the new norm's output: so each site is fitted on the activations that it will really see, errors of
earlier sites included. `sequential` does the same for more tokens than memory holds, block by block (`blockwise`);
`parallel` fits every site to the original model's activations, from running sums over any number of batches
(`parallel`). A norm that is called at several places of the model (Llama 4's of queries and keys) is fitted so in every
mode, to all of its places together.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from torch import nn

from unnorm.foundation.errors import DataError, ModelError, SettingsError
from unnorm.foundation.progress import Bar
from unnorm.metrics.batches import inputs_of
from unnorm.norms.spec import Fit, Norm, NormSpec
from unnorm.surgery.blockwise import fit_blockwise
from unnorm.surgery.correct import Correct, Corrector, LayerFix
from unnorm.surgery.inputs import Inputs, as_batches, as_one_batch, counted, counted_rows, tokens_in
from unnorm.surgery.outliers import large_share, left_out, sizes, without_outliers
from unnorm.surgery.parallel import fit_parallel
from unnorm.surgery.passes import run, watched
from unnorm.surgery.site_sample import SiteSample, sample_site
from unnorm.surgery.sites import Site
from unnorm.surgery.vocabulary import check_ids

_FEW = 8  # tokens
Mode = Literal["one-pass", "sequential", "parallel"]


@dataclass(frozen=True)
class SiteFit:
    """How the new norm fits at one site: share of variance explained, α, share of saturated activations, seconds.

    large: share of tokens that are more than five times the median one's size, of all that came, fitted to or not.
    sample: some of the activations that it was fitted to; None in mode `parallel`, which keeps none.
    """

    path: str
    r2: float
    alpha: float | None
    saturation: float
    seconds: float
    large: float = 0.0
    sample: SiteSample | None = None


@dataclass(frozen=True)
class CalibrationReport:
    """What a calibration did: the tokens it saw, seconds in all and in fitting alone, and the fit at each site."""

    tokens: int
    seconds: float
    fit_seconds: float
    sites: tuple[SiteFit, ...]
    mode: str = "one-pass"
    outliers: float | None = None
    corrections: tuple[LayerFix, ...] = ()
    """The linear layers that were corrected, where that was asked for."""
    leaves_writers: bool = False
    """Whether layers that write to the residual stream were to be corrected and cannot be, as with fused experts."""
    several: tuple[str, ...] = ()
    """Paths of the sites that are called at several places, and were therefore fitted as in mode `parallel`."""

    @property
    def corrected(self) -> int:
        """How many linear layers were corrected; one may be so more than once, as a reader and before a norm."""
        return len({fix.path for fix in self.corrections})

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Calibrated:
    """Fitted norms by path, the report, and the parameters of every corrected layer as they were."""

    norms: dict[str, Norm]
    report: CalibrationReport
    originals: dict[str, dict[str, torch.Tensor]]


@torch.no_grad()
def calibrate(
    model: nn.Module,
    sites: list[Site],
    specs: Mapping[str, NormSpec],
    data: Inputs | Iterable[Inputs],
    *,
    mode: Mode = "one-pass",
    outliers: float | None = None,
    correct: Correct = "none",
) -> Calibrated:
    """Fitted norms for the sites `specs` names. The norms of `model` stay; layers around them are corrected in place.

    data: token ids [B, T], model inputs (`input_ids` [B, T], perhaps `position_ids` and an `attention_mask`, whose
    zeros are left out of the fit), or an iterable of either. `one-pass` puts all of it together into one batch.
    outliers: share of tokens, those of the largest input at a site, that its fit leaves out. Unless given, a norm that
    is bounded is fitted without the tokens over five times the median one's size (attention sinks), any other to all.
    correct: the linear layers to correct as well, `none`, `readers`, or `all` (readers, writers, and layers before
    norms of queries and keys; where the stream is not the sum of what layers and norms write, no writers, which the
    report says); `one-pass` only.
    """
    started = time.perf_counter()
    device = next(model.parameters()).device
    if outliers is not None and not 0 <= outliers < 0.5:
        raise SettingsError(f"outliers is a share of tokens from 0 to below 0.5, not {outliers}.")
    if correct != "none" and mode != "one-pass":
        raise SettingsError(f"layers can be corrected in one pass only, not in mode {mode!r}. Use mode='one-pass'.")
    batches = [as_one_batch(data)] if mode == "one-pass" else as_batches(data)
    for batch in batches:
        check_ids(model, batch["input_ids"])
    batches = [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
    centred = {site.path: site.kind.startswith("layernorm") for site in sites}
    norms: dict[str, Norm] = {}
    fits: dict[str, SiteFit] = {}

    def fit(path: str, x: torch.Tensor, y: torch.Tensor) -> Norm:
        """Fit and keep the norm at `path`; x, y [N, C]."""
        before = time.perf_counter()
        norms[path] = specs[path].build(x.shape[-1], x.device)
        large = large_share(sizes(x))
        spec = specs[path].beside_large_tokens() if large else specs[path]
        result = spec.fit_(norms[path], *without_outliers(x, y, left_out(spec, outliers)))
        seconds = time.perf_counter() - before
        note(path, result, seconds, large, sample_site(norms[path], x, y, centred=centred[path]))
        return norms[path]

    def note(path: str, result: Fit, seconds: float, large: float, sample: SiteSample | None = None) -> None:
        fits[path] = SiteFit(path, result.r2, result.alpha, result.saturation, seconds, large, sample)

    several = list(specs) if mode == "parallel" else called_at_several_places(model, list(specs), batches[0])
    rest = [path for path in specs if path not in several]
    corrector = Corrector(model, sites, correct) if correct != "none" else None
    try:
        if several:
            norms.update(fit_parallel(model, {path: specs[path] for path in several}, batches, outliers, note))
        if rest and mode == "one-pass":
            _one_pass(model, rest, batches[0], fit, norms, corrector)
        elif rest:
            fit_blockwise(model, rest, batches, fit, norms)
        if missed := [path for path in specs if path not in norms]:
            raise DataError(
                f"the forward pass did not reach {', '.join(missed)}, so there is nothing to calibrate on. Leave these "
                "sites alone, or start them bare."
            )
    except BaseException:
        if corrector is not None:
            restore_layers(model, corrector.originals)
        raise
    report = CalibrationReport(
        tokens=sum(tokens_in(batch) for batch in batches),
        seconds=time.perf_counter() - started,
        fit_seconds=sum(fit.seconds for fit in fits.values()),
        sites=tuple(fits[path] for path in specs),
        mode=mode,
        outliers=outliers,
        corrections=tuple(corrector.fixes) if corrector else (),
        leaves_writers=corrector is not None and corrector.leaves_writers,
        several=tuple(several) if mode != "parallel" else (),
    )
    return Calibrated({path: norms[path] for path in specs}, report, corrector.originals if corrector else {})


def called_at_several_places(model: nn.Module, paths: list[str], inputs: Mapping[str, torch.Tensor]) -> list[str]:
    """Those of the modules at `paths` that one forward calls more than once; a few tokens of `inputs` tell."""
    calls = Counter[str]()
    with watched(model, paths, lambda path, x, out: calls.update([path])):
        run(model, {name: tensor[:1, :_FEW] for name, tensor in inputs_of(inputs).items()})
    return [path for path in paths if calls[path] > 1]


def _one_pass(
    model: nn.Module,
    paths: list[str],
    inputs: dict[str, torch.Tensor],
    fit: Callable[[str, torch.Tensor, torch.Tensor], Norm],
    norms: dict[str, Norm],
    corrector: Corrector | None,
) -> None:
    """Fit the sites at `paths`; those that are in `norms` already give what their new norm gives."""
    keep = counted(inputs)
    fitted = list(norms)

    def fit_here(path: str, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        if path in fitted:
            return norms[path](x)  # type: ignore[no-any-return]
        if path in norms:
            raise ModelError(
                f"{path} is called at several places of {type(model).__name__} on this text, and one pass would fit it "
                "to the first alone. Calibrate with mode='parallel', or leave the site alone."
            )
        if corrector is not None:
            y = corrector.wanted(path, y)
        norm = fit(path, *counted_rows(keep, x, y))
        out: torch.Tensor = norm(x) if corrector is None else corrector.placed(path, norm, x)
        bar.advance()
        return out

    if corrector is not None:
        with (
            corrector.watch_original(),
            Bar("reading the original, site by site", len(paths)) as read,
            watched(model, paths, lambda path, x, out: read.advance()),
        ):
            run(model, inputs)
    at_work = nullcontext() if corrector is None else corrector.at_work(keep)
    title = "calibrating" if corrector is None else "correcting layers, site by site"
    with Bar(title, len(paths)) as bar, watched(model, [*fitted, *paths], fit_here), at_work:
        run(model, inputs)


def restore_layers(model: nn.Module, originals: Mapping[str, Mapping[str, torch.Tensor]]) -> None:
    """Give corrected layers their parameters back."""
    for path, parameters in originals.items():
        layer = model.get_submodule(path)
        with torch.no_grad():
            for name, value in parameters.items():
                layer.get_parameter(name).copy_(value)
