"""Swap norms in place, and undo it until the model is saved."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import ModelError, SettingsError, SiteError
from unnorm.foundation.hashing import digest_tensors, hash_digests
from unnorm.norms.spec import Norm, NormSpec
from unnorm.surgery.base import unwrapped
from unnorm.surgery.calibrate import CalibrationReport, Mode, calibrate, restore_layers
from unnorm.surgery.correct import Correct
from unnorm.surgery.finite import check_finite
from unnorm.surgery.inputs import Inputs
from unnorm.surgery.patterns import assign
from unnorm.surgery.sites import Site, affine_of, find_sites

_RECORD = "_unnorm_record"


@dataclass(frozen=True)
class StandsOn:
    """Where the weights around the swapped norms can be loaded from again: a base, or an artefact's folder."""

    name: str
    digests: dict[str, str] = field(repr=False)
    """Name -> digest of its tensors (see `digest_tensors`)."""
    artefact: bool = False
    swapped: bool = False
    """Whether the swapped norms are among those tensors, so that an adapter need not bring them."""


@dataclass
class SwapRecord:
    """What was swapped in a model: kept on the model, written into the manifest by `save`."""

    base_name: str
    base_hash: str
    sites: list[Site]
    specs: dict[str, NormSpec]
    calibration: CalibrationReport | None
    replaced: dict[str, nn.Module] = field(default_factory=dict, repr=False)
    """The old modules, until the model is saved."""
    dtype: torch.dtype | None = None
    """Of the weights around them when they were replaced."""
    corrected: list[str] = field(default_factory=list)
    """Paths of the linear layers whose weights were corrected."""
    originals: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)
    """The corrected layers' parameters as they were, until the model is saved."""
    measured: dict[str, Any] | None = None
    """How far the swapped model was from its original on held-out tokens: gap, loss, original_loss, kl, tokens."""
    recovered: dict[str, Any] | None = None
    """What a recovery learnt from and what learnt: tokens, train, data; objective where it is not `kl`."""
    stands_on: StandsOn | None = field(default=None, repr=False)
    """What an adapter on this model would have to be put on; None on the meta device."""
    before: "SwapRecord | None" = field(default=None, repr=False)
    """The record that this one took the place of: of an artefact in which nothing was swapped."""


@dataclass(frozen=True)
class SwapReport:
    """What `swap_` did: the sites it swapped (as they were before), the specs, and the fit where it calibrated.

    unreached: paths of the sites that were left alone since a forward pass on token ids does not come by, such as a
    vision tower's, or cross-attention's of a decoder without its encoder.
    """

    sites: tuple[Site, ...]
    specs: dict[str, NormSpec]
    calibration: CalibrationReport | None
    unreached: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        return {
            "sites": [site.to_dict() for site in self.sites],
            "specs": {path: spec.to_dict() for path, spec in self.specs.items()},
            "calibration": self.calibration.to_dict() if self.calibration else None,
            "unreached": list(self.unreached),
        }


def swap_(
    model: nn.Module,
    specs: NormSpec | Mapping[str, NormSpec | None],
    *,
    calibrate_on: Inputs | Iterable[Inputs] | None,
    mode: Mode = "one-pass",
    outliers: float | None = None,
    correct: Correct = "none",
    inherit: bool = False,
) -> SwapReport:
    """Replace norms of `model`, in place.

    specs: one spec for every site that a forward pass on token ids reaches, or a mapping from site pattern to spec
    (exact path, else role, else glob, or `re:...`; the first match wins; None leaves a site alone; the report names
    what was not reached). calibrate_on is required: token ids [B, T], model inputs, an iterable of them, or None for a
    bare start. New parameters are fp32 on the old ones' device; a norm's output has its input's dtype.

    mode, outliers, correct: as in `calibrate`; `correct` changes the weights of linear layers around the sites too.
    inherit: a bare start with the pretrained γ and β instead of 1 and 0.

    Raises `SiteError` if a pattern matches nothing or a site has nothing that can be inherited, `ModelError` if the
    model is swapped already or its logits are not finite.
    """
    model = unwrapped(model)
    before = record_of(model)
    if before is not None and before.sites:
        raise ModelError("this model is swapped already. Undo it with unnorm.unswap_(model), or load the base afresh.")
    if calibrate_on is None and (correct != "none" or outliers):
        raise SettingsError("correct and outliers belong to a calibration: give tokens as calibrate_on.")
    if calibrate_on is not None and inherit:
        raise SettingsError("a calibration sets γ and β itself: inherit goes with calibrate_on=None.")
    sites = find_sites(model)
    assigned = assign(sites, specs)
    check_finite(model)
    base_name, base_hash, stands_on = _base_of(model, before)
    chosen = [site for site in sites if site.path in assigned]
    report: CalibrationReport | None = None
    originals: dict[str, dict[str, Any]] = {}
    if calibrate_on is None:
        norms = {site.path: assigned[site.path].build(site.width, _device_of(model, site.path)) for site in chosen}
        for site in chosen if inherit else []:
            assigned[site.path].inherit_(norms[site.path], *_inherited(model, site))
    else:
        done = calibrate(model, chosen, assigned, calibrate_on, mode=mode, outliers=outliers, correct=correct)
        norms, report, originals = done.norms, done.report, done.originals
    record = SwapRecord(
        base_name=base_name,
        base_hash=base_hash,
        sites=chosen,
        specs=assigned,
        calibration=report,
        corrected=list(originals),
        originals=originals,
        stands_on=stands_on,
        before=before,
    )
    record.replaced, record.dtype = place_(model, norms), _dtype_around(model, norms)
    set_record(model, record)
    alone = tuple(site.path for site in sites if not site.is_reached and site.path not in assigned)
    return SwapReport(tuple(record.sites), dict(assigned), report, alone)


