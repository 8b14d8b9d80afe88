"""Once more with fewer rows a forward, where the memory did not suffice for a training run."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from unnorm.foundation import atomic
from unnorm.foundation.processes import launch
from unnorm.study.failures import failure_of, free_memory, let_go

T = TypeVar("T")
FILE = "attempt.json"
_KILLED = "killed_for_memory"


def with_fewer_rows(
    folder: Path, whole: int, run: Callable[[int], T], *, again: Callable[[int], None], devices: int = 1
) -> T:
    """What `run`, given the rows of a forward, returns; first with `whole` rows, which make a step.

    Where the memory does not suffice, its logs and checkpoints in `folder` go, and it begins once more with half the
    rows in each forward and twice as many forwards a step: the same tokens a step, and the same step up to the order
    of sums and what dropout draws. So too where the last one was killed for its memory (`note_killed`). An interrupted
    run goes on with the rows that it had. again: told the number of rows before the second start; it may raise.
    devices: how many share the rows equally. Of several processes none can begin again alone, so there it fails.
    """
    earlier = begun(folder)
    rows = int(earlier.get("rows_per_forward", whole))
    fewer = _fewer(rows, whole, devices)
    try:
        if not earlier.get(_KILLED):
            return run(rows)
        if rows < whole or fewer is None:
            raise MemoryError(f"its worker was killed for the memory it took with {rows} rows a forward")
    except Exception as error:
        if failure_of(error) != "out_of_memory" or rows < whole or fewer is None or launch() is not None:
            raise
        let_go(error)
    assert fewer is not None
    # Outside of the handler: there, the error and with it everything of the attempt would still be alive.
    again(fewer)
    free_memory()
    for name in ("steps.jsonl", "evaluations.jsonl"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    atomic.write_json(folder / FILE, {**begun(folder), "rows_per_forward": fewer, _KILLED: False})
    return run(fewer)


def note_killed(folder: Path) -> None:
    """Have the work in `folder` begun again with fewer rows: the process that did it was killed for its memory."""
    atomic.write_json(folder / FILE, {**begun(folder), _KILLED: True})


def begun(folder: Path) -> dict[str, Any]:
    """How an earlier attempt began, whose work is gone on with; empty if there was none."""
    path = folder / FILE
    return dict(atomic.read_json(path)) if path.is_file() else {}


def _fewer(rows: int, whole: int, devices: int) -> int | None:
    """At most half of `rows` so that forwards of equal size make up a step, and devices share each; None if there are
    none."""
    return next((half for half in range(rows // 2, 0, -1) if whole % half == 0 and half % devices == 0), None)
