"""Prompts for completions: the built-in ones, or a user's file."""

from pathlib import Path
from typing import Any, NamedTuple

import orjson

from unnorm.foundation.errors import DataError


class Prompt(NamedTuple):
    """One question in Alpaca form."""

    prompt_id: str
    category: str
    instruction: str
    input: str = ""


BUILTIN = (
    Prompt("fact", "knowledge", "Name the three states of matter and give an example of each."),
    Prompt("explain", "explanation", "Explain to a child why the sky is blue."),
    Prompt("list", "lists", "List five things to pack for a trip to the mountains."),
    Prompt(
        "rewrite", "editing", "Rewrite the sentence in the past tense.", "She walks to school and talks to her friends."
    ),
    Prompt("sum", "arithmetic", "Tom has 12 apples and gives 5 away. How many apples are left?"),
    Prompt("story", "writing", "Write a short story about a lost dog that finds its way home."),
    Prompt("advice", "advice", "Give three tips for sleeping well."),
    Prompt("compare", "reasoning", "Compare a bicycle and a car in two sentences."),
)


def read_prompts(source: str) -> tuple[Prompt, ...]:
    """`builtin`, or a .jsonl file with `prompt_id`, `category`, `instruction` and perhaps `input` in each line."""
    if source == "builtin":
        return BUILTIN
    path = Path(source)
    if not path.is_file():
        raise DataError(f"there is no prompts file {source!r}. Give a .jsonl file, or `builtin`.")
    prompts = []
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if line.strip():
            prompts.append(_prompt(line, f"{source}, line {number}"))
    if not prompts:
        raise DataError(f"{source} holds no prompts.")
    return tuple(prompts)


def _prompt(line: bytes, where: str) -> Prompt:
    try:
        row: Any = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error}).") from error
    fields = ("prompt_id", "category", "instruction")
    if not isinstance(row, dict) or not all(isinstance(row.get(name), str) and row[name] for name in fields):
        raise DataError(f"{where}: a prompt needs the texts {', '.join(fields)}.")
    return Prompt(row["prompt_id"], row["category"], row["instruction"], str(row.get("input") or ""))
