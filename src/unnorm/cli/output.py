"""What verbs print: results on stdout (a table, or one JSON object with --json), everything else on stderr."""

import re
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Annotated, Any

import typer

from unnorm.foundation import first_word
from unnorm.foundation.processes import is_main, launch

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def emit_json(content: Any) -> None:
    """Print `content` as JSON."""
    import orjson

    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    try:
        text = orjson.dumps(content, option=options).decode()
    except orjson.JSONEncodeError:  # a path that is not UTF-8
        text = orjson.dumps(_printable(content), option=options).decode()
    if (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8":
        text = _BEYOND_ASCII.sub(_escaped, text)
    sys.stdout.write(text + "\n")


_BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")


def _escaped(match: "re.Match[str]") -> str:
    """A character as JSON writes it where it cannot stand: nothing is lost."""
    units = match[0].encode("utf-16-be")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def _printable(content: Any) -> Any:
    from unnorm.foundation.terminal import plain

    if isinstance(content, str):
        return plain(content)
    if isinstance(content, Mapping):
        return {_printable(key): _printable(value) for key, value in content.items()}
    return [_printable(value) for value in content] if isinstance(content, list | tuple) else content


def emit_table(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    align_right_from: int = 1,
    *,
    compact: bool = False,
) -> None:
    """Print `table_of` the same."""
    print_table(table_of(title, columns, rows, align_right_from, compact=compact))


def print_table(table: Any) -> None:
    """Print a table on stdout, in the terminal's width."""
    from rich.console import Console

    Console(width=None if sys.stdout.isatty() else 120).print(table)


def table_of(
    title: str,
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    align_right_from: int = 1,
    *,
    compact: bool = False,
) -> Any:
    """A rich table of plain text, title and heads too; columns from `align_right_from` on are numbers.

    compact: without borders and one space apart, for tables of long paths.
    """
    from rich.table import Table
    from rich.text import Text

    from unnorm.foundation.terminal import plain

    table = Table(title=Text(plain(title), style="bold"), title_justify="left")
    if compact:
        table.box, table.pad_edge, table.padding = None, False, (0, 1, 0, 0)
    for number, column in enumerate(columns):
        justify: Any = "right" if number >= align_right_from else "left"
        table.add_column(Text(plain(column)), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def told_apart(*names: str) -> list[str]:
    """Short names of models: of what their places do not end in alike, the last two parts, or as many more as tell them
    apart."""
    parts = [name.rstrip("/").split("/") for name in names]
    while len(parts) > 1 and min(map(len, parts)) > 1 and len({each[-1] for each in parts}) == 1:
        parts = [each[:-1] for each in parts]
    depth = 2
    while len({tuple(each[-depth:]) for each in parts}) < len(parts) and depth < max(map(len, parts)):
        depth += 1
    return ["/".join(each[-depth:]) for each in parts]


def say(text: str) -> None:
    """A line about what is going on, on stderr, by the main process of a launch. That nobody can read it any longer
    ends no work."""
    if is_main():
        write_line(text)


def typed(word: object) -> str:
    """A path or a name as one types it in a shell."""
    return shlex.quote(str(word))


def say_next(result: str, *commands: str) -> None:
    """How a long command ends: where its result lies, and what one would do next."""
    say(result)
    if commands:
        say("\n  ".join(["Next:", *commands]))


def complain(text: str) -> None:
    """What a command fails of, on stderr: said once, by that process of a launch which fails first."""
    if launch() is not None:
        from unnorm.foundation.ranks import fails_first

        if not fails_first():
            return
    write_line(text)


def write_line(text: str) -> None:
    """A line on stderr, whichever process this is."""
    first_word.said()
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)
