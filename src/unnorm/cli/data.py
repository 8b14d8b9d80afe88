"""`unnorm data`: preview, stats."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from unnorm.cli import data_options as o
from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.cli.plain_group import Verbs

if TYPE_CHECKING:
    from unnorm.data.looks import Shown
    from unnorm.data.sources import Reading

app = Verbs(help="Look at data before training on it.")


@app.command(
    epilog="Example: [bold]unnorm data preview sharegpt --path chats.json --model EleutherAI/pythia-14m[/bold]"
)
def preview(
    data: o.Data,
    model: o.Tokenizer,
    count: Annotated[int, typer.Option(min=1, help="Conversations to show.")] = 3,
    path: o.LocalPath = None,
    subset: o.Subset = None,
    split: o.Split = "train",
    streaming: o.Streaming = False,
    repair: o.Repair = False,
    map: o.Map = None,
    format: o.RowFormat = None,
    rows: o.Rows = None,
    policy: o.Policy = None,
    template: o.Template = "alpaca",
    max_length: o.MaxLength = 256,
    loss_on: o.LossOn = "answer",
    too_long: o.TooLong = "drop",
    json: JsonOption = False,
) -> None:
    """Show what DATA was understood to be, its first conversations with the trained tokens coloured, and the counts."""
    from unnorm.data.looks import preview as preview_of
    from unnorm.data.sources import read
    from unnorm.surgery.base import load_tokenizer

    settings = o.settings_from(
        policy, source=data, path=path, subset=subset, split=split, streaming=streaming, repair=repair, map=map,
        format=format, rows=rows, template=template, max_length=max_length, loss_on=loss_on, too_long=too_long,
    )  # fmt: skip
    tokenizer = load_tokenizer(model)
    reading = read(settings, quiet=json)
    shown = preview_of(reading.conversations[:count], settings, tokenizer)
    if json:
        emit_json({**_understood(reading), "shown": [_record(one) for one in shown]})
        return
    for one in shown:
        _print(one)
    _print_counts(reading)


@app.command(epilog="Example: [bold]unnorm data stats alpaca --model EleutherAI/pythia-14m --out stats/[/bold]")
def stats(
    data: o.Data,
    model: o.Tokenizer,
    out: Annotated[Path | None, typer.Option(help="Folder for stats.json and the figure of lengths.")] = None,
    path: o.LocalPath = None,
    subset: o.Subset = None,
    split: o.Split = "train",
    streaming: o.Streaming = False,
    repair: o.Repair = False,
    map: o.Map = None,
    format: o.RowFormat = None,
    rows: o.Rows = None,
    policy: o.Policy = None,
    template: o.Template = "alpaca",
    max_length: o.MaxLength = 256,
    loss_on: o.LossOn = "answer",
    too_long: o.TooLong = "drop",
    json: JsonOption = False,
) -> None:
    """Count rows, turns, tokens, duplicates, what is trained, and what is dropped or changed and why."""
    from unnorm.data.looks import statistics
    from unnorm.data.sources import read
    from unnorm.foundation import atomic
    from unnorm.foundation.places import check_folder
    from unnorm.report.data_files import statistics_figures
    from unnorm.report.export import export
    from unnorm.surgery.base import load_tokenizer

    settings = o.settings_from(
        policy, source=data, path=path, subset=subset, split=split, streaming=streaming, repair=repair, map=map,
        format=format, rows=rows, template=template, max_length=max_length, loss_on=loss_on, too_long=too_long,
    )  # fmt: skip
    if out is not None:
        check_folder(out)
    tokenizer = load_tokenizer(model)
    reading = read(settings, quiet=json)
    about = {"name": Path(reading.name).name, "max_length": max_length}
    found = {**about, **statistics(reading, settings, tokenizer, quiet=json).to_dict()}
    if out is not None:
        figures = statistics_figures(found)
        atomic.write_json(out / "stats.json", found)
        export(figures, out, quiet=json)
        for figure in figures:
            say(figure.caption)
        say(f"wrote {out / 'stats.json'}, and lengths and packing as .svg, .png and .pdf")
    if json:
        emit_json(found)
        return
    table = [
        ["rows read", f"{found['rows']:,}"],
        ["conversations", f"{found['conversations']:,}"],
        *([f"turns of {role}", f"{count:,}"] for role, count in found["turns"].items()),
        ["exact duplicates", f"{found['duplicates']:,}"],
        *([f"tokens a conversation, {name}", f"{value:,.0f}"] for name, value in found["lengths"].items()),
        [f"encoded into at most {max_length}", f"{found['encoded']:,}"],
        ["tokens in these", f"{found['tokens']:,}"],
        ["tokens trained", f"{found['trained']:,} ({found['trained'] / found['tokens']:.1%})"],
        ["packed rows", f"{found['packed_rows']:,} ({found['packing_efficiency']:.1%} filled)"],
    ]
    emit_table(f"{reading.name}: {_formats(reading)}", ["", "count"], table)
    _print_reasons(found)


def _understood(reading: "Reading") -> dict[str, object]:
    return {
        "formats": reading.formats,
        "files": [{**files._asdict(), "taken": list(files.taken)} for files in reading.files],
        "ignored_columns": list(reading.ignored),
        "rows": reading.rows,
        "conversations": len(reading.conversations),
        "dropped": dict(reading.dropped),
        "changed": dict(reading.changed),
        "noted": dict(reading.noted),
    }


def _record(one: "Shown") -> dict[str, object]:
    conversation = one.conversation
    return {
        "source": conversation.source,
        "row": conversation.row,
        "id": conversation.id,
        "language": conversation.language,
        "changed": one.changed,
        "dropped": one.dropped,
        "rows": [[run._asdict() for run in row] for row in one.rows],
    }


def _formats(reading: "Reading") -> str:
    return ", ".join(sorted(set(reading.formats.values()))) + " format"


def _print(one: "Shown") -> None:
    """One conversation: on a terminal the trained tokens are coloured, elsewhere they stand in ⟦ ⟧."""
    from rich.console import Console
    from rich.text import Text

    from unnorm.foundation.terminal import plain, shorten

    console = Console(width=None if sys.stdout.isatty() else 120)
    facts = [f"row {one.conversation.row}", *one.changed, *(f"dropped: {reason}" for reason in one.dropped)]
    console.print(Text(shorten("; ".join(facts), 2000), style="bold"))
    for row in one.rows:
        text = Text()
        for run in row:
            trained = plain(run.text) if console.is_terminal or not run.weight else f"⟦{plain(run.text)}⟧"
            text.append(trained, style="green" if run.weight else "dim")
        console.print(text)
        tokens, count = sum(run.tokens for run in row), sum(run.tokens for run in row if run.weight)
        console.print(Text(f"{tokens} tokens, {count} of them trained\n", style="italic"))


def _print_counts(reading: "Reading") -> None:
    ignored = f"; nothing taken from the columns {', '.join(reading.ignored)}" if reading.ignored else ""
    say(f"{reading.name}: {_formats(reading)}{ignored}")
    say(f"{reading.rows:,} rows, {len(reading.conversations):,} conversations")
    _print_reasons(_understood(reading))  # type: ignore[arg-type]


def _print_reasons(counts: Mapping[str, Mapping[str, int]]) -> None:
    rows = [
        [kind, reason, f"{count:,}"]
        for kind in ("dropped", "changed", "noted")
        for reason, count in counts[kind].items()
    ]
    if rows:
        emit_table("what became of rows and conversations", ["", "reason", "count"], rows, align_right_from=2)
