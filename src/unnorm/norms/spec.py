"""What every norm offers: a spec that builds the module, fits it to tokens, and can be written to a file and read back.

A spec is a frozen pydantic model, so that one definition serves Python, the command line, files and docs. A norm
registers itself by its class attribute `norm`; `spec_from` builds a spec from that name and its settings.
"""

from typing import Any, ClassVar, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import nn

from unnorm.foundation.errors import SettingsError


class Fit(NamedTuple):
    """How well a norm was fitted at one site."""

    r2: float
    """Share of the old norm's output variance (around each channel's mean) that the new norm explains."""
    alpha: float
    """The input scale (its mean, where there is one a channel)."""
    saturation: float
    """Share of activations with |α x| > 2, where the curve is nearly flat."""


def explained(prediction: torch.Tensor, y: torch.Tensor) -> float:
    """R² of a prediction of y, both [N, C]: 1 − squared error / variance of y around each channel's mean."""
    error = (prediction.float() - y.float()).square().sum(dtype=torch.float64)
    total = (y.float() - y.float().mean(0)).square().sum(dtype=torch.float64)
    return float(1 - error / total) if total > 0 else float(error == 0)


class Norm(nn.Module):
    """Base class of the modules that unnorm puts at a site. `spec` is the spec that built it, `width` its channels."""

    spec: "NormSpec"
    width: int


class NormSpec(BaseModel):
    """Configuration of a norm. Frozen; an unknown setting is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    norm: ClassVar[str]

    def build(self, width: int, device: torch.device | str | None = None) -> Norm:
        """A module of `width` channels at its bare start, in fp32 (its output has its input's dtype)."""
        raise NotImplementedError

    def fit_(self, module: Norm, x: torch.Tensor, y: torch.Tensor) -> Fit:
        """Set `module`'s parameters so that module(x) is close to y. x, y [N, C], any float dtype."""
        raise NotImplementedError

    def to_dict(self) -> dict[str, Any]:
        """Name and settings, as `spec_from` reads them."""
        return {"norm": self.norm, **self.model_dump()}


_REGISTRY: dict[str, type[NormSpec]] = {}


def register(spec: type[NormSpec]) -> type[NormSpec]:
    """Class decorator: make a spec known by its `norm` name."""
    _REGISTRY[spec.norm] = spec
    return spec


def spec_from(settings: dict[str, Any]) -> NormSpec:
    """The spec that `NormSpec.to_dict` wrote. A `SettingsError` for an unknown norm or setting lists what there is."""
    settings = dict(settings)
    name = settings.pop("norm", None)
    if name not in _REGISTRY:
        raise SettingsError(f"there is no norm named {name!r}. Known norms: {', '.join(sorted(_REGISTRY))}.")
    try:
        return _REGISTRY[name](**settings)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(
            f"norm {name!r}, setting {where!r}: {first['msg']}. "
            f"Its settings are: {', '.join(_REGISTRY[name].model_fields)}."
        ) from error
