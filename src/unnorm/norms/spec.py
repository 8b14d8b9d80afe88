"""What every norm offers: a spec that builds the module, fits it to tokens, and can be written to a file and read back.

A spec is a frozen pydantic model, so that one definition serves Python, the command line, files and docs. A norm
registers itself by its class attribute `norm`; `spec_from` builds a spec from that name and its settings.
"""

import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.nearest import did_you_mean
from unnorm.foundation.validation import Misplaced, dotted, sentence, shown, validated


class Fit(NamedTuple):
    """How well a norm was fitted at one site."""

    r2: float
    """Share of the old norm's output variance (around each channel's mean) that the new norm explains."""
    alpha: float | None
    """The input scale (its mean, where there is one a channel); None for a norm that has none."""
    saturation: float
    """Share of activations at which the norm is nearly flat."""


class Norm(nn.Module):
    """Base class of the modules that unnorm puts at a site. `spec` is the spec that built it, `width` its channels."""

    spec: "NormSpec"
    width: int


class NormSpec(BaseModel):
    """Configuration of a norm. Frozen; an unknown setting is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    norm: ClassVar[str]
    bounded: ClassVar[bool] = False
    """Whether the output stays within γ and β whatever comes in, so that no token must be in a fit to be kept in."""

    def build(self, width: int, device: torch.device | str | None = None) -> Norm:
        """A module of `width` channels at its bare start, in fp32 (its output has its input's dtype)."""
        raise NotImplementedError

    def fit_(self, module: Norm, x: torch.Tensor, y: torch.Tensor) -> Fit:
        """Set `module`'s parameters so that module(x) is close to y. x, y [N, C], any float dtype."""
        raise NotImplementedError

    def for_site(self, role: str, width: int) -> "NormSpec":
        """This spec with whatever depends on the site settled. role: one of surgery's roles."""
        return self

    def inherit_(self, module: Norm, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        """Give `module` the old norm's γ and β, [C] each, where it has such parameters."""
        raise SettingsError(f"the norm {self.norm!r} has no γ and β to take over.")

    def to_dict(self) -> dict[str, Any]:
        """Name and settings, as `spec_from` reads them."""
        return {"norm": self.norm, **self.model_dump()}


_REGISTRY: dict[str, type[NormSpec]] = {}


def register(spec: type[NormSpec]) -> type[NormSpec]:
    """Class decorator: make a spec known by its `norm` name. A name that another class has is a `SettingsError`."""
    known = _REGISTRY.get(spec.norm)
    if known is not None and (known.__module__, known.__qualname__) != (spec.__module__, spec.__qualname__):
        raise SettingsError(f"the norm name {spec.norm!r} is taken by {known.__module__}.{known.__qualname__}.")
    _REGISTRY[spec.norm] = spec
    return spec


def known_norms() -> list[str]:
    """Names of all norms there are, those of the user's own files included."""
    _load_own()
    return sorted(_REGISTRY)


OWN_NORMS = "UNNORM_NORMS"
"""Environment variable: Python files that define norms of the user's own, separated as in PATH."""


def _load_own() -> None:
    """Run each file of `UNNORM_NORMS` once; it registers what it defines."""
    for entry in filter(None, os.environ.get(OWN_NORMS, "").split(os.pathsep)):
        path = Path(entry).expanduser().resolve()
        name = f"unnorm_norms_of_{path.stem}"
        if name in sys.modules:
            continue
        if not path.is_file():
            raise SettingsError(f"{OWN_NORMS} names {entry}, which is not a file.")
        module = ModuleType(name)
        module.__file__ = str(path)
        sys.modules[name] = module
        try:
            exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
        except Exception as error:
            del sys.modules[name]
            raise SettingsError(f"{path}, named by {OWN_NORMS}, failed: {type(error).__name__}: {error}.") from error


def spec_from(settings: dict[str, Any]) -> NormSpec:
    """The spec that `NormSpec.to_dict` wrote. A `SettingsError` for an unknown norm or setting lists what there is."""
    settings = dict(settings)
    name = settings.pop("norm", None)
    if not isinstance(name, str) or name not in _REGISTRY:
        _load_own()
    if not isinstance(name, str) or name not in _REGISTRY:
        raise SettingsError(
            f"there is no norm named {shown(name)}.{did_you_mean(name, _REGISTRY)} "
            f"Known norms: {', '.join(sorted(_REGISTRY))}. "
            f"One of your own: import the file that defines it, or name that file in {OWN_NORMS}.",
            "norm",
        )
    try:
        return validated(_REGISTRY[name], settings)
    except Misplaced as error:
        message = f"norm {name!r}, setting {dotted(error.location)!r}: {sentence(error)}"
        raise SettingsError(message, *error.location) from error
