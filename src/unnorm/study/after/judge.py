"""Two arms' answers, judged."""

from pathlib import Path

from unnorm.evaluation.judges.interface import WHOLE, Judge
from unnorm.evaluation.preference.compare import compare
from unnorm.foundation.hashing import hash_json
from unnorm.study.after.completions import completions_key
from unnorm.study.after.pairs import Pair
from unnorm.study.spec import Completions, JudgeStage
from unnorm.study.view import COMPLETIONS


def judge_stage(pair: Pair, answers: Completions, wanted: JudgeStage) -> str:
    """The name of the stage, and of its folder in the pair's: it is about this judge of these answers."""
    keys = [completions_key(cell, answers) for cell in (pair.arm, pair.against)]
    return f"judge-{hash_json([*keys, wanted.model_dump()])}"


def judge(pair: Pair, wanted: JudgeStage, by: Judge, out: Path, *, quiet: bool = False) -> str:
    """Judge the arm's answers (A) against the reference's (B), from the verdicts on that are in `out` already."""
    a, b = (cell.folder / COMPLETIONS for cell in (pair.arm, pair.against))
    whole = compare(a, b, by, margin=wanted.margin, out=out, quiet=quiet).parts[WHOLE]
    missing = f", {whole.without_verdict} without a verdict" if whole.without_verdict else ""
    return f"{whole.wins} won, {whole.ties} tied, {whole.losses} lost{missing}"
