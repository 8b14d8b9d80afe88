"""What every norm offers: a spec that builds the module, fits it to tokens, and can be written to a file and read back.

A spec is a frozen pydantic model, so that one definition serves Python, the command line, files and docs. `spec_from`
builds one from the norm's name and its settings: unnorm's own norms stand in `NORMS`, the user's register themselves.
"""

import os
from collections.abc import Callable
from functools import cache
from pkgutil import resolve_name
from typing import Any, ClassVar, NamedTuple, Self

import torch
from pydantic import BaseModel, ConfigDict
from torch import nn

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.nearest import did_you_mean
from unnorm.foundation.own_code import run_file
from unnorm.foundation.validation import Misplaced, dotted, sentence, shown, validated
from unnorm.norms import NORMS


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


@cache
def fused() -> Callable[[Norm, torch.Tensor], torch.Tensor | None]:
    """What gives a norm's output by one kernel, for x [..., C] on CUDA, or None where there is none for it.

    Kernels know the norms that they are for, so they are imported when the first such tensor comes.
    """
    from unnorm.norms import kernels

    return kernels.fused


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

    def for_site(self, role: str, width: int, kind: str) -> "NormSpec":
        """This spec with whatever depends on the site settled. role: one of surgery's roles; kind: of the norm that
        stands there, "layernorm" or "rmsnorm" and what follows."""
        return self

    def beside_large_tokens(self) -> Self:
        """This spec for a fit at a site to which tokens of many times the usual size come, in the fit or left out."""
        return self

    def inherit_(self, module: Norm, weight: torch.Tensor | None, bias: torch.Tensor | None) -> None:
        """Give `module` the old norm's γ and β, [C] each, where it has such parameters."""
        raise SettingsError(f"the norm {self.norm!r} has no γ and β to take over.")

    def to_dict(self) -> dict[str, Any]:
        """Name and settings, as `spec_from` reads them."""
        return {"norm": self.norm, **self.model_dump()}


_REGISTRY: dict[str, type[NormSpec]] = {}
"""Those that registered themselves, beside `NORMS`."""


def register(spec: type[NormSpec]) -> type[NormSpec]:
    """Class decorator: make a spec known by its `norm` name. A name that another class has is a `SettingsError`."""
    itself = f"{spec.__module__}:{spec.__qualname__}"
    known = _REGISTRY.get(spec.norm)
    taken = f"{known.__module__}:{known.__qualname__}" if known is not None else NORMS.get(spec.norm, itself)
    if taken != itself:
        raise SettingsError(f"the norm name {spec.norm!r} is taken by {taken.replace(':', '.')}.")
    _REGISTRY[spec.norm] = spec
    return spec


def known_norms() -> list[str]:
    """Names of all norms there are, those of the user's own files included."""
    _load_own()
    return sorted({*NORMS, *_REGISTRY})


OWN_NORMS = "UNNORM_NORMS"
"""Environment variable: Python files that define norms of the user's own, separated as in PATH."""


def _load_own() -> None:
    """Run each file of `UNNORM_NORMS` once; it registers what it defines."""
    for file in filter(None, os.environ.get(OWN_NORMS, "").split(os.pathsep)):
        run_file(file, "norms", OWN_NORMS)


def spec_from(settings: dict[str, Any]) -> NormSpec:
    """The spec that `NormSpec.to_dict` wrote. A `SettingsError` for an unknown norm or setting lists what there is."""
    settings = dict(settings)
    name = settings.pop("norm", None)
    if name not in NORMS and name not in _REGISTRY:
        known = known_norms()
        if name not in known:
            raise SettingsError(
                f"there is no norm named {shown(name)}.{did_you_mean(name, known)} Known norms: {', '.join(known)}. "
                f"One of your own: import the file that defines it, or name that file in {OWN_NORMS}.",
                "norm",
            )
    kind: type[NormSpec] = _REGISTRY[name] if name in _REGISTRY else resolve_name(NORMS[name])
    try:
        return validated(kind, settings)
    except Misplaced as error:
        message = f"norm {name!r}, setting {dotted(error.location)!r}: {sentence(error)}"
        raise SettingsError(message, *error.location) from error
