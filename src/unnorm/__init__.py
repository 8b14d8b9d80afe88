"""unnorm: replace the norms of a pretrained language model, and measure honestly what that costs and buys.

Whatever `docs/python.md` does not name is private: it lists `__all__`, and public modules beside it. Names are imported
when first used: the command line starts fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unnorm.artefacts.loading import check, load
    from unnorm.artefacts.package import package
    from unnorm.artefacts.saving import save
    from unnorm.data.settings import DataSettings
    from unnorm.evaluation.held_out import evaluate, score_data
    from unnorm.evaluation.judges.interface import Verdict
    from unnorm.evaluation.latency import Workload, compare_latency
    from unnorm.evaluation.losses import losses
    from unnorm.foundation.errors import UnnormError
    from unnorm.norms.affine import AffineSpec
    from unnorm.norms.curve import CurveSpec
    from unnorm.norms.derf import Derf
    from unnorm.norms.dyisru import DyISRU
    from unnorm.norms.dyt import DyT
    from unnorm.norms.fixed_scale import FixedScale
    from unnorm.norms.spec import NormSpec, register
    from unnorm.surgery.anatomy import site_anatomy
    from unnorm.surgery.optimize import optimize_
    from unnorm.surgery.sites import find_sites
    from unnorm.surgery.swap import swap_, unswap_
    from unnorm.tuning.blockwise import recover_blockwise_
    from unnorm.tuning.recover import recover_

    __version__: str

__all__ = [
    "AffineSpec",
    "CurveSpec",
    "DataSettings",
    "Derf",
    "DyISRU",
    "DyT",
    "FixedScale",
    "NormSpec",
    "UnnormError",
    "Verdict",
    "Workload",
    "__version__",
    "check",
    "compare_latency",
    "evaluate",
    "find_sites",
    "load",
    "losses",
    "optimize_",
    "package",
    "recover_",
    "recover_blockwise_",
    "register",
    "save",
    "score_data",
    "site_anatomy",
    "swap_",
    "unswap_",
]

_HOME = {
    "AffineSpec": "unnorm.norms.affine",
    "CurveSpec": "unnorm.norms.curve",
    "DataSettings": "unnorm.data.settings",
    "Derf": "unnorm.norms.derf",
    "DyISRU": "unnorm.norms.dyisru",
    "DyT": "unnorm.norms.dyt",
    "FixedScale": "unnorm.norms.fixed_scale",
    "NormSpec": "unnorm.norms.spec",
    "UnnormError": "unnorm.foundation.errors",
    "Verdict": "unnorm.evaluation.judges.interface",
    "Workload": "unnorm.evaluation.latency",
    "check": "unnorm.artefacts.loading",
    "compare_latency": "unnorm.evaluation.latency",
    "evaluate": "unnorm.evaluation.held_out",
    "find_sites": "unnorm.surgery.sites",
    "load": "unnorm.artefacts.loading",
    "losses": "unnorm.evaluation.losses",
    "optimize_": "unnorm.surgery.optimize",
    "package": "unnorm.artefacts.package",
    "recover_": "unnorm.tuning.recover",
    "recover_blockwise_": "unnorm.tuning.blockwise",
    "register": "unnorm.norms.spec",
    "save": "unnorm.artefacts.saving",
    "score_data": "unnorm.evaluation.held_out",
    "site_anatomy": "unnorm.surgery.anatomy",
    "swap_": "unnorm.surgery.swap",
    "unswap_": "unnorm.surgery.swap",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("unnorm")
    if name not in _HOME:
        raise AttributeError(f"module 'unnorm' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
