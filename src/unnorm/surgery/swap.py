"""Swap norms in place, and undo it until the model is saved."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from unnorm.foundation.errors import ModelError
from unnorm.foundation.hashing import hash_tensors
from unnorm.norms.spec import Norm, NormSpec
from unnorm.surgery.calibrate import CalibrationReport, Inputs, calibrate
from unnorm.surgery.patterns import assign
from unnorm.surgery.sites import Site, find_sites

_RECORD = "_unnorm_record"


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


@dataclass(frozen=True)
class SwapReport:
    """What `swap_` did: the sites it swapped (as they were before), the specs, and the fit where it calibrated."""

    sites: tuple[Site, ...]
    specs: dict[str, NormSpec]
    calibration: CalibrationReport | None

    def to_dict(self) -> dict[str, Any]:
        return {
            "sites": [site.to_dict() for site in self.sites],
            "specs": {path: spec.to_dict() for path, spec in self.specs.items()},
            "calibration": self.calibration.to_dict() if self.calibration else None,
        }


def swap_(
    model: nn.Module,
    specs: NormSpec | Mapping[str, NormSpec | None],
    *,
    calibrate_on: Inputs | Iterable[Inputs] | None,
) -> SwapReport:
    """Replace norms of `model`, in place.

    specs: one spec for every site, or a mapping from site pattern to spec (exact path, else role, else glob, or
    `re:...`; the first match wins; None leaves a site alone). calibrate_on is required: token ids [B, T], model
    inputs, an iterable of them, or None for a bare start. New parameters are fp32 on the old ones' device; a norm's
    output has its input's dtype.

    Raises `SiteError` if a pattern matches nothing, `ModelError` if the model is swapped already.
    """
    if record_of(model) is not None:
        raise ModelError("this model is swapped already. Undo it with unnorm.unswap_(model), or load the base afresh.")
    sites = find_sites(model)
    assigned = assign(sites, specs)
    base_hash = "" if next(model.parameters()).is_meta else hash_tensors(model.state_dict())
    report: CalibrationReport | None = None
    if calibrate_on is None:
        norms = {
            site.path: assigned[site.path].build(site.width, _device_of(model, site.path))
            for site in sites
            if site.path in assigned
        }
    else:
        norms, report = calibrate(model, assigned, calibrate_on)
    record = SwapRecord(
        base_name=str(getattr(getattr(model, "config", None), "_name_or_path", "")),
        base_hash=base_hash,
        sites=[site for site in sites if site.path in assigned],
        specs=assigned,
        calibration=report,
    )
    record.replaced = place_(model, norms)
    set_record(model, record)
    return SwapReport(tuple(record.sites), dict(assigned), report)


def unswap_(model: nn.Module) -> None:
    """Put the old norms back, in place. Possible until the model is saved; otherwise a `ModelError`."""
    record = record_of(model)
    if record is None or not record.replaced:
        raise ModelError("there is nothing to undo: the model is not swapped, or was saved or loaded since.")
    for path, module in record.replaced.items():
        device = _device_of(model, path)
        _set_submodule(model, path, module.to(device))
    delattr(model, _RECORD)


def place_(model: nn.Module, norms: Mapping[str, Norm]) -> dict[str, nn.Module]:
    """Put `norms` at their paths, in the train/eval mode of what they replace, which is returned."""
    replaced = {}
    for path, norm in norms.items():
        old = model.get_submodule(path)
        replaced[path] = old
        _set_submodule(model, path, norm.train(old.training))
    return replaced


def record_of(model: nn.Module) -> SwapRecord | None:
    """The record of what was swapped in `model`, or None."""
    return getattr(model, _RECORD, None)


def set_record(model: nn.Module, record: SwapRecord) -> None:
    """Keep `record` on `model`."""
    object.__setattr__(model, _RECORD, record)


def _device_of(model: nn.Module, path: str) -> Any:
    parameter = next(model.get_submodule(path).parameters(), None)
    return (parameter if parameter is not None else next(model.parameters())).device


def _set_submodule(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
