"""The arms: what stands at the norm sites, and how it was started there."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from unnorm.foundation.errors import SettingsError
from unnorm.foundation.nearest import did_you_mean
from unnorm.foundation.validation import Misplaced, dotted, sentence, shown, validated
from unnorm.norms.spec import NormSpec, known_norms, spec_from
from unnorm.norms.straight import why_not_straight
from unnorm.surgery.calibrate import Mode
from unnorm.surgery.correct import Correct
from unnorm.tuning.recover_settings import RecoverSettings, amiss_blockwise

CALIBRATION_TOKENS = 4096
CORRECTION_TOKENS = 16384
RECOVERED_TOKENS = 8192
"""Of a start that is recovered, which need not be as good, as all of it goes on learning."""
BENT_AFTER, STRAIGHT_AT = 0.4, 0.8
"""Shares of a recovery between which the curves of a swap are bent straight."""


class ArmRecovery(RecoverSettings):
    """What an arm's start learns before training, once for all cells and seeds that begin from it."""

    data: tuple[str, ...] | None = Field(
        default=None, min_length=1, description="what to distil on, each NAME or NAME=WEIGHT; default: the cell's data"
    )
    max_length: int | None = Field(default=None, gt=1, description="tokens a row; default: the cell's")
    held_out_tokens: int | None = Field(
        default=None, gt=0, description="tokens that the gap is measured on; default: by tokens, up to 20,000"
    )
    seed: int = Field(default=0, ge=0, lt=2**32)
    blockwise: bool = Field(
        default=False,
        description="blocks learn one at a time first: for models that do not fit twice",
        exclude_if=lambda blockwise: not blockwise,
    )

    @field_validator("blockwise")
    @classmethod
    def _blocks_learn(cls, blockwise: bool, info: ValidationInfo) -> bool:
        amiss = amiss_blockwise(*(info.data.get(key) for key in ("objective", "train", "straighten")))
        if blockwise and amiss:
            raise ValueError(amiss)
        return blockwise


class Arm(BaseModel):
    """One level of the factor under study."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    id: str = Field(
        pattern=r"^[a-z0-9][a-z0-9._-]*$",
        max_length=40,
        description="lower-case letters, digits, dots, dashes and underscores, a letter or digit first",
    )
    norm: dict[str, Any] | None = Field(default=None, description="the norm spec; none: the pretrained norms stay")
    calibration_tokens: int | None = Field(default=None, gt=0, description="tokens of the fit; none: a bare start")
    mode: Mode = Field(default="one-pass", description="how the fit goes over its tokens")
    outliers: float | None = Field(
        default=None,
        ge=0,
        lt=0.5,
        description="share of largest tokens left out at each site; default: those over five times the median size",
    )
    correct: Correct = Field(default="none", description="linear layers corrected: none, readers, all")
    inherit: bool = Field(default=False, description="a bare start with the pretrained γ and β")
    recover: ArmRecovery | None = Field(
        default=None, description="distillation before training", exclude_if=lambda value: value is None
    )
    artefact: str | None = Field(
        default=None,
        min_length=1,
        description="a folder with a swapped model of the cell's base: the cell begins from it as it is",
        exclude_if=lambda value: value is None,
    )

    @field_validator("norm")
    @classmethod
    def _whole(cls, norm: dict[str, Any] | None) -> dict[str, Any] | None:
        """Every setting written out, so that an arm's hash does not depend on which ones were left to default."""
        return spec_from(norm).to_dict() if norm is not None else None

    @field_validator("artefact")
    @classmethod
    def _at_home(cls, artefact: str | None) -> str | None:
        return str(Path(artefact).expanduser()) if artefact is not None else None

    @property
    def swaps(self) -> bool:
        """Whether its models have other norms than the pretrained ones."""
        return self.norm is not None or self.artefact is not None

    def spec(self) -> NormSpec | None:
        return spec_from(self.norm) if self.norm is not None else None


def known_arms() -> dict[str, dict[str, Any]]:
    """Id of each known arm -> its settings.

    `original`, and its controls: `original-recovered` (distilled into itself) and `original-trained` (trained on the
    same tokens by cross-entropy); for every norm NAME: `NAME` (calibrated), `NAME-corrected` (and the layers around
    it), `NAME-bare`, `NAME-inherit` (bare, with the pretrained γ and β), `NAME-recovered` (as corrected, one α a
    channel where there is an α, and distilled from the original); for DyT also `dyt-plain`, `dyt-paper`,
    `dyt-straightened` (as recovered, with curves that are bent straight in the second half of it: no norm is left) and
    `dyt-straightened-attention` (the same, but the MLPs keep their curves).
    """
    known: dict[str, dict[str, Any]] = {
        "original": {},
        "original-recovered": {"recover": ArmRecovery()},
        "original-trained": {"recover": ArmRecovery(objective="ce")},
    }
    for name in known_norms():
        norm = {"norm": {"norm": name}}
        fitted = {"calibration_tokens": CALIBRATION_TOKENS}
        known |= {
            name: {**norm, **fitted},
            f"{name}-corrected": {**norm, "calibration_tokens": CORRECTION_TOKENS, "correct": "all"},
            f"{name}-bare": norm,
            f"{name}-inherit": {**norm, "inherit": True},
            f"{name}-recovered": {
                "norm": _by_channel(norm["norm"]),
                "calibration_tokens": RECOVERED_TOKENS,
                "correct": "all",
                "recover": ArmRecovery(),
            },
        }
    bent = ArmRecovery(straighten=STRAIGHT_AT, straighten_after=BENT_AFTER)
    return known | {
        "dyt-plain": {"norm": {"norm": "dyt", "affine": False}},
        "dyt-paper": {"norm": {"norm": "dyt", "alpha_init": "paper"}},
        "dyt-straightened": {**known["dyt-recovered"], "recover": bent},
        "dyt-straightened-attention": {
            **known["dyt-recovered"],
            "recover": bent.model_copy(update={"straighten_sites": ("attention", "final")}),
        },
    }


