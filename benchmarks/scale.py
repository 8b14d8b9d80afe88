"""What studies larger than these machines would cost: docs/scaling.md, its figures in results/scale/.

    python benchmarks/scale.py ledger   [--cells 100 1000 10000] [--latency-ms 0 0.5 1 5] [--samples 200]
    python benchmarks/scale.py simulate [--seed 0]
    python benchmarks/scale.py cells    [--base FOLDER:ROWS:LENGTH ...]
    python benchmarks/scale.py picture

`ledger` measures; `simulate` takes what it found and runs the scheduler's loop on made-up machines; `cells` measures
the memory of a few steps of small models and sets formulas for large ones beside it. Each prints a table (`--json`: the
records, for programs) and keeps its records in results/scale/NAME.json. `picture` draws docs/images/scaling.png.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import SHARED, machine_line
from scale_cell import KINDS

RESULTS = Path(__file__).parent / "results" / "scale"
PICTURE = Path(__file__).parent.parent / "docs" / "images" / "scaling.png"

PLAIN = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""So that what is freed is given back: a peak is what was needed, without what glibc keeps of it."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    each = parser.add_subparsers(dest="what", required=True)
    ledger = each.add_parser("ledger", help="operations on a ledger, on a disk and with simulated latency")
    ledger.add_argument("--cells", type=int, nargs="+", default=[100, 1_000, 10_000])
    ledger.add_argument("--latency-ms", type=float, nargs="+", default=[0, 0.5, 1, 5])
    ledger.add_argument("--samples", type=int, default=200, help="of each operation")
    ledger.add_argument("--folder", type=Path, help="where the made-up ledgers lie for the while (default: TMPDIR)")
    cells = each.add_parser("cells", help="memory of two steps of small models, each in a process of its own")
    cells.add_argument("--base", nargs="+", help="FOLDER:ROWS:LENGTH (default: two stand-ins)")
    cells.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    simulate = each.add_parser(
        "simulate", help="a study of 10,000 cells on 1,000 made-up GPUs, and where it stops to pay"
    )
    simulate.add_argument("--seed", type=int, default=0)
    simulate.add_argument("--seeds", type=int, default=5, help="runs with failures are means over so many")
    picture = each.add_parser("picture", help="the figure in docs/scaling.md")
    for command in (ledger, simulate, cells):
        command.add_argument("--json", action="store_true", help="print the records instead of a table")
    for command in (ledger, simulate, cells, picture):
        command.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.what == "picture":
        from scale_picture import draw

        draw(options.out, PICTURE)
        return
    found = {"ledger": _ledger, "simulate": _simulate, "cells": _cells}[options.what](options)
    _keep(options, found)


def _ledger(options: argparse.Namespace) -> list[dict[str, Any]]:
    from scale_ledger import measure

    records = []
    for cells in options.cells:
        for latency in options.latency_ms:
            folder = Path(tempfile.mkdtemp(prefix="made-up-ledger-", dir=options.folder))
            try:
                figures = measure(folder, cells, latency / 1e3, options.samples, quiet=options.json)
            finally:
                shutil.rmtree(folder)
            records += [{**figure._asdict(), "a_second": 1 / figure.seconds} for figure in figures]
    return records


def _cells(options: argparse.Namespace) -> list[dict[str, Any]]:
    from unnorm.foundation.progress import Bar

    wanted = options.base or [f"{SHARED / 'bases' / name}:16:256" for name in ("neox-4m", "llama-3m")]
    points = [(*one.rsplit(":", 2), kind) for one in wanted for kind in options.kinds]
    kept = options.out / "cells.json"
    records: list[dict[str, Any]] = json.loads(kept.read_text())["records"] if kept.is_file() else []
    there = {(record["base"], record["kind"], record["tokens_a_step"]) for record in records}
    with Bar("measuring", len(points), quiet=options.json) as bar:
        for base, rows, length, kind in points:
            if (Path(base).name, kind, int(rows) * int(length)) not in there:
                command = [sys.executable, str(Path(__file__).with_name("scale_cell.py")), base, kind, rows, length]
                out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=PLAIN).stdout
                records.append(json.loads(out.splitlines()[-1]))
                _write(options, records)  # each takes minutes: what was measured is kept
            bar.advance(1, kind)
    return records


def _simulate(options: argparse.Namespace) -> list[dict[str, Any]]:
    from scale_scenarios import records

    return records(options.out / "ledger.json", options.seed, options.seeds, quiet=options.json)


def _keep(options: argparse.Namespace, records: Sequence[dict[str, Any]]) -> None:
    content = _write(options, records)
    if options.json:
        json.dump(content, sys.stdout, indent=1)
        return
    columns = list(dict.fromkeys(name for record in records for name in record))
    print("| " + " | ".join(columns) + " |\n" + "|" + "---|" * len(columns))
    for record in records:
        print("| " + " | ".join(_shown(record.get(name, "")) for name in columns) + " |")


def _write(options: argparse.Namespace, records: Sequence[dict[str, Any]]) -> dict[str, Any]:
    content = {"machine": machine_line(), "records": records}
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.what}.json").write_text(json.dumps(content, indent=1) + "\n")
    return content


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


if __name__ == "__main__":
    main()
