"""unnorm: replace the norms of a pretrained language model, and measure honestly what that costs and buys.

Whatever `docs/python.md` does not name is private: it lists `__all__`, and public modules beside it. Names are imported
when first used: the command line starts fast.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unnorm.artefacts.loading import check as check
    from unnorm.artefacts.loading import load as load
    from unnorm.artefacts.package import package as package
    from unnorm.artefacts.saving import save as save
    from unnorm.data.settings import DataSettings as DataSettings
    from unnorm.evaluation.held_out import evaluate as evaluate
    from unnorm.evaluation.held_out import score_data as score_data
    from unnorm.evaluation.judges.interface import Verdict as Verdict
    from unnorm.evaluation.latency import Workload as Workload
    from unnorm.evaluation.latency import compare_latency as compare_latency
    from unnorm.evaluation.losses import losses as losses
    from unnorm.foundation.errors import UnnormError as UnnormError
    from unnorm.norms.affine import AffineSpec as AffineSpec
    from unnorm.norms.curve import CurveSpec as CurveSpec
    from unnorm.norms.derf import Derf as Derf
    from unnorm.norms.dyisru import DyISRU as DyISRU
    from unnorm.norms.dyt import DyT as DyT
    from unnorm.norms.fixed_scale import FixedScale as FixedScale
    from unnorm.norms.spec import NormSpec as NormSpec
    from unnorm.norms.spec import register as register
    from unnorm.surgery.anatomy import site_anatomy as site_anatomy
    from unnorm.surgery.optimize import optimize_ as optimize_
    from unnorm.surgery.sites import find_sites as find_sites
    from unnorm.surgery.swap import swap_ as swap_
    from unnorm.surgery.swap import unswap_ as unswap_
    from unnorm.tuning.blockwise import recover_blockwise_ as recover_blockwise_
    from unnorm.tuning.recover import recover_ as recover_

    __version__: str

_HOME = {
    "AffineSpec": "unnorm.norms.affine:AffineSpec",
    "CurveSpec": "unnorm.norms.curve:CurveSpec",
    "DataSettings": "unnorm.data.settings:DataSettings",
    "Derf": "unnorm.norms.derf:Derf",
    "DyISRU": "unnorm.norms.dyisru:DyISRU",
    "DyT": "unnorm.norms.dyt:DyT",
    "FixedScale": "unnorm.norms.fixed_scale:FixedScale",
    "NormSpec": "unnorm.norms.spec:NormSpec",
    "UnnormError": "unnorm.foundation.errors:UnnormError",
    "Verdict": "unnorm.evaluation.judges.interface:Verdict",
    "Workload": "unnorm.evaluation.latency:Workload",
    "check": "unnorm.artefacts.loading:check",
    "compare_latency": "unnorm.evaluation.latency:compare_latency",
    "evaluate": "unnorm.evaluation.held_out:evaluate",
    "find_sites": "unnorm.surgery.sites:find_sites",
    "load": "unnorm.artefacts.loading:load",
    "losses": "unnorm.evaluation.losses:losses",
    "optimize_": "unnorm.surgery.optimize:optimize_",
    "package": "unnorm.artefacts.package:package",
    "recover_": "unnorm.tuning.recover:recover_",
    "recover_blockwise_": "unnorm.tuning.blockwise:recover_blockwise_",
    "register": "unnorm.norms.spec:register",
    "save": "unnorm.artefacts.saving:save",
    "score_data": "unnorm.evaluation.held_out:score_data",
    "site_anatomy": "unnorm.surgery.anatomy:site_anatomy",
    "swap_": "unnorm.surgery.swap:swap_",
    "unswap_": "unnorm.surgery.swap:unswap_",
}
__all__ = ["__version__", *_HOME]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("unnorm")
    if name not in _HOME:
        raise AttributeError(f"module 'unnorm' has no attribute {name!r}")
    return resolve_name(_HOME[name])


def __dir__() -> list[str]:
    return sorted(__all__)
