"""What verbs print: results on stdout (a table, or one JSON object with --json), everything else on stderr."""

import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")]


def emit_json(content: Any) -> None:
    """Print `content` as JSON."""
    import orjson

    sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS).decode() + "\n")


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
    """A rich table of plain text cells; columns from `align_right_from` on are numbers.

    compact: without borders and one space apart, for tables of long paths.
    """
    from rich.table import Table
    from rich.text import Text

    from unnorm.foundation.terminal import plain

    table = Table(title=title, title_justify="left", title_style="bold")
    if compact:
        table.box, table.pad_edge, table.padding = None, False, (0, 1, 0, 0)
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number >= align_right_from else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def say(text: str) -> None:
    """A line about what is going on, on stderr."""
    print(text, file=sys.stderr, flush=True)
