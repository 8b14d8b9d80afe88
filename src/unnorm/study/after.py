"""Stages after training, each a file of the cell that is made again only if what shaped it has changed."""

from pathlib import Path

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


def complete_cell(settings: CellSettings, cell: str, folder: Path, wanted: Completions) -> bool:
    """Write the cell's completions.jsonl, unless it is there for these prompts. Returns whether it was made now.

    The model is the one that the cell saved, loaded as a user would load it.
    """
    questions = read_questions(wanted.prompts)
    key = hash_json([cell, questions_hash(questions), wanted.model_dump(), settings.data.template])
    stage = folder / "completions.json"
    if stage.is_file() and atomic.read_json(stage).get("key") == key:
        return False
    base = None if settings.strategy == "full" else settings.model
    model = load(folder / "model", base=base)
    tokenizer = load_tokenizer(str(folder / "model"))
    template = template_of(settings.data.template, tokenizer)
    generate(
        model,
        tokenizer,
        questions,
        folder / COMPLETIONS,
        render=template.prompt,
        template=template.identity,
        temperature=wanted.temperature,
        max_new_tokens=wanted.max_new_tokens,
        seed=settings.seed,
        replace=True,
    )
    atomic.write_json(stage, {"key": key})
    return True
