"""Two arms' answers, judged."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from unnorm.evaluation.judges import code_of, judge_maker, load_judge
from unnorm.evaluation.judges.interface import WHOLE, Judge
from unnorm.evaluation.preference import OUTCOMES, REPORT
from unnorm.evaluation.preference.compare import compare
from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json
from unnorm.study.after.completions import answers_of, completions_key, completions_stage
from unnorm.study.after.stage import Stage
from unnorm.study.plan import CellPair
from unnorm.study.sections import Completions, JudgeStage
from unnorm.study.spec import StudyFile
from unnorm.tuning.run_log import RunLog


def judge_stage(pair: CellPair, answers: Completions, wanted: JudgeStage) -> str:
    """The name of the stage, and of its folder in the pair's: it is about this judge of these answers."""
    keys = [completions_key(cell, answers) for cell in (pair.arm, pair.against)]
    code = code_of(wanted.kind)
    return f"judge-{hash_json([*keys, wanted.model_dump(), *([code] if code else [])])}"


def judge(a: Path, b: Path, wanted: JudgeStage, out: Path, *, quiet: bool = False) -> str:
    """Judge the answers in the file `a`, the arm's, against the reference's in `b`, from the verdicts on that are in
    `out` already. A line for people."""
    whole = compare(
        a, b, _loaded(wanted.kind, wanted.model, wanted.base_url), margin=wanted.margin, out=out, quiet=quiet
    ).parts[WHOLE]
    missing = f", {whole.without_verdict} without a verdict" if whole.without_verdict else ""
    return f"{whole.wins} won, {whole.ties} tied, {whole.losses} lost{missing}"


@lru_cache(maxsize=1)
def _loaded(*how: Any) -> Judge:
    """The judge is loaded when the first pair needs it, and kept."""
    return load_judge(*how)


def _run(pair: CellPair, answers: Completions, wanted: JudgeStage, out: Path, quiet: bool) -> str:
    a, b = (answers_of(cell.folder, completions_stage(cell, answers)) for cell in (pair.arm, pair.against))
    return judge(a, b, wanted, out / judge_stage(pair, answers, wanted), quiet=quiet)


def _read(folder: Path, at: str, logs: bool) -> dict[str, Any]:
    report = folder / at / REPORT
    return {
        "judge": atomic.read_json(report) if report.is_file() else None,
        "verdicts": RunLog(folder / at / OUTCOMES).read() if logs else [],
    }


def _check(spec: StudyFile) -> None:
    wanted = spec.after.judge
    assert wanted is not None
    with spec.blamed("after", "judge"):
        judge_maker(wanted.kind, wanted.model, wanted.base_url)


STAGE = Stage(
    "judge",
    of_pairs=True,
    folder=lambda pair, after: judge_stage(pair, after.completions, after.judge),
    run=lambda pair, after, out, quiet: _run(pair, after.completions, after.judge, out, quiet),
    needs=("completions",),
    read=_read,
    check=_check,
)
