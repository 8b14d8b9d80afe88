"""Two arms' answers, judged."""

from unnorm.evaluation.judges.interface import Judge
from unnorm.evaluation.preference.compare import REPORT, compare
from unnorm.foundation.hashing import hash_json
from unnorm.study.after.completions import completions_key
from unnorm.study.after.pairs import Pair
from unnorm.study.spec import Completions, JudgeStage
from unnorm.study.view import COMPLETIONS


def judge_folder(pair: Pair, answers: Completions, wanted: JudgeStage) -> str:
    """The part of the pair's folder that belongs to this judge of these answers."""
    keys = [completions_key(cell, answers) for cell in (pair.arm, pair.against)]
    return f"judge-{hash_json([*keys, wanted.model_dump()])}"


def is_judged(pair: Pair, answers: Completions, wanted: JudgeStage) -> bool:
    return (pair.folder / judge_folder(pair, answers, wanted) / REPORT).is_file()


def judge(pair: Pair, answers: Completions, wanted: JudgeStage, by: Judge, *, quiet: bool = False) -> None:
    """Judge the arm's answers (A) against the reference's (B), from the verdicts on that are there already."""
    a, b = (cell.folder / COMPLETIONS for cell in (pair.arm, pair.against))
    out = pair.folder / judge_folder(pair, answers, wanted)
    compare(a, b, by, margin=wanted.margin, out=out, quiet=quiet)
