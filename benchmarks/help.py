"""How much processor time `unnorm --help` and each verb's take: 0.4 s is the aim. It hardly depends on what else runs.

python benchmarks/help.py
"""

import resource
import subprocess
import sys

from typer.main import get_command

from machine import machine_line
from unnorm.cli.main import app

_RUNS = 5


def seconds_of(*arguments: str) -> float:
    """Processor time, the least of several runs."""
    return min(_once(arguments) for _ in range(_RUNS))


def _once(arguments: tuple[str, ...]) -> float:
    before = _spent()
    subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
    return _spent() - before


def _spent() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _verbs(command: object, *path: str) -> list[tuple[str, ...]]:
    inner = getattr(command, "commands", {})
    return [path] + [found for name, verb in inner.items() for found in _verbs(verb, *path, name)]


def main() -> None:
    print(machine_line())
    print(f"Python's own start: {seconds_of('-c', 'pass'):.2f} s of processor time")
    found = sorted((seconds_of("-m", "unnorm", *path, "--help"), path) for path in _verbs(get_command(app)))
    for seconds, path in found:
        print(f"{seconds:.2f} s  unnorm {' '.join(path)}")


if __name__ == "__main__":
    main()
