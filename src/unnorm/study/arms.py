"""The arms: what stands at the norm sites, and how it was started there."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

from unnorm.foundation.errors import SettingsError
from unnorm.norms.spec import NormSpec, spec_from

CALIBRATION_TOKENS = 4096


class Arm(BaseModel):
    """One level of the factor under study."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9.-]*$", max_length=40)
    norm: dict[str, Any] | None = Field(default=None, description="the norm spec; none: the pretrained norms stay")
    calibration_tokens: int | None = Field(default=None, gt=0, description="tokens of the fit; none: a bare start")

    @field_validator("norm")
    @classmethod
    def _whole(cls, norm: dict[str, Any] | None) -> dict[str, Any] | None:
        """Every setting written out, so that an arm's hash does not depend on which ones were left to default."""
        return spec_from(norm).to_dict() if norm is not None else None

    def spec(self) -> NormSpec | None:
        return spec_from(self.norm) if self.norm is not None else None


def _known() -> dict[str, Arm]:
    fit = CALIBRATION_TOKENS
    return {
        "original": Arm(id="original"),
        "dyt": Arm(id="dyt", norm={"norm": "dyt"}, calibration_tokens=fit),
        "dyt-bare": Arm(id="dyt-bare", norm={"norm": "dyt"}),
        "dyt-plain": Arm(id="dyt-plain", norm={"norm": "dyt", "affine": False}),
    }


KNOWN = _known()


def arm_from(entry: str | Mapping[str, Any]) -> Arm:
    """The arm that an entry means: a known id, or `{id, norm, calibrate: {tokens}, ...the norm's own settings}`.

    Without `calibrate` the start is bare. An unknown id, norm or setting is a `SettingsError`.
    """
    if isinstance(entry, str):
        if entry not in KNOWN:
            raise SettingsError(f"there is no arm {entry!r}. Known arms: {', '.join(KNOWN)}.")
        return KNOWN[entry]
    settings = dict(entry)
    name, norm, calibrate = settings.pop("id", None), settings.pop("norm", None), settings.pop("calibrate", None)
    if not isinstance(name, str) or not isinstance(norm, str):
        raise SettingsError("an arm of your own needs an `id` and a `norm`, as in {id: dyt-channel, norm: dyt}.")
    if name in KNOWN:
        raise SettingsError(f"{name!r} is the id of a known arm. Give yours another id.")
    tokens = None
    if calibrate is not None:
        if not isinstance(calibrate, Mapping) or set(calibrate) - {"tokens"}:
            raise SettingsError(f"arm {name!r}: calibrate takes `tokens` and nothing else, as in {{tokens: 8192}}.")
        tokens = calibrate.get("tokens", CALIBRATION_TOKENS)
        if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 1:
            raise SettingsError(f"arm {name!r}: calibrate.tokens must be a whole number above 0, not {tokens!r}.")
    try:
        return Arm(id=name, norm={"norm": norm, **settings}, calibration_tokens=tokens)
    except ValueError as error:
        raise SettingsError(f"arm id {name!r} must be lower-case letters, digits, dots and dashes.") from error
