"""How long `unnorm --help` takes beside Python's own start: half a second at most is the aim.

python benchmarks/help.py
"""

import subprocess
import sys
import time

from machine import machine_line

_RUNS = 10


def seconds_of(*arguments: str) -> float:
    """The shortest of several runs, seconds."""
    found = []
    for _ in range(_RUNS):
        started = time.perf_counter()
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        found.append(time.perf_counter() - started)
    return min(found)


def main() -> None:
    start, whole = seconds_of("-c", "pass"), seconds_of("-m", "unnorm", "--help")
    print(machine_line())
    print(f"unnorm --help: {whole:.2f} s, {whole - start:.2f} s of it beside Python's start")


if __name__ == "__main__":
    main()
