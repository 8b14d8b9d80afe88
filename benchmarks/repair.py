"""Speed and memory of repair: results/repair.md.

    python benchmarks/repair.py [--megabytes 1000] [--rounds 3] [--folder DIR]

Real rows (Alpaca, ShareGPT, GSM8K) are repeated, each time with another number in their text, until the file is as
large as asked: as an array over several lines, as lines, and as the same array with one fault a megabyte. Each tool
reads each file in a process of its own, turn by turn, so that its peak memory is its own. What is compared are ratios:
the machine is shared. Of unnorm it is also counted how many of the undamaged rows come out as they were.
"""

import argparse
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson

from machine import SHARED, machine_line

FAULT_EVERY = 1_000_000
TOOLS = ("read", "orjson", "unnorm", "duckdb", "datasets", "json-repair")
SMALL = 2_000_000  # json-repair builds everything in memory, at a few megabytes a second: it gets this many bytes


def rows() -> Iterator[dict[str, Any]]:
    """Real rows over and over, in one order, a running number in each so that none is like another."""
    alpaca = orjson.loads((SHARED / "data" / "alpaca" / "alpaca_data.json").read_bytes())
    gsm8k = orjson.loads((SHARED / "data" / "gsm8k" / "train_alpaca_format.json").read_bytes())
    sharegpt = orjson.loads((SHARED / "data" / "sharegpt" / "sharegpt_real_1k.json").read_bytes())
    number = 0
    while True:
        for row in alpaca + gsm8k:
            yield {**row, "instruction": f"{row['instruction']} #{number}"}
            number += 1
        for row in sharegpt:
            yield {**row, "id": f"{row['id']}#{number}"}
            number += 1


def write_files(folder: Path, size: int, seed: int = 0) -> dict[str, dict[str, Any]]:
    """The three files of about `size` bytes; of each its path, size, rows, and the numbers of the broken ones."""
    made: dict[str, dict[str, Any]] = {
        name: {"path": str(folder / f"{name}.json"), "rows": 0, "broken": []} for name in ("array", "lines", "faults")
    }
    chance = random.Random(seed)
    next_fault, written = FAULT_EVERY, 0
    with (
        open(made["array"]["path"], "wb") as array,
        open(made["lines"]["path"], "wb") as lines,
        open(made["faults"]["path"], "wb") as faults,
    ):
        for number, row in enumerate(rows()):
            text = json.dumps(row, indent=4, ensure_ascii=False).replace("\n", "\n    ").encode()
            before = b",\n    " if written else b"[\n    "
            array.write(before + text)
            lines.write(orjson.dumps(row) + b"\n")
            if written >= next_fault:
                next_fault += FAULT_EVERY
                made["faults"]["broken"].append(number)
                text = damage(text, chance)
            faults.write(before + text)
            written += len(before) + len(text)
            if written >= size:
                break
        array.write(b"\n]\n")
        faults.write(b"\n]\n")
    for entry in made.values():
        entry |= {"rows": number + 1, "size": Path(entry["path"]).stat().st_size}
    return made


def undamaged(entry: dict[str, Any]) -> int:
    """How many of the rows that are not broken unnorm gives as they were, in order, up to the first it does not."""
    from unnorm.data.repair import repaired_records

    given = repaired_records(Path(entry["path"]))
    broken, same = set(entry["broken"]), 0
    for number, row in zip(range(entry["rows"]), rows(), strict=False):
        if number in broken:
            continue
        if not any(record == row for record in given):
            break
        same += 1
    return same


def damage(text: bytes, chance: random.Random) -> bytes:
    """One fault: a byte of the grammar taken away or doubled, the rest of the row cut off, or a raw newline put in."""
    kind = chance.randrange(4)
    marks = [i for i, byte in enumerate(text) if byte in b'{}[]",:' and text[i - 1 : i] != b"\\"]
    at = chance.choice(marks)
    if kind == 0:
        return text[:at] + text[at + 1 :]
    if kind == 1:
        return text[:at] + text[at : at + 1] + text[at:]
    if kind == 2:
        return text[: chance.randrange(10, len(text) - 10)]
    return text[: at + 1] + b"\n\0" + text[at + 1 :]


def read_file(path: str) -> int:
    with open(path, "rb") as file:
        while file.read(1 << 20):
            pass
    return 0


def read_orjson(path: str) -> int:
    content = Path(path).read_bytes()
    if path.endswith("lines.json"):
        return sum(1 for line in content.splitlines() if orjson.loads(line))
    return len(orjson.loads(content))


def read_unnorm(path: str) -> int:
    from unnorm.data.repair import repair_file

    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        return repair_file(Path(path), Path(folder) / "out.jsonl", quiet=True).account.records


def read_duckdb(path: str) -> int:
    import duckdb

    form = "newline_delimited" if path.endswith("lines.json") else "array"
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        connection = duckdb.connect(config={"threads": 2, "temp_directory": folder})
        ignore = "true" if form == "newline_delimited" else "false"  # DuckDB can skip bad lines, but not bad items
        source = f"read_json('{path}', format='{form}', sample_size=-1, ignore_errors={ignore})"
        connection.execute(f"COPY (SELECT * FROM {source}) TO '{folder}/out.json' (FORMAT json)")
        with open(f"{folder}/out.json", "rb") as file:
            return sum(1 for _ in file)


