"""The arms: what stands at the norm sites, and how it was started there."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from unnorm.foundation.errors import SettingsError
from unnorm.norms.spec import NormSpec, known_norms, spec_from
from unnorm.surgery.calibrate import Mode
from unnorm.surgery.correct import Correct
from unnorm.tuning.recover_settings import RecoverSettings

CALIBRATION_TOKENS = 4096
CORRECTION_TOKENS = 16384


class ArmRecovery(RecoverSettings):
    """The distillation that an arm's start goes through, once for all cells and seeds that begin from it."""

    data: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="what to distil on, each NAME or NAME=WEIGHT; default: the cell's data"
    )
    max_length: int | None = Field(default=None, gt=1, description="tokens a row; default: the cell's")
    held_out_tokens: int = Field(default=20_000, gt=0, description="tokens that the gap is measured on")
    seed: int = Field(default=0, ge=0, lt=2**32)


class Arm(BaseModel):
    """One level of the factor under study."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    id: str = Field(pattern=r"^[a-z0-9][a-z0-9._-]*$", max_length=40)
    norm: dict[str, Any] | None = Field(default=None, description="the norm spec; none: the pretrained norms stay")
    calibration_tokens: int | None = Field(default=None, gt=0, description="tokens of the fit; none: a bare start")
    mode: Mode = Field(default="one-pass", description="how the fit goes over its tokens")
    outliers: float = Field(default=0.0, ge=0, lt=0.5, description="share of largest tokens left out at each site")
    correct: Correct = Field(default="none", description="linear layers corrected: none, readers, all")
    inherit: bool = Field(default=False, description="a bare start with the pretrained γ and β")
    recover: ArmRecovery | None = Field(
        default=None, description="distillation before training", exclude_if=lambda value: value is None
    )

    @field_validator("norm")
    @classmethod
    def _whole(cls, norm: dict[str, Any] | None) -> dict[str, Any] | None:
        """Every setting written out, so that an arm's hash does not depend on which ones were left to default."""
        return spec_from(norm).to_dict() if norm is not None else None

    def spec(self) -> NormSpec | None:
        return spec_from(self.norm) if self.norm is not None else None


def known_arms() -> dict[str, Arm]:
    """`original`; for every norm NAME: `NAME` (calibrated), `NAME-corrected` (and the layers around it), `NAME-bare`,
    `NAME-inherit` (bare, with the pretrained γ and β), `NAME-recovered` (calibrated, one α a channel where there is
    an α, and distilled from the original); for DyT also `dyt-plain` and `dyt-paper`."""
    arms = [Arm(id="original")]
    for name in known_norms():
        norm = {"norm": name}
        arms += [
            Arm(id=name, norm=norm, calibration_tokens=CALIBRATION_TOKENS),
            Arm(id=f"{name}-corrected", norm=norm, calibration_tokens=CORRECTION_TOKENS, correct="all"),
            Arm(id=f"{name}-bare", norm=norm),
            Arm(id=f"{name}-inherit", norm=norm, inherit=True),
            Arm(
                id=f"{name}-recovered",
                norm=_by_channel(norm),
                calibration_tokens=CALIBRATION_TOKENS,
                recover=ArmRecovery(),
            ),
        ]
    arms += [
        Arm(id="dyt-plain", norm={"norm": "dyt", "affine": False}),
        Arm(id="dyt-paper", norm={"norm": "dyt", "alpha_init": "paper"}),
    ]
    return {arm.id: arm for arm in arms}


def _by_channel(norm: dict[str, Any]) -> dict[str, Any]:
    """The norm with one α a channel, if it can have that."""
    try:
        return spec_from({**norm, "alpha": "channel"}).to_dict()
    except SettingsError:
        return norm


_CALIBRATE = {"tokens": "calibration_tokens", "mode": "mode", "outliers": "outliers", "correct": "correct"}


