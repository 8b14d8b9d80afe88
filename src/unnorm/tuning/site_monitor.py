"""α and saturation at every site with a curve (DyT and kin) in training, from a few tokens a step: it costs nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from unnorm.norms.curve import CurveNorm, saturation
from unnorm.surgery.base import under_adapters
from unnorm.surgery.passes import hooked
from unnorm.tuning.sharded import whole

_TOKENS = 64
_SEEN = "saturation_seen"
"""A site's share of flat activations in its last training step: an attribute of its module."""


class SiteMonitor:
    """Watches the sites' active modules while `watching` is open. `read` gives the last training step's values."""

    def __init__(self, model: Any, site_paths: list[str]) -> None:
        inner = under_adapters(model)
        self._modules: dict[str, CurveNorm] = {}
        for path in site_paths:
            module = active_module(inner.get_submodule(path))
            if isinstance(module, CurveNorm):
                self._modules[path] = module

    @contextmanager
    def watching(self) -> Iterator[None]:
        """While open, forward hooks stand on the curves; when closed, also by an error, nothing is left of them."""
        try:
            with hooked([module.register_forward_hook(_see) for module in self._modules.values()]):
                yield
        finally:
            for module in self._modules.values():
                module.__dict__.pop(_SEEN, None)

    def read(self) -> dict[str, dict[str, float]]:
        """`alpha` (its mean over channels) and `saturation`, each path -> value."""
        if not self._modules:
            return {}
        alpha = {path: whole(module, "alpha").mean() for path, module in self._modules.items()}
        seen = {path: module.__dict__[_SEEN] for path, module in self._modules.items() if _SEEN in module.__dict__}
        return {"alpha": _numbers(alpha), "saturation": _numbers(seen)}


def _see(module: CurveNorm, args: Any, out: torch.Tensor) -> None:
    """One function for all sites, which keeps what it finds in the module: compiled blocks then share one code."""
    if module.training:
        tokens = args[0].detach().flatten(0, -2)
        setattr(module, _SEEN, saturation(module, tokens[:: max(1, len(tokens) // _TOKENS)]))


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
