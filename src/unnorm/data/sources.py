"""Read a source (a known name, a file, or a hub id) into conversations. Untrusted text in, plain values out."""

from collections import Counter
from pathlib import Path
from typing import Any

import orjson

from unnorm.data.conversation import Conversation, Message
from unnorm.foundation.errors import DataError

KNOWN = {"alpaca": "tatsu-lab/alpaca"}
"""Known names and the hub dataset each one means."""

_SUFFIXES = (".json", ".jsonl")


def read(source: str, path: str | None = None) -> tuple[list[Conversation], Counter[str]]:
    """The conversations of `source`, and the rows that were dropped, counted by reason.

    source: a known name (`alpaca`), a .json or .jsonl file, or a hub id; `path` names a local file for a known name.
    Rows must be in Alpaca form: `instruction`, `input` (may be absent), `output`. Raises `DataError`.
    """
    if path is not None or source.endswith(_SUFFIXES) or Path(source).exists():
        rows, name = _read_file(Path(path or source)), str(path or source)
    else:
        rows, name = _read_hub(source), source
    return conversations_of(rows, name)


def conversations_of(rows: list[Any], name: str) -> tuple[list[Conversation], Counter[str]]:
    """Rows in Alpaca form as conversations, and the rows that were dropped, counted by reason. `name`: for messages."""
    if not rows:
        raise DataError(f"{name} holds no rows.")
    conversations, dropped = [], Counter[str]()
    for number, row in enumerate(rows):
        conversation = _from_alpaca(row, name, number)
        if isinstance(conversation, str):
            dropped[conversation] += 1
        else:
            conversations.append(conversation)
    if not conversations:
        reasons = ", ".join(f"{count} × {reason}" for reason, count in dropped.items())
        fields = ", ".join(sorted(map(str, rows[0]))) if isinstance(rows[0], dict) else type(rows[0]).__name__
        raise DataError(
            f"no row of {name} can be used ({reasons}). Rows must have `instruction` and `output` (and may have "
            f"`input`); the first one has: {fields}."
        )
    return conversations, dropped


def _from_alpaca(row: Any, source: str, number: int) -> Conversation | str:
    """The row as a conversation, or the reason why it cannot be one."""
    if not isinstance(row, dict):
        return "not an object"
    instruction, given, output = (row.get(field) for field in ("instruction", "input", "output"))
    if not isinstance(instruction, str) or not isinstance(output, str) or not isinstance(given or "", str):
        return "not in Alpaca form"
    if not instruction.strip():
        return "empty instruction"
    if not output.strip():
        return "empty output"
    return Conversation((Message("user", instruction, given or ""), Message("assistant", output)), source, number)


def _read_file(path: Path) -> list[Any]:
    if not path.is_file():
        raise DataError(f"there is no file {str(path)!r}. {_choices()}")
    if path.suffix not in _SUFFIXES:
        raise DataError(f"{path}: only .json (an array) and .jsonl (a row a line) can be read, not {path.suffix!r}.")
    content = path.read_bytes()
    if not content.strip():
        raise DataError(f"{path} is empty.")
    if path.suffix == ".json":
        rows = _parse(content, str(path))
        if not isinstance(rows, list):
            raise DataError(f"{path} must hold a JSON array of rows, not {type(rows).__name__}.")
        return rows
    lines = content.splitlines()
    return [_parse(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]


def _parse(content: bytes, where: str) -> Any:
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: not valid JSON ({error}). Mend or remove it.") from error


def _read_hub(source: str) -> list[Any]:
    name = KNOWN.get(source, source)
    if source not in KNOWN and "/" not in source:
        raise DataError(f"{source!r} is neither a known name nor a file. {_choices()}")
    try:
        import datasets

        datasets.disable_progress_bars()
        return list(datasets.load_dataset(name, split="train"))
    except Exception as error:  # the hub, the network and the data's own form each raise their own kinds
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise DataError(
            f"cannot load {name!r} from the hub: {line} If this machine is offline, give a file instead."
        ) from error


def _choices() -> str:
    return f"DATA is a known name ({', '.join(KNOWN)}), a .json or .jsonl file, or a hub id (owner/name)."