def _by_channel(norm: dict[str, Any]) -> dict[str, Any]:
    """The norm with one α a channel, if it can have that."""
    try:
        return spec_from({**norm, "alpha": "channel"}).to_dict()
    except SettingsError:
        return norm


_CALIBRATE = {"tokens": "calibration_tokens", "mode": "mode", "outliers": "outliers", "correct": "correct"}
_OWN = ("calibrate", "inherit", "recover", "start")
"""Settings of an arm that are none of its norm."""
_ENDINGS = ("", "-corrected", "-recovered", "-bare", "-inherit")


def arm_from(entry: str | Mapping[str, Any]) -> Arm:
    """The arm that an entry means: a known id, or `{id, norm, calibrate: {tokens, mode, outliers, correct}, inherit,
    recover: {data, tokens, train, objective, target, ...}, ...the norm's own settings}`. `start: {calibrate, inherit,
    recover}` holds the same three together. Or `{id, artefact}`, which begins from a saved model.

    Without `calibrate` the start is bare. Without `norm` the pretrained norms stay, and there is `recover` alone. An
    unknown id, norm or setting is a `SettingsError`.
    """
    known = known_arms()
    if isinstance(entry, str):
        if entry not in known:
            norms = [name for name in known_norms() if name in known]
            of_norms = {name + ending for name in norms for ending in _ENDINGS}
            alone = [name for name in known if name not in of_norms]
            raise SettingsError(
                f"there is no arm {shown(entry)}.{did_you_mean(entry, known)} Known arms: {', '.join(alone)}; for each "
                f"norm NAME of {', '.join(norms)}: {', '.join('NAME' + ending for ending in _ENDINGS)}."
            )
        return Arm(id=entry, **known[entry])
    settings = dict(entry)
    name, norm = settings.pop("id", None), settings.pop("norm", None)
    stays = "norm" not in entry and {"recover", "start", "artefact"} & settings.keys()
    if not isinstance(name, str) or not (isinstance(norm, str) or stays):
        raise SettingsError(
            "an arm of your own needs an `id` and a `norm`, both text, as in {id: dyt-channel, norm: dyt}. Without a "
            "norm the pretrained ones stay, and it needs `recover`, as in {id: longer, recover: {objective: ce}}; or "
            "it begins from a saved model, as in {id: mine, artefact: recovered/model}.",
            *(["id"] if name is not None and not isinstance(name, str) else []),
            *(["norm"] if isinstance(name, str) and norm is not None else []),
        )
    if name in known:
        raise SettingsError(f"{name!r} is the id of a known arm. Give yours another id.", "id")
    if "artefact" in settings:
        return _saved_arm(name, settings.pop("artefact"), [*(["norm"] if norm is not None else []), *settings])
    return _arm(name, None if norm is None else {"norm": norm}, {}, settings)


def _saved_arm(name: str, artefact: Any, beside: list[str]) -> Arm:
    """The arm that begins from the folder `artefact`. beside: what else its entry sets, which is refused."""
    if beside:
        raise SettingsError(
            f"arm {name!r} begins from a saved model, which is swapped already: {beside[0]} has nothing to set. Keep "
            "one of the two.",
            beside[0],
        )
    try:
        return validated(Arm, {"id": name, "artefact": artefact})
    except Misplaced as error:
        raise SettingsError(f"arm {name!r}, {dotted(error.location)}: {sentence(error)}", *error.location) from error


def arm_with(arm: Arm, changes: Mapping[str, Any]) -> Arm:
    """`arm` under its own id, with settings of its norm or of its start put over its own, as `arm_from` takes them."""
    if not changes:
        return arm
    if "norm" in changes:  # with the old norm's settings, and under its name, it would be neither of the two
        raise SettingsError(
            f"arm {arm.id!r} is what its norm makes it, so no other norm can be set in it. Take the arm of that norm, "
            "or an arm of your own, as in {id: mine, norm: derf}.",
            "norm",
        )
    if arm.norm is None and arm.recover is None:
        why = "keeps the pretrained norms" if arm.artefact is None else "begins from a saved model"
        raise SettingsError(f"arm {arm.id!r} {why}: there is nothing to set in it.")
    start = arm.model_dump(exclude={"id", "norm"})
    return _arm(arm.id, arm.norm, start, dict(changes))


