"""The model that a cell saved, as a user would load it."""

from typing import Any

from unnorm.artefacts.loading import load
from unnorm.study.plan import Planned
from unnorm.study.recovered_start import MODEL


def load_model(cell: Planned, *, merged: bool = False) -> Any:
    """The fine-tuned model of a cell that is done. merged: with its adapter, if it has one, in its weights."""
    below = str(cell.start.folder / MODEL) if cell.start else cell.settings.model
    base = None if cell.settings.strategy == "full" else below
    model = load(cell.folder / "model", base=base)
    return model.merge_and_unload() if merged and hasattr(model, "peft_config") else model
