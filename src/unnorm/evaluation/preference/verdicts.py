"""Verdicts on disk: one JSON object a line, appended as they come; a run that was killed goes on after the last."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import orjson

from unnorm.evaluation.judges.interface import AnswerPair, Judge, Verdict
from unnorm.evaluation.preference.answers import QuestionPair
from unnorm.foundation import atomic
from unnorm.foundation.errors import DataError, SettingsError
from unnorm.foundation.progress import Bar

Match = Literal["A B", "B A", "A A", "A A again"]
"""Which answers stood in which order; the last two are the null run, in which there is nothing to prefer."""

Ruling = Literal["identical", "empty"]


class Key(NamedTuple):
    """What one verdict is about."""

    prompt_id: str
    part: str
    match: Match


class VerdictLog:
    """`verdicts.jsonl` in a folder that belongs to one judge and two sets of answers, named in `judging.json`."""

    def __init__(self, folder: Path, belongs_to: dict[str, Any]) -> None:
        self.path = folder / "verdicts.jsonl"
        self.known: dict[Key, Verdict] = {}
        about = folder / "judging.json"
        if about.is_file():
            if atomic.read_json(about) != belongs_to:
                raise SettingsError(
                    f"{folder} holds verdicts of another judge or on other answers. Choose another --out."
                )
        elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise SettingsError(f"{folder} is not empty and holds no verdicts, so it is not written into.")
        else:
            atomic.write_json(about, belongs_to)
        self._read()

    def append(self, key: Key, verdict: Verdict) -> None:
        line = orjson.dumps({**key._asdict(), **asdict(verdict)}) + b"\n"
        with atomic.disk_errors(self.path), open(self.path, "ab") as file:
            file.write(line)
        self.known[key] = verdict

    def _read(self) -> None:
        if not self.path.is_file():
            return
        content = self.path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                row = orjson.loads(line)
                key = Key(*(row.pop(name) for name in Key._fields))
                self.known[key] = Verdict(**row)
            except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
                raise DataError(
                    f"{self.path}, line {number} is damaged. Delete the line, and its match is judged again."
                ) from error
        if len(whole) < len(content):  # a kill cut the last line: the next one must not be glued to it
            atomic.write_bytes(self.path, whole)


def ruling(question: QuestionPair, part: str) -> Ruling | None:
    """What settles a part without the judge: the same answers tie, as empty ones do; an empty one loses to any other.

    A judge is not asked, as some score an empty answer above a poor one.
    """
    a, b = question.judged(part)
    if [turn.text for turn in a] == [turn.text for turn in b] or (is_empty(a) and is_empty(b)):
        return "identical"
    return "empty" if is_empty(a) != is_empty(b) else None


def is_empty(turns: Sequence[Any]) -> bool:
    """Whether nothing but white space was answered."""
    return not any(turn.text.strip() for turn in turns)


def judge_all(questions: Sequence[QuestionPair], judge: Judge, log: VerdictLog, *, quiet: bool = False) -> None:
    """Bring `log` up to a verdict on every match that is still without one."""
    todo = [(key, pair) for key, pair in _matches(questions, judge.sees_order) if key not in log.known]
    with Bar("judging", len(todo), quiet=quiet) as bar:
        for start in range(0, len(todo), judge.batch):
            batch = todo[start : start + judge.batch]
            for (key, _), verdict in zip(batch, judge.judge([pair for _, pair in batch]), strict=True):
                log.append(key, verdict)
            bar.advance(len(batch))


def _matches(questions: Sequence[QuestionPair], sees_order: bool) -> Iterable[tuple[Key, AnswerPair]]:
    for question in questions:
        for part in question.parts:
            if ruling(question, part) is None:
                pair = question.pair(part)
                yield Key(question.prompt_id, part, "A B"), pair
                if sees_order:
                    yield Key(question.prompt_id, part, "B A"), pair.swapped
    for question in questions:
        part = question.parts[0]
        if is_empty(question.a):
            continue
        pair = question.pair(part)
        same = replace(pair, second=pair.first)
        yield Key(question.prompt_id, part, "A A"), same
        if sees_order:
            yield Key(question.prompt_id, part, "A A again"), replace(same, repeat=1)