def unswap_(model: nn.Module) -> None:
    """Put the old norms back, in place. Possible until the model is saved; otherwise a `ModelError`.

    They go to the device, the mode and the dtype that the model is in now.
    """
    model = unwrapped(model)
    record = record_of(model)
    if record is None or not record.replaced:
        raise ModelError("there is nothing to undo: the model is not swapped, or was saved, loaded or optimized since.")
    dtype = _dtype_around(model, record.replaced)
    for path, module in record.replaced.items():
        if dtype not in (None, record.dtype) and {p.dtype for p in module.parameters()} == {record.dtype}:
            module.to(dtype)
        module.train(model.get_submodule(path).training)
        model.set_submodule(path, module.to(_device_of(model, path)))
    restore_layers(model, record.originals)
    if record.before is not None:
        set_record(model, record.before)
    else:
        delattr(model, _RECORD)


def settle_(model: nn.Module) -> None:
    """Let go of what `unswap_` would put back: from here on the swap cannot be undone, and copies are smaller."""
    record = record_of(model)
    if record is not None:
        record.replaced, record.originals = {}, {}


def keep_base_(model: nn.Module) -> None:
    """Keep on a model whose pretrained norms stay what its base is, before its weights change; nothing is swapped."""
    assert record_of(model) is None, "its base is known"
    name, digest, stands_on = _base_of(model, None)
    set_record(model, SwapRecord(name, digest, sites=[], specs={}, calibration=None, stands_on=stands_on))


def place_(model: nn.Module, norms: Mapping[str, Norm]) -> dict[str, nn.Module]:
    """Put `norms` at their paths, in the train/eval mode of what they replace, which is returned."""
    replaced = {}
    for path, norm in norms.items():
        old = model.get_submodule(path)
        replaced[path] = old
        model.set_submodule(path, norm.train(old.training))
    return replaced


def record_of(model: nn.Module) -> SwapRecord | None:
    """The record of what was swapped in `model`, or None."""
    return getattr(model, _RECORD, None)


def set_record(model: nn.Module, record: SwapRecord) -> None:
    """Keep `record` on `model`."""
    object.__setattr__(model, _RECORD, record)


def _base_of(model: nn.Module, before: SwapRecord | None) -> tuple[str, str, StandsOn | None]:
    """Name and hash of the pretrained base of an unswapped model, and where its weights lie."""
    if before is not None:
        stands_on = None if before.stands_on is None else replace(before.stands_on, swapped=False)
        return before.base_name, before.base_hash, stands_on
    name = str(getattr(getattr(model, "config", None), "_name_or_path", ""))
    if next(model.parameters()).is_meta:
        return name, "", None
    digests = digest_tensors(model.state_dict())
    return name, hash_digests(digests), StandsOn(name, digests)


def _inherited(model: nn.Module, site: Site) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """(γ, β) of the old norm at `site`, [C] each or None. A norm with others for each head has none: a `SiteError`."""
    parts = affine_of(model.get_submodule(site.path), site)
    if any(part is not None and part.ndim > 1 for part in parts):
        raise SiteError(
            f"{site.path} has a γ of its own for each head, and a new norm there has one for all of them, so that it "
            f"cannot inherit it. Calibrate instead (calibrate_on), or leave these sites alone: {{{site.role!r}: None}}."
        )
    return parts


def _dtype_around(model: nn.Module, sites: Iterable[str]) -> torch.dtype | None:
    """The dtype of the first weight that stands at none of `sites`."""
    there = tuple(f"{path}." for path in sites)
    weights = ((name, parameter) for name, parameter in model.named_parameters() if parameter.is_floating_point())
    return next((parameter.dtype for name, parameter in weights if not name.startswith(there)), None)


def _device_of(model: nn.Module, path: str) -> Any:
    parameter = next(model.get_submodule(path).parameters(), None)
    return (parameter if parameter is not None else next(model.parameters())).device
