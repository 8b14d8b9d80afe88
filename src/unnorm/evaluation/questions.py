"""Questions for completions: the built-in ones, MT-Bench, or a user's file. One or more turns each, and at which
temperature they are answered: greedily, at one temperature, or by category as FastChat does."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from unnorm.data.conversation import Message
from unnorm.data.hub import rows_of
from unnorm.data.known import HubSet
from unnorm.foundation.errors import DataError, SettingsError, json_problem
from unnorm.foundation.hashing import hash_json

GREEDY, FASTCHAT = "greedy", "fastchat"
_BY_CATEGORY = {
    "writing": 0.7,
    "roleplay": 0.7,
    "extraction": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "reasoning": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""FastChat's fastchat/llm_judge/common.py, temperature_config."""
_ELSEWHERE = 0.7

MT_BENCH = "mt-bench"
_MT_BENCH_HUB = HubSet("HuggingFaceH4/mt_bench_prompts")


class Question(NamedTuple):
    """What is asked, turn by turn: each turn after the first follows the answer to the one before."""

    prompt_id: str
    category: str
    turns: tuple[Message, ...]


def _one(prompt_id: str, category: str, instruction: str, given: str = "") -> Question:
    return Question(prompt_id, category, (Message("user", instruction, given),))


BUILTIN = (
    _one("fact", "knowledge", "Name the three states of matter and give an example of each."),
    _one("explain", "explanation", "Explain to a child why the sky is blue."),
    _one("list", "lists", "List five things to pack for a trip to the mountains."),
    _one(
        "rewrite", "editing", "Rewrite the sentence in the past tense.", "She walks to school and talks to her friends."
    ),
    _one("sum", "arithmetic", "Tom has 12 apples and gives 5 away. How many apples are left?"),
    _one("story", "writing", "Write a short story about a lost dog that finds its way home."),
    _one("advice", "advice", "Give three tips for sleeping well."),
    _one("compare", "reasoning", "Compare a bicycle and a car in two sentences."),
)


def read_questions(source: str) -> tuple[Question, ...]:
    """`builtin`, `mt-bench` (from the hub), or a .jsonl file.

    A line of a file has `prompt_id` (or `question_id`), `category`, and either `instruction` and perhaps `input`, or
    `turns` (or `prompt`): a list of texts, as MT-Bench has it. A file that cannot be used is a `DataError` that names
    the line.
    """
    if source == "builtin":
        return BUILTIN
    if source == MT_BENCH:
        return _from_hub()
    path = Path(source).expanduser()
    if not path.is_file():
        raise DataError(f"there is no prompts file {source!r}. Give a .jsonl file, builtin, or {MT_BENCH}.")
    return _checked([_question(row, where) for where, row in json_lines(path, source)], source)


def json_lines(path: Path, name: str) -> Iterator[tuple[str, Any]]:
    """Each line of the file `path` that is not empty: where it stands in `name`, for messages, and what it holds.

    Raises `DataError` for one that is not JSON.
    """
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            where = f"{name}, line {number}"
            try:
                yield where, orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise DataError(f"{where}: not valid JSON ({json_problem(error)}).") from error


def questions_hash(questions: Sequence[Question]) -> str:
    """Hex digest of what is asked."""
    return hash_json([[q.prompt_id, q.category, [[m.content, m.input] for m in q.turns]] for q in questions])


def _from_hub() -> tuple[Question, ...]:
    name = _MT_BENCH_HUB.name
    try:
        rows = list(rows_of(_MT_BENCH_HUB))
    except DataError as error:
        raise DataError(f"{error} The file of MT-Bench is its question.jsonl.") from error
    return _checked([_question(row, f"{name}, row {number}") for number, row in enumerate(rows)], MT_BENCH)


def _checked(questions: list[Question], source: str) -> tuple[Question, ...]:
    if not questions:
        raise DataError(f"{source} holds no prompts.")
    seen: set[str] = set()
    for question in questions:
        if question.prompt_id in seen:
            raise DataError(f"{source} holds two prompts with the id {question.prompt_id!r}. Give each its own.")
        seen.add(question.prompt_id)
    return tuple(questions)


def _question(row: Any, where: str) -> Question:
    if not isinstance(row, dict):
        raise DataError(f"{where}: a prompt is an object, not a {type(row).__name__}.")
    identity = row.get("prompt_id", row.get("question_id"))
    category = row.get("category")
    if isinstance(identity, bool) or not isinstance(identity, str | int) or identity == "":
        raise DataError(f"{where}: a prompt needs a prompt_id (or question_id), a text or a number.")
    if not isinstance(category, str) or not category:
        raise DataError(f"{where}: a prompt needs a category, a text.")
    turns = row.get("turns", row.get("prompt"))
    if turns is None:
        turns = [row.get("instruction")]
    elif isinstance(turns, str):
        turns = [turns]
    if not isinstance(turns, list | tuple) or not turns or not all(isinstance(t, str) and t.strip() for t in turns):
        raise DataError(f"{where}: a prompt needs an instruction, or turns: a list of texts that are not empty.")
    given = row.get("input") or ""
    if not isinstance(given, str):
        raise DataError(f"{where}: input is a text.")
    messages = (Message("user", turns[0], given), *(Message("user", turn) for turn in turns[1:]))
    return Question(str(identity), category, messages)


def temperature_of(category: str, rule: str) -> float:
    """The temperature of a category under `rule`: `greedy` (0), `fastchat`, or a number. Else a `SettingsError`."""
    if rule == GREEDY:
        return 0.0
    if rule == FASTCHAT:
        return _BY_CATEGORY.get(category, _ELSEWHERE)
    try:
        value = float(rule)
    except ValueError:
        value = -1.0
    if not 0 <= value < 100:
        raise SettingsError(f"a temperature is {GREEDY}, {FASTCHAT} or a number from 0, not {rule!r}.")
    return value