def arm_from(entry: str | Mapping[str, Any]) -> Arm:
    """The arm that an entry means: a known id, or `{id, norm, calibrate: {tokens, mode, outliers, correct}, inherit,
    recover: {data, tokens, train, target, ...}, ...the norm's own settings}`. `start: {calibrate, inherit, recover}`
    holds the same three together.

    Without `calibrate` the start is bare. An unknown id, norm or setting is a `SettingsError`.
    """
    known = known_arms()
    if isinstance(entry, str):
        if entry not in known:
            raise SettingsError(f"there is no arm {entry!r}. Known arms: {', '.join(known)}.")
        return known[entry]
    settings = dict(entry)
    name, norm = settings.pop("id", None), settings.pop("norm", None)
    if not isinstance(name, str) or not isinstance(norm, str):
        raise SettingsError("an arm of your own needs an `id` and a `norm`, as in {id: dyt-channel, norm: dyt}.")
    if name in known:
        raise SettingsError(f"{name!r} is the id of a known arm. Give yours another id.")
    return _arm(name, {"norm": norm}, {}, settings)


def arm_with(arm: Arm, changes: Mapping[str, Any]) -> Arm:
    """`arm` under its own id, with settings of its norm or of its start put over its own, as `arm_from` takes them."""
    if not changes:
        return arm
    if arm.norm is None:
        raise SettingsError(f"arm {arm.id!r} keeps the pretrained norms: there is nothing to set in it.")
    start = arm.model_dump(exclude={"id", "norm"})
    return _arm(arm.id, arm.norm, start, dict(changes))


def _arm(name: str, norm: dict[str, Any], start: dict[str, Any], settings: dict[str, Any]) -> Arm:
    """The arm of `norm` and `start`, with `settings` put over them. Takes what it knows out of `settings`."""
    options = dict(start)
    begin = _options(settings, name, "start", {"calibrate", "inherit", "recover"}, "{calibrate: {tokens: 8192}}")
    twice = sorted(set(begin or {}) & set(settings))
    if twice:
        raise SettingsError(f"arm {name!r}: {twice[0]} stands both in start and beside it. Keep one of the two.")
    settings |= begin or {}
    if "inherit" in settings:
        options["inherit"] = settings.pop("inherit")
    calibrate = _options(settings, name, "calibrate", set(_CALIBRATE), "{tokens: 8192}")
    if calibrate is not None:
        correct = calibrate.get("correct", options.get("correct", "none"))
        tokens = CORRECTION_TOKENS if correct != "none" else CALIBRATION_TOKENS
        options["calibration_tokens"] = options.get("calibration_tokens") or tokens
        options |= {_CALIBRATE[key]: value for key, value in calibrate.items()}
    recover = _options(settings, name, "recover", set(ArmRecovery.model_fields), "{tokens: 10_000_000}")
    if recover is not None:
        options["recover"] = {**(options.get("recover") or {}), **recover}
    if (options.get("recover") or {}).get("train") == "corrected" and options.get("correct", "none") == "none":
        raise SettingsError(
            f"arm {name!r}: recover.train is 'corrected', and the arm corrects no layers. "
            "Add `correct: all` to its calibrate."
        )
    whole = {**norm, **settings}
    spec_from(whole)
    try:
        return Arm(id=name, norm=whole, **options)
    except ValidationError as error:
        first = error.errors()[0]
        if first["loc"] == ("id",):
            raise SettingsError(f"arm id {name!r} must be lower-case letters, digits, dots and dashes.") from error
        where = ".".join(str(part) for part in first["loc"])
        raise SettingsError(f"arm {name!r}, {where}: {first['msg']}.") from error


def _options(settings: dict[str, Any], arm: str, key: str, allowed: set[str], example: str) -> dict[str, Any] | None:
    """The options under `key`, taken out of `settings`; None where the key is not there."""
    if key not in settings:
        return None
    options = settings.pop(key)
    if not isinstance(options, Mapping) or set(options) - allowed:
        raise SettingsError(f"arm {arm!r}: {key} takes {', '.join(sorted(allowed))} and nothing else, as in {example}.")
    for name in ("tokens", "steps"):
        value = options.get(name, 1)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise SettingsError(f"arm {arm!r}: {key}.{name} must be a whole number above 0, not {value!r}.")
    return dict(options)