def read_datasets(path: str) -> int:
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=Path(path).parent) as folder:
        loaded = datasets.load_dataset("json", data_files=path, split="train", cache_dir=folder)
        loaded.to_json(f"{folder}/out.jsonl")
        return len(loaded)


def read_json_repair(path: str) -> int:
    import json_repair

    with open(path, "rb") as file:
        text = file.read(SMALL)
    loaded: Any = json_repair.loads(text.decode("utf-8", "ignore"), skip_json_loads="faults" in path)
    return len(loaded)


READERS: dict[str, Callable[[str], int]] = {
    "read": read_file,
    "orjson": read_orjson,
    "unnorm": read_unnorm,
    "duckdb": read_duckdb,
    "datasets": read_datasets,
    "json-repair": read_json_repair,
}


def measure(tool: str, path: str) -> dict[str, Any]:
    """Run one tool on one file in a process of its own: seconds, records, peak memory in MB, or its error."""
    command = [sys.executable, __file__, "--one", tool, "--path", path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        error = (done.stderr.strip().splitlines() or [f"ended with {done.returncode}"])[-1]
        return {"error": error[:160]}
    result: dict[str, Any] = json.loads(lines[-1])
    return result


def one(tool: str, path: str) -> None:
    """The child's part: imports are not counted, as every tool pays for its own once."""
    if tool == "unnorm":
        import unnorm.data.repair  # noqa: F401
    elif tool in ("duckdb", "datasets"):
        __import__(tool)
    started, processor = time.perf_counter(), time.process_time()
    try:
        records = READERS[tool](path)
    except Exception as error:  # each library has its own kinds, and that it fails is the result
        print(json.dumps({"error": f"{type(error).__name__}: {str(error).splitlines()[0][:140]}"}))
        return
    seconds, processor = time.perf_counter() - started, time.process_time() - processor
    print(
        json.dumps({"seconds": seconds, "processor_seconds": processor, "records": records, "peak_mb": peak_memory()})
    )


def peak_memory() -> float:
    """MB (10⁶ bytes) of resident memory at the most. On Linux the kernel's figure for this program alone."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="where the files are made; default: a temporary folder")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "repair.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--path", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        one(arguments.one, arguments.path)
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        made = write_files(Path(folder), arguments.megabytes * 1_000_000)
        made["faults"]["undamaged"] = undamaged(made["faults"])
        found: dict[tuple[str, str], list[dict[str, Any]]] = {}
        for number in range(arguments.rounds):
            for name, entry in made.items():
                for tool in TOOLS:
                    result = measure(tool, entry["path"])
                    found.setdefault((name, tool), []).append(result)
                    print(f"round {number + 1} {name} {tool}: {result}", flush=True)
        text = report(made, found, arguments.rounds)
    arguments.out.write_text(text)
    print(text)


def report(made: dict[str, dict[str, Any]], found: dict[tuple[str, str], list[dict[str, Any]]], rounds: int) -> str:
    """The tables, as Markdown."""
    lines = [
        "# Repair",
        "",
        f"Real rows of Alpaca, GSM8K and ShareGPT, repeated and numbered; rounds: {rounds}, turn by turn, each tool in",
        f"a process of its own. {machine_line()}, {versions()}.",
        "Speeds are medians, in MB (10⁶ bytes) of input a second: by the clock, and by the processor time that a tool",
        "took, which other work on the machine disturbs less. Load average at the end:",
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores.",
    ]
    titles = {
        "array": "Healthy array over several lines",
        "lines": "Healthy lines",
        "faults": "The array with one fault a megabyte",
    }
    for name, entry in made.items():
        size, damaged = entry["size"], len(entry["broken"])
        lines += ["", f"## {titles[name]}", ""]
        lines += [f"{size / 1e6:,.0f} MB, {entry['rows']:,} rows, {damaged:,} of them damaged.", ""]
        lines += ["| tool | MB/s | MB per processor second | peak memory, MB | records out |", "|---|---|---|---|---|"]
        for tool in TOOLS:
            results = found[name, tool]
            if "error" in results[0]:
                error = re.sub(r"/\S*/", "", results[0]["error"]).replace("|", "/")  # without where it lay
                lines.append(f"| {tool} | | | | fails: {error} |")
                continue
            read = min(size, SMALL) if tool == "json-repair" else size
            columns = [
                f"{read / 1e6 / statistics.median(r[of] for r in results):,.3g}"
                for of in ("seconds", "processor_seconds")
            ]
            columns.append(f"{max(r['peak_mb'] for r in results):,.0f}")
            columns.append(f"{results[0]['records']:,}" if tool != "read" else "")
            label = f"{tool} (the first {read / 1e6:.0f} MB)" if tool == "json-repair" else tool
            lines.append(f"| {label} | " + " | ".join(columns) + " |")
        if "undamaged" in entry:
            whole = entry["rows"] - damaged
            lines += [
                "",
                f"Of the {whole:,} undamaged rows, {entry['undamaged']:,} come out as they were, in order.",
            ]
    lines += [
        "",
        "unnorm, DuckDB and `datasets` also write what they read; orjson and json-repair only parse.",
        "",
    ]
    lines += ["Made by `python benchmarks/repair.py`.", ""]
    return "\n".join(lines)


def versions() -> str:
    from importlib.metadata import PackageNotFoundError, version

    parts = []
    for name in ("orjson", "msgspec", "duckdb", "datasets", "json-repair"):
        try:
            parts.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            parts.append(f"{name} not installed")
    return ", ".join(parts)


if __name__ == "__main__":
    main()
