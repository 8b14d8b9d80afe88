"""A cell's answers to the prompts of the study."""

from pathlib import Path

from unnorm.data.templates import template_of
from unnorm.evaluation.generate import generate
from unnorm.evaluation.questions import questions_hash, read_questions
from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json
from unnorm.study.after.model import load_model
from unnorm.study.plan import Planned
from unnorm.study.spec import Completions
from unnorm.study.view import COMPLETIONS
from unnorm.surgery.base import load_tokenizer

_STAGE = "completions.json"


def completions_key(cell: Planned, wanted: Completions) -> str:
    """What the answers depend on, as one hash."""
    questions = questions_hash(read_questions(wanted.prompts))
    return hash_json([cell.cell, questions, wanted.model_dump(), cell.settings.data.template])


def is_complete(cell: Planned, wanted: Completions) -> bool:
    """Whether the cell's answers are those that are wanted, and all there."""
    stage = cell.folder / _STAGE
    return stage.is_file() and atomic.read_json(stage).get("key") == completions_key(cell, wanted)


def complete(cell: Planned, wanted: Completions) -> None:
    """Write the cell's completions.jsonl. The model is the one that the cell saved, loaded as a user would load it."""
    folder: Path = cell.folder
    tokenizer = load_tokenizer(str(folder / "model"))
    template = template_of(cell.settings.data.template, tokenizer)
    generate(
        load_model(cell),
        tokenizer,
        read_questions(wanted.prompts),
        folder / COMPLETIONS,
        render=template.prompt,
        template=template.identity,
        temperature=wanted.temperature,
        max_new_tokens=wanted.max_new_tokens,
        seed=cell.settings.seed,
        replace=True,
    )
    atomic.write_json(folder / _STAGE, {"key": completions_key(cell, wanted)})
