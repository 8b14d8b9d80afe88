"""A cell's answers to the prompts of the study."""

from pathlib import Path

from unnorm.data.templates import template_of
from unnorm.evaluation.generate import generate
from unnorm.evaluation.questions import questions_hash, read_questions
from unnorm.foundation.hashing import hash_json
from unnorm.study.after.stage import Stage, load_model
from unnorm.study.plan import Planned
from unnorm.study.sections import Completions
from unnorm.study.spec import StudyFile
from unnorm.study.view import COMPLETIONS
from unnorm.surgery.base import load_tokenizer
from unnorm.tuning.run_log import RunLog


def completions_key(cell: Planned, wanted: Completions) -> str:
    """Hash of what shapes a cell's answers. Reads the prompts: a mistake in them is a `DataError`."""
    questions = read_questions(wanted.prompts)
    return hash_json([cell.cell, questions_hash(questions), wanted.model_dump(), cell.settings.data.template])


def complete(cell: Planned, wanted: Completions, out: Path) -> str:
    """Write the cell's answers into the folder `out`, or go on with them. A line for people.

    The model is the one that the cell saved, loaded as a user would load it.
    """
    tokenizer = load_tokenizer(str(cell.folder / "model"))
    template = template_of(cell.settings.data.template, tokenizer)
    made = generate(
        load_model(cell),
        tokenizer,
        read_questions(wanted.prompts),
        out / COMPLETIONS,
        render=template.prompt,
        template=template.identity,
        temperature=wanted.temperature,
        max_new_tokens=wanted.max_new_tokens,
        seed=cell.settings.seed,
        replace=True,
    )
    return f"{made.answers} answers in {made.seconds:.0f} s"


def _check(spec: StudyFile) -> None:
    assert spec.after.completions is not None
    with spec.blamed("after", "completions", "prompts"):
        read_questions(spec.after.completions.prompts)


STAGE = Stage(
    "completions",
    of_pairs=False,
    folder=lambda cell, after: "completions",
    key=lambda cell, after: completions_key(cell, after.completions),
    run=lambda cell, after, out, quiet: complete(cell, after.completions, out),
    read=lambda folder, at, logs: {"completions": RunLog(folder / COMPLETIONS).read() if logs else []},
    check=_check,
)
