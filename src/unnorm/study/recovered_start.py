"""A recovered start: a base that was swapped and distilled once, from which any number of cells begin.

STARTS/KEY/   one such start, as `make_start` makes it; KEY is the hash of everything that shapes it

Nothing in it depends on a cell but, where the arm names no data of its own, the cell's data set.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel, ConfigDict

from unnorm.data.encoded_cache import tokenizer_hash
from unnorm.data.same_source import is_of
from unnorm.data.settings import DataSettings
from unnorm.foundation.hashing import hash_json
from unnorm.study.arms import Arm, ArmRecovery
from unnorm.study.recovery import Recovery, parse_data
from unnorm.study.slices import short_name
from unnorm.study.workbench import Workbench
from unnorm.tuning.recover_settings import RecoverSettings
from unnorm.tuning.settings import Sharding, TrainingSettings

STARTS = "starts"
"""In a ledger, and in the folder of a cell that is run by itself."""
MODEL = "model"
_HOW_ROWS_ARE_READ = {"repair", "map", "format", "policies"}
_WHERE_ROWS_ARE = {"source", "path", "subset", "split", "streaming"}


class StartSettings(BaseModel):
    """Everything that shapes a recovered start: the base, an arm that recovers, each data set and its weight; and what
    it is spread over, which shapes nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    base_name: str | None = None
    arm: Arm
    data: tuple[tuple[DataSettings, float], ...]
    devices: int = 1
    sharding: Sharding = "ddp"

    @property
    def wanted(self) -> ArmRecovery:
        assert self.arm.recover is not None, "a start's arm recovers"
        return self.arm.recover

    @property
    def model_name(self) -> str:
        return self.base_name or short_name(self.model)

    @property
    def data_names(self) -> list[str]:
        return [data.name or short_name(data.source) for data, _ in self.data]

    def recovery(self) -> Recovery:
        """The same as a recovery takes it."""
        wanted = self.wanted
        settings = RecoverSettings(**wanted.model_dump(include=set(RecoverSettings.model_fields)))
        return Recovery(
            settings,
            self.data,
            held_out_tokens=wanted.held_out_tokens,
            seed=wanted.seed,
            blockwise=wanted.blockwise,
            sharding=self.sharding,
        )


class PlannedStart(NamedTuple):
    """A start: its settings, the hash that names it, what was hashed, and its folder."""

    settings: StartSettings
    key: str
    resolved: dict[str, Any]
    folder: Path


def start_settings(
    model: str,
    arm: Arm,
    data: DataSettings,
    training: TrainingSettings | None = None,
    *,
    beside: Sequence[DataSettings] = (),
    base_name: str | None = None,
) -> StartSettings | None:
    """The start of a cell with this base, arm and data; None where the arm recovers nothing. training: the cell's,
    over whose devices it is spread. beside: all data that the study's cells are judged on. base_name: what results call
    the base.

    Data that the arm names are read as `unnorm recover` reads them, in the cell's template. One of the study's own data
    sets is read as the study does: its columns, format, policies and repair hold here too. What the study holds out of
    its data, and a search of the learning rate out of the cell's, is held out of the same data here.
    """
    if arm.recover is None:
        return None
    length = arm.recover.max_length or data.max_length
    training = training or TrainingSettings()
    over: dict[str, Any] = {"base_name": base_name, "devices": training.devices, "sharding": training.sharding}
    if arm.recover.data is None:
        own = data.model_copy(update={"max_length": length})
        return StartSettings(model=model, arm=arm, data=((own, 1.0),), **over)
    as_recover = {"max_length": length, "template": data.template, "loss_on": "all", "too_long": "split"}
    named = tuple(
        (
            _read_as(source, [data, *beside]).model_copy(
                update={**as_recover, "for_search": data.for_search and is_of(source, data)}
            ),
            weight,
        )
        for source, weight in parse_data(arm.recover.data)
    )
    return StartSettings(model=model, arm=arm, data=named, **over)


def _read_as(source: str, judged_on: Sequence[DataSettings]) -> DataSettings:
    """How a start reads a source: as the data set of that name does, or else the first one that is read from there; any
    other source plainly. It holds out the largest share of all of them, as that has in it what smaller ones hold out.
    """
    same = [data for data in judged_on if is_of(source, data)]
    if not same:
        return DataSettings(source=source)
    like = min(same, key=lambda data: (source != data.name, source != data.source))
    taken = _HOW_ROWS_ARE_READ | (_WHERE_ROWS_ARE if source in (like.name, like.source) else set())
    return DataSettings(
        **{"source": source, **like.model_dump(include=taken), "held_out": max(data.held_out for data in same)}
    )


def plan_start(settings: StartSettings, bench: Workbench, root: Path) -> PlannedStart:
    """The start in `root`. Reads base and data, trains nothing; the user's mistakes in them show here."""
    assert settings.wanted.precision != "auto", "a cell is settled before its start is named"
    base = bench.base(settings.model)
    total = sum(weight for _, weight in settings.data)
    resolved = {
        "format": 1,
        "model": {"hash": base.hash, "tokenizer": tokenizer_hash(base.tokenizer)},
        "data": [
            {**bench.identity(data, settings.model), "share": weight / total, "packed": base.packs}
            for data, weight in settings.data
        ],
        **settings.arm.model_dump(exclude={"id": True, "recover": {"data", "max_length"}}),
    }
    key = hash_json(resolved)
    return PlannedStart(settings, key, resolved, root / STARTS / key)
