"""A cell's answers to the prompts of the study."""

from pathlib import Path

from unnorm.data.templates import template_of
from unnorm.evaluation.generate import generate
from unnorm.evaluation.questions import questions_hash, read_questions
from unnorm.foundation.hashing import hash_json
from unnorm.study.after.stage import Stage, load_model
from unnorm.study.lease import TaskFolder, newest
from unnorm.study.plan import Planned
from unnorm.study.sections import Completions
from unnorm.study.spec import StudyFile
from unnorm.study.view import COMPLETIONS
from unnorm.surgery.base import load_tokenizer
from unnorm.tuning.run_log import RunLog

_UNNAMED = "completions"
"""The stage of ledgers that kept the answers of one study alone, in the cell's folder itself."""


def completions_key(cell: Planned, wanted: Completions) -> str:
    """Hash of what shapes a cell's answers. Reads the prompts: a mistake in them is a `DataError`."""
    questions = read_questions(wanted.prompts)
    return hash_json([cell.cell, questions_hash(questions), wanted.model_dump(), cell.settings.data.template])


def completions_stage(cell: Planned, wanted: Completions) -> str:
    """The name of the stage, and of its folder in the cell's: it is about these prompts and settings, so that studies
    which share a cell keep their own answers."""
    key = completions_key(cell, wanted)
    before = newest(TaskFolder(cell.folder, _UNNAMED))
    fits = before is not None and before.kind == "done" and before.content.get("key") == key
    return _UNNAMED if fits else f"{_UNNAMED}-{key}"


def answers_of(folder: Path, stage: str) -> Path:
    """The file with the answers of a stage of this name in a cell's folder."""
    return folder / COMPLETIONS if stage == _UNNAMED else folder / stage / COMPLETIONS


def complete(cell: Planned, wanted: Completions, out: Path) -> str:
    """Write the cell's answers below the folder `out`, or go on with them. A line for people.

    The model is the one that the cell saved, loaded as a user would load it.
    """
    tokenizer = load_tokenizer(str(cell.folder / "model"))
    template = template_of(cell.settings.data.template, tokenizer)
    made = generate(
        load_model(cell),
        tokenizer,
        read_questions(wanted.prompts),
        answers_of(out, completions_stage(cell, wanted)),
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
    folder=lambda cell, after: completions_stage(cell, after.completions),
    key=lambda cell, after: completions_key(cell, after.completions),
    run=lambda cell, after, out, quiet: complete(cell, after.completions, out),
    read=lambda folder, at, logs: {"completions": RunLog(answers_of(folder, at)).read() if logs else []},
    check=_check,
)
