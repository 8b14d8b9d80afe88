"""Runs of a study as processes that are ready at once: torch is imported here, and each run is forked from it.

Only for tests: a run proper is never forked. Nothing has computed yet where the fork happens, so there are no threads.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import peft  # noqa: F401
import torch
import transformers.trainer  # noqa: F401

from study.small_study import run_text
from unnorm.study.lease import TaskFolder, newest

torch.set_num_threads(1)


def start(text: str, ledger: Path) -> int:
    """Fork a run of the study; its pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        run_text(text, ledger)
        os._exit(0)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)


def is_running(pid: int) -> bool:
    """Whether it has not ended; it is left to be waited for."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None


def claims(ledger: Path) -> list[tuple[str, int]]:
    """What was claimed last in each cell: changes when a run begins to work."""
    found = []
    for cell in sorted(ledger.glob("cells/*")):
        for stage in ("", "completions"):
            last = newest(TaskFolder(cell, stage))
            found.append((f"{cell.name} {stage}", last.number if last else 0))
    return found


def kill_at_random_moments(text: str, ledgers: Path, kills: int, seed: int) -> list[Path]:
    """Kill runs of the study at `kills` moments; a study that is done begins again in a fresh ledger. The ledgers used,
    each with a finished study in it."""
    chance = random.Random(seed)
    used = [ledgers / "0"]
    done = 0
    while done < kills:
        before = claims(used[-1])
        pid = start(text, used[-1])
        within = chance.random() < 0.75  # most within the work, the others while it is planned
        wait = chance.uniform(0.0, 0.7)
        while within and claims(used[-1]) == before and is_running(pid):
            time.sleep(0.005)
        time.sleep(wait)
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
            done += 1
        if os.waitpid(pid, 0)[1] == 0:
            used.append(ledgers / str(len(used)))
    finish = start(text, used[-1])
    assert os.waitpid(finish, 0)[1] == 0
    return used


def main() -> None:
    """kill TEXT LEDGERS KILLS SEED, or two TEXT LEDGER: two runs at once."""
    what, text, folder, *numbers = sys.argv[1:]
    if what == "kill":
        kill_at_random_moments(text, Path(folder), *map(int, numbers))
        return
    pids = [start(text, Path(folder)) for _ in range(2)]
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]


if __name__ == "__main__":
    main()
