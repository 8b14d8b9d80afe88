"""Stages after training, each a task of its own that is done again only if what shaped it has changed."""

from pathlib import Path
from typing import Any

from unnorm.artefacts.loading import load
from unnorm.data.templates import template_of
from unnorm.evaluation.generate import generate
from unnorm.evaluation.questions import questions_hash, read_questions
from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json
from unnorm.study.cell import CellSettings
from unnorm.study.spec import Completions
from unnorm.study.view import COMPLETIONS
from unnorm.surgery.base import load_tokenizer

_KEY = "completions.json"


def completions_key(settings: CellSettings, cell: str, wanted: Completions) -> str:
    """Hash of what shapes a cell's completions. Reads the prompts: a mistake in them is a `DataError`."""
    questions = read_questions(wanted.prompts)
    return hash_json([cell, questions_hash(questions), wanted.model_dump(), settings.data.template])


def has_completions(folder: Path, key: str) -> bool:
    """Whether the cell's folder holds completions of this key."""
    path = folder / _KEY
    found: dict[str, Any] = atomic.read_json(path) if path.is_file() else {}
    return found.get("key") == key


def complete_cell(settings: CellSettings, folder: Path, wanted: Completions, out: Path, key: str) -> str:
    """Write the completions of the cell in `folder` into the folder `out`, or go on with them. A line for people.

    The model is the one that the cell saved, loaded as a user would load it.
    """
    base = None if settings.strategy == "full" else settings.model
    model = load(folder / "model", base=base)
    tokenizer = load_tokenizer(str(folder / "model"))
    template = template_of(settings.data.template, tokenizer)
    made = generate(
        model,
        tokenizer,
        read_questions(wanted.prompts),
        out / COMPLETIONS,
        render=template.prompt,
        template=template.identity,
        temperature=wanted.temperature,
        max_new_tokens=wanted.max_new_tokens,
        seed=settings.seed,
        replace=True,
    )
    atomic.write_json(out / _KEY, {"key": key})
    return f"{made.answers} answers in {made.seconds:.0f} s"
