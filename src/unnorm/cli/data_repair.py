"""`unnorm data repair`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say

if TYPE_CHECKING:
    from unnorm.data.repair import Repaired

EXAMPLE = "Example: [bold]unnorm data repair crawl.json.gz -o clean.jsonl[/bold]"


def repair(
    source: Annotated[Path, typer.Argument(metavar="IN", help="Damaged JSON or JSONL, also gzip or UTF-16.")],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="For the records: .jsonl, .json (an array) or .parquet; default: beside IN."),
    ] = None,
    max_record: Annotated[int, typer.Option(min=1, metavar="MB", help="A larger record is rejected.")] = 64,
    keep_unverified: Annotated[
        bool, typer.Option("--keep-unverified", help="Keep and mark the records of gzip whose checksum fails.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="End with 1 if any byte was lost, or cannot be trusted.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Turn damaged JSON into clean records, and account for every byte.

    OUT holds the records, one a line; OUT.report.jsonl a line for each damage; OUT.rejected.jsonl what could not be
    trusted, as it was. Nothing is invented.
    """
    from unnorm.data.repair import repair_file
    from unnorm.foundation.places import check_file

    if out is not None:
        check_file(out)
    done = repair_file(source, out, max_record=max_record << 20, keep_unverified=keep_unverified, quiet=json)
    if json:
        emit_json(_summary(done))
    else:
        _show(done)
    if strict and not done.account.sound:
        raise typer.Exit(1)


def _summary(done: "Repaired") -> dict[str, Any]:
    account = done.account
    return {
        "out": str(done.out),
        "report": str(done.report),
        "rejected": str(done.rejected),
        "records": account.records,
        "mended_records": account.mended_records,
        "bytes_in": account.bytes_in,
        "bytes_kept": account.kept,
        "bytes_separators": account.separators,
        "bytes_lost": account.lost,
        "bytes_unverified": account.unverified,
        "unread": account.unread,
        "damages": account.damages,
        "columns": done.columns,
        "drifting_columns": sorted(done.drifting),
        "table": done.table,
    }


def _show(done: "Repaired") -> None:
    from unnorm.data.repair.gzip_members import CORRUPT, FAILED

    account = done.account
    if account.damages:
        rows = [
            [kind, action, f"{count:,}"]
            for kind, actions in sorted(account.damages.items())
            for action, count in sorted(actions.items())
        ]
        emit_table(f"damage, line by line in {done.report}", ["kind", "action", "count"], rows, 2)
    if done.drifting:
        rows = [
            [name, ", ".join(f"{count:,} {kind}" for kind, count in sorted(types.items()))]
            for name, types in done.drifting.items()
        ]
        emit_table("columns with values of several types", ["column", "records"], rows, 2)
    mended = f", {account.mended_records:,} of them mended" if account.mended_records else ""
    say(f"wrote {account.records:,} records{mended}: {done.out}")
    if account.lost:
        say(f"what was lost, as it was: {done.rejected}")
    distrusted = sum(account.damages.get(kind, {}).get("rejected", 0) for kind in (FAILED, CORRUPT))
    if not account.records and not distrusted:
        say(
            "no record could be kept. Look at the beginning of IN: unnorm repairs JSON; tables (.csv) and text (.txt) "
            "are read as they are"
        )
    if distrusted:
        say(
            f"{distrusted:,} records were rejected because their gzip checksum fails, so any of them may have changed; "
            "--keep-unverified keeps and marks them"
        )
    if account.unverified:
        say(f"{account.unverified:,} of the bytes kept are unverified: their gzip checksum fails, or was cut off")
    if account.unread:
        say("a part of the file could not be unpacked; how much was in it cannot be told")
    print(
        f"{account.bytes_in:,} bytes = {account.kept:,} in records + {account.separators:,} between them "
        f"+ {account.lost:,} lost"
    )