def _arm(name: str, norm: dict[str, Any] | None, start: dict[str, Any], settings: dict[str, Any]) -> Arm:
    """The arm of `norm` and `start`, with `settings` put over them. Takes what it knows out of `settings`."""
    options = dict(start)
    begin = _options(
        settings, name, "start", {key: key for key in _OWN if key != "start"}, "{calibrate: {tokens: 8192}}"
    )
    twice = sorted(set(begin or {}) & set(settings))
    if twice:
        raise SettingsError(
            f"arm {name!r}: {twice[0]} stands both in start and beside it. Keep one of the two.", twice[0]
        )
    settings |= begin or {}
    if "inherit" in settings:
        options["inherit"] = settings.pop("inherit")
    calibrate = _options(settings, name, "calibrate", _CALIBRATE, "{tokens: 8192}")
    if calibrate is not None:
        correct = calibrate.get("correct", options.get("correct", "none"))
        if options.get("calibration_tokens") is None:
            options["calibration_tokens"] = CORRECTION_TOKENS if correct != "none" else CALIBRATION_TOKENS
        options |= {_CALIBRATE[key]: value for key, value in calibrate.items()}
    recover = _options(
        settings, name, "recover", {key: key for key in ArmRecovery.model_fields}, "{tokens: 10_000_000}"
    )
    if recover is not None:
        options["recover"] = {**(options.get("recover") or {}), **recover}
    if norm is None:
        whole = None
        given = ["calibrate"] * (calibrate is not None) + ["inherit"] * bool(options.get("inherit"))
        _check_stays(name, [*given, *settings], recovers=recover is not None or "recover" in start)
    else:
        whole = {**norm, **settings}
        try:
            spec_from(whole)
        except SettingsError as error:
            hint = did_you_mean(error.location[0], _OWN) if error.location and error.location[0] in settings else ""
            raise SettingsError(f"{error}{hint}", *error.location) from error
    try:
        arm = validated(Arm, {"id": name, "norm": whole, **options})
    except Misplaced as error:
        location = _as_written(error.location)
        raise SettingsError(f"arm {name!r}, {dotted(location)}: {sentence(error)}", *location) from error
    _check_recovery(arm)
    return arm


def _check_stays(name: str, given: list[str], *, recovers: bool) -> None:
    """Refuse an arm without a norm to which more was `given` than a recovery, or nothing."""
    if given:
        raise SettingsError(
            f"arm {name!r} has no norm, so the pretrained ones stay, and there is nothing that {given[0]} could set. "
            f"Add a norm, or leave it out.{did_you_mean(given[0], _OWN)}",
            given[0],
        )
    if not recovers:
        raise SettingsError(
            f"arm {name!r} has neither a norm nor a recover, so it would be the arm original. Add one of them."
        )


def _check_recovery(arm: Arm) -> None:
    if arm.recover is None:
        return
    if arm.recover.train == "corrected" and arm.correct == "none":
        mend = "Add `correct: all` to its calibrate." if arm.norm is not None else "Let all weights learn."
        raise SettingsError(
            f"arm {arm.id!r}: recover.train is 'corrected', and the arm corrects no layers. {mend}", "recover", "train"
        )
    spec = arm.spec()
    why = "is the pretrained one" if spec is None else why_not_straight(spec)
    if arm.recover.straighten is not None and why is not None:
        raise SettingsError(
            f"arm {arm.id!r}: recover.straighten cannot bend its norm, which {why}. Take the norm dyt, or leave "
            "straighten out.",
            "recover",
            "straighten",
        )
    if arm.norm is None and arm.recover.target is not None:
        raise SettingsError(
            f"arm {arm.id!r} keeps the pretrained norms, so it would be at its recover.target before it learnt "
            "anything. Leave the target out, here and in the arms that this one is compared with.",
            "recover",
            "target",
        )


def _as_written(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Where a field of an arm stands in its entry."""
    for option, field in _CALIBRATE.items():
        if location[:1] == (field,):
            return "calibrate", option
    return location


def _options(
    settings: dict[str, Any], arm: str, key: str, fields: Mapping[str, str], example: str
) -> dict[str, Any] | None:
    """The options under `key`, taken out of `settings`; None where the key is not there."""
    if key not in settings:
        return None
    options = settings.pop(key)
    takes = f"arm {arm!r}: {key} takes {', '.join(sorted(fields))} and nothing else, as in {example}."
    if not isinstance(options, Mapping):
        raise SettingsError(takes, key)
    for name, value in options.items():
        if name not in fields:
            raise SettingsError(takes + did_you_mean(name, fields), key, str(name))
        if value is None:  # which these fields take, and mean nothing of the kind by
            raise SettingsError(f"arm {arm!r}: {key}.{name} has no value.", key, str(name))
    return dict(options)
