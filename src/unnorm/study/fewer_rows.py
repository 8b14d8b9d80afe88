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


def with_fewer_rows(
    folder: Path, whole: int, run: Callable[[int], T], *, again: Callable[[int], None], devices: int = 1
) -> T:
    """What `run`, given the rows of a forward, returns; first with `whole` rows, which make a step.

    Where the memory does not suffice, its logs and checkpoints in `folder` go, and it begins once more with half the
    rows in each forward and twice as many forwards a step: the same tokens a step, and the same step up to the order
    of sums and what dropout draws. An interrupted run goes on with the rows that it had. again: told the number of
    rows before the second start; it may raise. devices: how many share the rows equally. Of several processes none
    can begin again alone, so there it fails.
    """
    rows = int(begun(folder).get("rows_per_forward", whole))
    try:
        return run(rows)
    except Exception as error:
        fewer = _fewer(rows, whole, devices)
        if failure_of(error) != "out_of_memory" or rows < whole or fewer is None or launch() is not None:
            raise
        let_go(error)
    # Outside of the handler: there, the error and with it everything of the attempt would still be alive.
    again(fewer)
    free_memory()
    for name in ("steps.jsonl", "evaluations.jsonl"):
        (folder / name).unlink(missing_ok=True)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    atomic.write_json(folder / FILE, {**begun(folder), "rows_per_forward": fewer})
    return run(fewer)


def begun(folder: Path) -> dict[str, Any]:
    """How an earlier attempt began, whose work is gone on with; empty if there was none."""
    path = folder / FILE
    return dict(atomic.read_json(path)) if path.is_file() else {}


def _fewer(rows: int, whole: int, devices: int) -> int | None:
    """At most half of `rows` so that forwards of equal size make up a step, and devices share each; None if there are
    none."""
    return next((half for half in range(rows // 2, 0, -1) if whole % half == 0 and half % devices == 0), None)
