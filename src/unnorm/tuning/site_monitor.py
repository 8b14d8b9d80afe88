"""α and saturation at every site with a curve (DyT and kin) in training, from a few tokens a step: it costs nothing."""

from typing import Any

import torch
from torch import nn

from unnorm.norms.curve import CurveNorm, saturation
from unnorm.surgery.base import under_adapters
from unnorm.tuning.sharded import whole

_TOKENS = 64


class SiteMonitor:
    """Watches the sites' active modules through forward hooks. `read` gives the last training step's values."""

    def __init__(self, model: Any, site_paths: list[str]) -> None:
        inner = under_adapters(model)
        self._modules: dict[str, CurveNorm] = {}
        self._saturation: dict[str, torch.Tensor] = {}
        for path in site_paths:
            module = active_module(inner.get_submodule(path))
            if isinstance(module, CurveNorm):
                self._modules[path] = module
                module.register_forward_hook(lambda m, args, out, path=path: self._see(path, m, args[0]))

    def _see(self, path: str, module: CurveNorm, x: torch.Tensor) -> None:
        if module.training:
            tokens = x.detach().flatten(0, -2)
            self._saturation[path] = saturation(module, tokens[:: max(1, len(tokens) // _TOKENS)])

    def read(self) -> dict[str, dict[str, float]]:
        """`alpha` (its mean over channels) and `saturation`, each path -> value."""
        if not self._modules:
            return {}
        alpha = {path: whole(module, "alpha").mean() for path, module in self._modules.items()}
        return {"alpha": _numbers(alpha), "saturation": _numbers(self._saturation)}


def _numbers(scalars: dict[str, torch.Tensor]) -> dict[str, float]:
    """The values of scalars, for which a GPU is waited for once and not once each."""
    return dict(zip(scalars, torch.stack(list(scalars.values())).tolist(), strict=True)) if scalars else {}


def active_module(module: nn.Module) -> nn.Module:
    """The module that runs at a site: peft's trained copy where there is one."""
    copies = getattr(module, "modules_to_save", None)
    return copies["default"] if copies is not None and "default" in copies else module


def active_norms(model: Any, site_paths: list[str]) -> list[nn.Module]:
    """The modules that run at the sites of `model`, which may have adapters around it."""
    inner = under_adapters(model)
    return [active_module(inner.get_submodule(path)) for path in site_paths]
