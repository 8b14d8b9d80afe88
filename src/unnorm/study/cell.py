"""What a cell is: its settings, resolved configuration and hash, and what trains in it. `run_cell.py` runs it."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from unnorm.data.settings import DataSettings
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.hashing import hash_json
from unnorm.foundation.precision import choose
from unnorm.study import threads
from unnorm.study.arms import Arm
from unnorm.study.recovered_start import StartSettings, plan_start, start_settings
from unnorm.study.slices import short_name
from unnorm.study.workbench import Workbench
from unnorm.surgery.patterns import select
from unnorm.surgery.sites import reached_sites
from unnorm.tuning.compiled_blocks import check_blocks_compilable
from unnorm.tuning.device_rows import check_shares
from unnorm.tuning.settings import SPREAD, Strategy, TrainingSettings
from unnorm.tuning.strategies import Trainable, apply_strategy


class CellSettings(BaseModel):
    """Everything that shapes a cell's result."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    model: str
    base_name: str | None = Field(default=None, description="what results call the model; default: its own name")
    arm: Arm
    strategy: Strategy = "frozen"
    data: DataSettings
    training: TrainingSettings = TrainingSettings()
    evaluation_tokens: int = Field(default=100_000, gt=0)
    evaluate_every_tokens: int = Field(default=200_000, gt=0)
    checkpoint_every_tokens: int = Field(default=200_000, gt=0)
    seed: int = Field(default=0, ge=0, lt=2**32)
    epochs: int | None = Field(default=None, gt=0, description="until the data is read: stands for training.tokens")
    beside: tuple[DataSettings, ...] = Field(
        default=(), description="what the study's cells are judged on, where the arm's start learns from named data"
    )

    @property
    def model_name(self) -> str:
        """What results call it: the name that was given, else a hub id as it is, or a folder's last part."""
        return self.base_name or short_name(self.model)

    @property
    def dataset_name(self) -> str:
        """What results call it."""
        return self.data.name or short_name(self.data.source)

    def resolved(self, base_hash: str, data_hash: str, encoding: dict[str, Any]) -> dict[str, Any]:
        """The configuration as plain values: its hash is the cell's name.

        Base and data are named by their content, not by where they lie; how often the run is saved and how many devices
        it is spread over change no result. Nor do names that people gave them: here they have their own.
        encoding: what else shapes the data's rows (`Source.encoding`).
        """
        not_hashed = ("model", "base_name", "checkpoint_every_tokens", "data", "epochs", "beside")
        left_out: dict[str, Any] = dict.fromkeys(not_hashed, True)
        left_out["training"] = SPREAD
        return {
            "format": 1,
            "model": {"name": short_name(self.model), "hash": base_hash},
            "data": {
                "name": short_name(self.data.source),
                "hash": data_hash,
                **encoding,
            },
            **self.model_dump(exclude=left_out),
        }

    def rows_per_step(self) -> int:
        """Rows a step: batch_tokens / max_length, which must come out whole, and be shared equally by its devices."""
        rows, rest = divmod(self.training.batch_tokens, self.data.max_length)
        if rest or not rows:
            raise SettingsError(
                f"batch_tokens ({self.training.batch_tokens}) must be a multiple of max_length "
                f"({self.data.max_length}): a step is made of whole rows."
            )
        check_shares(rows, self.training.devices)
        return rows


def start_of(settings: CellSettings) -> StartSettings | None:
    """The recovered start that the cell begins from; None where its arm recovers nothing."""
    return start_settings(
        settings.model,
        settings.arm,
        settings.data,
        settings.training,
        beside=settings.beside,
        base_name=settings.base_name,
    )


def settled(settings: CellSettings, bench: Workbench) -> CellSettings:
    """The same cell with the precisions that are used here, and with its length in tokens, however the file gives them.

    Reads base and data if the length is in epochs. A `SettingsError` if the precision is not to be had here.
    """
    if settings.training.compile or (settings.arm.recover is not None and settings.arm.recover.compile):
        check_blocks_compilable(settings.training.sharding)
    changes: dict[str, Any] = {"precision": choose(settings.training.precision).name}
    if settings.epochs is not None:
        changes["tokens"] = settings.epochs * bench.source(settings.data, settings.model).epoch_tokens()
    training = settings.training.model_copy(update=changes)
    arm = settings.arm
    if arm.recover is not None:
        recover = arm.recover.model_copy(update={"precision": choose(arm.recover.precision).name})
        arm = arm.model_copy(update={"recover": recover})
    return settings.model_copy(update={"training": training, "arm": arm, "epochs": None})


def cell_of(settings: CellSettings, bench: Workbench) -> tuple[str, dict[str, Any]]:
    """(hash, resolved configuration) of a settled cell. Reads base and data, trains nothing; the user's mistakes show
    here."""
    assert settings.epochs is None, "a cell is settled before it is named"
    assert settings.training.precision != "auto", "a cell is settled before it is named"
    settings.rows_per_step()
    base = bench.base(settings.model)
    threads.settle(base.hash, base.model)  # as early as there is a model: fitting and measuring are products too
    source = bench.source(settings.data, settings.model)
    resolved = settings.resolved(base.hash, source.hash, source.encoding)
    saved = bench.saved_identity(settings.model, settings.arm)
    if saved is not None:
        resolved["arm"]["artefact"] = saved  # as base and data: by what it is, not by where it lies
    start = start_of(settings)
    if start is not None:
        names = [short_name(data.source) for data, _ in start.data]
        resolved["start"] = {"key": plan_start(start, bench, Path()).key, "data": names}
    return hash_json(resolved), resolved


def set_up(model: Any, settings: CellSettings) -> tuple[Any, Trainable, list[str]]:
    """Make a start train what the cell's strategy says: the model, what trains, and the paths of all its norm sites."""
    sites = reached_sites(model)  # what no text reaches learns nothing from it
    chosen = settings.training.train_sites
    trained = select(sites, chosen) if chosen is not None else sites
    model, trainable = apply_strategy(
        model,
        settings.strategy,
        site_paths=[site.path for site in trained],
        lora=settings.training.lora,
        seed=settings.seed,
    )
    return model, trainable, [site.path for site in sites]
