"""unnorm: replace the norms of a pretrained language model, and measure honestly what that costs and buys.

Whatever is not listed in `__all__` is private. Names are imported when first used: the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unnorm.artefacts.loading import check, load
    from unnorm.artefacts.package import package
    from unnorm.artefacts.saving import save
    from unnorm.evaluation.held_out import evaluate
    from unnorm.evaluation.latency import compare_latency
    from unnorm.foundation.errors import UnnormError
    from unnorm.norms.dyt import DyT
    from unnorm.surgery.anatomy import site_anatomy
    from unnorm.surgery.optimize import optimize_
    from unnorm.surgery.sites import find_sites
    from unnorm.surgery.swap import swap_, unswap_
    from unnorm.tuning.recover import recover_

__all__ = [
    "DyT",
    "UnnormError",
    "check",
    "compare_latency",
    "evaluate",
    "find_sites",
    "load",
    "optimize_",
    "package",
    "recover_",
    "save",
    "site_anatomy",
    "swap_",
    "unswap_",
]

_HOME = {
    "DyT": "unnorm.norms.dyt",
    "UnnormError": "unnorm.foundation.errors",
    "check": "unnorm.artefacts.loading",
    "compare_latency": "unnorm.evaluation.latency",
    "evaluate": "unnorm.evaluation.held_out",
    "find_sites": "unnorm.surgery.sites",
    "optimize_": "unnorm.surgery.optimize",
    "package": "unnorm.artefacts.package",
    "recover_": "unnorm.tuning.recover",
    "load": "unnorm.artefacts.loading",
    "save": "unnorm.artefacts.saving",
    "site_anatomy": "unnorm.surgery.anatomy",
    "swap_": "unnorm.surgery.swap",
    "unswap_": "unnorm.surgery.swap",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'unnorm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
