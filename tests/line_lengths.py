"""Lines of Markdown over 120 columns that could be broken. `make lint` runs this file; ruff looks at the code.

A line that cannot be broken may be longer: a row of a table, a line of a block of code, one without a space in it.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

MOST = 120

_BEGINS = re.compile(r"[\s>]*(?:[-*+]\s+|\d+\.\s+)?")


def too_long(text: str) -> Iterator[int]:
    """Numbers, from 1, of the lines of a page that are too long and could be broken."""
    in_code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            in_code = not in_code
        elif len(line) > MOST and not in_code and not line.lstrip().startswith("|"):
            begins = _BEGINS.match(line)
            assert begins
            if " " in line[begins.end() : MOST + 1]:
                yield number


def pages(root: Path) -> Iterator[tuple[str, Path]]:
    """(path from the root, page) of every page of the repository that is checked."""
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=root, capture_output=True, text=True, check=True)
    yield from ((name, root / name) for name in listed.stdout.splitlines())


if __name__ == "__main__":
    found = [
        f"{name}:{number}: over {MOST} columns"
        for name, page in pages(Path(__file__).parents[1])
        for number in too_long(page.read_text())
    ]
    print(*found, sep="\n", end="\n" if found else "")
    sys.exit(bool(found))
