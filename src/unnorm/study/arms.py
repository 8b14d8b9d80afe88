"""The arms: what stands at the norm sites, and how it was started there."""

from typing import Literal, NamedTuple

from unnorm.foundation.errors import SettingsError
from unnorm.norms.dyt import DyT
from unnorm.norms.spec import NormSpec


class Arm(NamedTuple):
    """spec: what is put at every site, None for the pretrained norms; calibrated: fitted to tokens, or a bare start."""

    spec: NormSpec | None
    calibrated: bool


ARMS = {
    "original": Arm(None, False),
    "dyt": Arm(DyT(), True),
    "dyt-bare": Arm(DyT(), False),
}


def arm_of(name: str, alpha: Literal["scalar", "channel"] = "scalar") -> Arm:
    """The arm `name`, with one α a site or one a channel. An unknown one is a `SettingsError`."""
    if name not in ARMS:
        raise SettingsError(f"there is no arm {name!r}. Known arms: {', '.join(ARMS)}.")
    arm = ARMS[name]
    if alpha == "scalar":
        return arm
    if not isinstance(arm.spec, DyT):
        raise SettingsError(f"arm {name!r} has no alpha to set.")
    return arm._replace(spec=arm.spec.model_copy(update={"alpha": alpha}))
