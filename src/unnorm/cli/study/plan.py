"""`unnorm study plan`."""

from typing import TYPE_CHECKING, Any

from unnorm.cli.output import JsonOption, emit_json, emit_table, say, say_next
from unnorm.cli.study.options import LEDGER, Ledger, StudyFile, cell_name, given

if TYPE_CHECKING:
    from unnorm.study.estimate import Estimate
    from unnorm.study.plan import Planned
    from unnorm.study.recovered_start import PlannedStart


def plan(study: StudyFile, ledger: Ledger = LEDGER, json: JsonOption = False) -> None:
    """Show every cell: what trains, tokens, steps, time and memory from a measured step, what is done, and the audit.

    Trains nothing. Recovered starts, and with `tune` the tries of the search, are listed first.
    """
    from unnorm.foundation.memory import OthersLoad
    from unnorm.foundation.precision import line_of
    from unnorm.foundation.progress import time_in_words
    from unnorm.study import threads
    from unnorm.study.audit import LOADS_ALIKE, audit_plan
    from unnorm.study.estimate import estimates, estimates_of_starts
    from unnorm.study.ledger import check_format
    from unnorm.study.plan import place_of, plan_study, starts_of
    from unnorm.study.spec import read_spec
    from unnorm.study.workbench import Workbench

    spec, _ = read_spec(study)
    check_format(ledger)
    for asked in dict.fromkeys(settings.training.precision for settings in spec.cells()):
        say(line_of(asked))
    threads.recall(ledger / spec.name)
    bench = Workbench(quiet=json)
    planned = plan_study(spec, ledger, bench)
    to_make = starts_of([*planned.search, *planned.cells])
    also = f" and {len(to_make)} recovered starts" if to_make else ""
    say(f"{len(planned.search) + len(planned.cells)} cells{also}; measuring one training step of each kind")
    others = OthersLoad()
    starts = _start_records(to_make, estimates_of_starts(to_make, bench))
    search = _records(planned.search, estimates(planned.search, bench))
    cells = _records(planned.cells, estimates(planned.cells, bench))
    load = others.read()
    resolved = {place_of(cell.settings): cell.resolved for cell in planned.cells}
    folders = {place_of(cell.settings): cell.folder for cell in planned.cells}
    arms = [arm.id for arm in spec.resolved_arms()]
    audit = audit_plan(resolved, arms, folders=folders, tuned={choice.slot for choice in planned.choices})
    waiting = [place_of(settings)._asdict() for settings in planned.pending]
    left = sum(record["estimated_seconds"] for record in starts + search + cells if record["state"] != "done")
    if json:
        found = {
            "study": spec.name,
            "starts": starts,
            "cells": cells,
            "search": search,
            "waiting_for_search": waiting,
            "audit": audit,
        }
        emit_json({**found, "estimated_seconds_left": left, "load": load})
        return
    columns = ["cell", "state", "trains", "tokens", "steps", "minutes", "GiB"]
    if starts:
        emit_table("recovered starts", columns, [_row(r, r["start"]) for r in starts], align_right_from=3)
    if search:
        rows = [
            [f"{row[0]}, rate {r['learning_rate']:g}", *row[1:]] for row, r in zip(_rows(search), search, strict=True)
        ]
        emit_table("learning-rate search", columns, rows, align_right_from=3)
    more = f", and {len(waiting)} cells that wait for the search to find their learning rate" if waiting else ""
    heading = f"{spec.name}: about {time_in_words(left)} left here{more}"
    if cells:
        emit_table(heading, columns, _rows(cells), align_right_from=3)
    else:
        say(heading)
    if left and load > LOADS_ALIKE:
        say(f"Other processes took {load:.0%} of this machine while steps were measured; without them it is faster.")
    for devices in sorted({cell.settings.training.devices for cell in planned.cells} - {1}):
        say(
            f"a cell of {devices} devices: minutes on all of them, without the time in which they talk; GiB of each GPU"
        )
    for warning in dict.fromkeys(warning for record in search + cells for warning in record["warnings"]):
        say(warning)
    if cells:
        _say_audit(audit)
    if any(record["state"] != "done" for record in starts + search + cells) or waiting:
        say_next("Planning trains nothing.", f"unnorm study run {given(study, ledger)}")


def _records(planned: "list[Planned]", found: "list[Estimate]") -> list[dict[str, Any]]:
    from unnorm.study.ledger import standing_of
    from unnorm.study.plan import place_of

    return [
        {
            **place_of(cell.settings)._asdict(),
            "cell": cell.cell,
            "state": standing_of(cell.folder).state,
            "learning_rate": cell.settings.training.learning_rate,
            "total_parameters": estimate.total_parameters,
            **_numbers(estimate),
            "warnings": estimate.warnings,
        }
        for cell, estimate in zip(planned, found, strict=True)
    ]


def _start_records(to_make: "list[PlannedStart]", found: "list[Estimate]") -> list[dict[str, Any]]:
    from unnorm.study.ledger import standing_of

    return [
        {
            "start": f"{start.settings.model_name} / {start.settings.arm.id}",
            "key": start.key,
            "data": start.settings.data_names,
            "state": standing_of(start.folder).state,
            **_numbers(estimate),
        }
        for start, estimate in zip(to_make, found, strict=True)
    ]


def _numbers(estimate: "Estimate") -> dict[str, Any]:
    return {
        "trainable_parameters": estimate.trains,
        "tokens": estimate.tokens,
        "steps": estimate.steps,
        "estimated_seconds": estimate.seconds,
        "memory_bytes": estimate.memory_bytes,
    }


def _rows(records: list[dict[str, Any]]) -> list[list[str]]:
    return [_row(record, cell_name(record)) for record in records]


def _row(record: dict[str, Any], name: str) -> list[str]:
    return [
        name,
        str(record["state"]),
        " + ".join(f"{n:,} {group}" for group, n in record["trainable_parameters"].items()),
        f"{record['tokens']:,}",
        f"{record['steps']:,}",
        f"{record['estimated_seconds'] / 60:.1f}",
        f"{record['memory_bytes'] / 2**30:.1f}",
    ]


def _say_audit(audit: dict[str, Any]) -> None:
    from unnorm.study.audit import elsewhere_in_words, noted_in_words

    unmatched = [c for c in audit["comparisons"] if not c["matched"]]
    if audit["matched"] is None:
        say("audit: no two arms to compare")
    elif not unmatched:
        say(f"audit: {len(audit['comparisons'])} comparisons, each differs in its arm alone")
    for comparison in unmatched:
        say(f"audit: NOT MATCHED: {cell_name(comparison)} against {comparison['against']}:")
        for line in comparison["differences"]:
            say(f"  {line}")
    for line in [*noted_in_words(audit), *elsewhere_in_words(audit["elsewhere"])]:
        say(f"audit: {line}")
