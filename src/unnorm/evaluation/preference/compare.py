"""`compare`: two files of completions and a judge in, a report out. The one place where the parts are joined."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import inf
from pathlib import Path
from typing import Any

import orjson

from unnorm.evaluation.judges.interface import WHOLE, Judge
from unnorm.evaluation.preference import OUTCOMES, REPORT
from unnorm.evaluation.preference.answers import QuestionPair, pair_answers
from unnorm.evaluation.preference.outcomes import outcomes_of
from unnorm.evaluation.preference.summary import Preference, summarise
from unnorm.evaluation.preference.verdicts import VerdictLog, is_empty, judge_all
from unnorm.foundation import atomic
from unnorm.foundation.cache import cache_folder
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.hashing import digest_file, hash_json


@dataclass(frozen=True)
class Counts:
    """Of the answers, one a turn; cut: verdicts on text that was longer than the judge can read."""

    answers: int
    empty_a: int
    empty_b: int
    truncated_a: int
    truncated_b: int
    identical: int
    cut: int


@dataclass(frozen=True)
class Usage:
    """Tokens that the verdicts took, whenever they were paid for; cost in the currency of `price`, None without one."""

    prompt_tokens: int
    reply_tokens: int
    cost: float | None


@dataclass(frozen=True)
class Judgement:
    """Everything that is known of one comparison. `null` is A against itself."""

    a: str
    b: str
    judge: dict[str, Any]
    caveat: str | None
    margin: float
    seed: int
    sees_order: bool
    unpaired: list[str]
    counts: Counts
    parts: dict[str, Preference]
    null: Preference
    usage: Usage | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def compare(
    a: Path,
    b: Path,
    judge: Judge,
    *,
    margin: float = 0.0,
    seed: int = 0,
    price: tuple[float, float] | None = None,
    out: Path | None = None,
    quiet: bool = False,
) -> Judgement:
    """Judge the answers in `a` against those in `b`, in both orders, as wholes and turn by turn, and A against itself.

    margin: a score within it is a tie, in the judge's unit. price: for a million prompt tokens and a million reply
    tokens. out: folder for verdicts.jsonl, outcomes.jsonl (of each question) and report.json (default: the cache);
    verdicts that are in it are not asked for again. Raises `DataError` for answers that cannot be paired,
    `SettingsError` for a folder of something else.
    """
    if not 0 <= margin < inf:
        raise SettingsError(f"the margin within which a score is a tie cannot be {margin:g}. Give 0 or more.")
    paired = pair_answers(a, b)
    about = {"a": digest_file(a), "b": digest_file(b), "judge": judge.identity}
    folder = out or cache_folder() / "judgements" / hash_json(about, 32)
    log = VerdictLog(folder, about)
    judge_all(paired.questions, judge, log, quiet=quiet)
    parts = list(dict.fromkeys(part for question in paired.questions for part in question.parts))
    outcomes = {
        part: outcomes_of(paired.questions, part, log.known, margin, sees_order=judge.sees_order) for part in parts
    }
    against_itself = outcomes_of(paired.questions, WHOLE, log.known, margin, sees_order=judge.sees_order, null=True)
    comparison = Judgement(
        a=str(a),
        b=str(b),
        judge=judge.identity,
        caveat=judge.caveat,
        margin=margin,
        seed=seed,
        sees_order=judge.sees_order,
        unpaired=paired.unpaired,
        counts=_counts(paired.questions, log),
        parts={part: summarise(found, seed) for part, found in outcomes.items()},
        null=summarise(against_itself, seed),
        usage=_usage(log, price),
    )
    lines = [orjson.dumps(asdict(outcome)) + b"\n" for outcome in outcomes[WHOLE]]
    atomic.write_bytes(folder / OUTCOMES, b"".join(lines))
    atomic.write_json(folder / REPORT, comparison.to_dict())  # last: where it is, all is
    return comparison


def _counts(questions: Sequence[QuestionPair], log: VerdictLog) -> Counts:
    turns = [(a, b) for question in questions for a, b in zip(question.a, question.b, strict=True)]
    return Counts(
        answers=len(turns),
        empty_a=sum(is_empty([a]) for a, _ in turns),
        empty_b=sum(is_empty([b]) for _, b in turns),
        truncated_a=sum(a.truncated for a, _ in turns),
        truncated_b=sum(b.truncated for _, b in turns),
        identical=sum(a.text == b.text for a, b in turns),
        cut=sum(verdict.cut for verdict in log.known.values()),
    )


def _usage(log: VerdictLog, price: tuple[float, float] | None) -> Usage | None:
    prompt = sum(verdict.prompt_tokens for verdict in log.known.values())
    reply = sum(verdict.reply_tokens for verdict in log.known.values())
    if not prompt and not reply:
        return None
    cost = (prompt * price[0] + reply * price[1]) / 1e6 if price else None
    return Usage(prompt, reply, cost)
