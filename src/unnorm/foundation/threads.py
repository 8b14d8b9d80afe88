"""How many threads of the processor pay: small models on a busy machine are fastest on one.

Every product of a small model ends before its threads have found together, and where other processes want the same
cores each of these meetings waits for the scheduler: two threads have taken eight times as long as one. So it is
measured.
"""

import os
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

GIVEN_BY = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_GAIN = 0.9  # more threads must take at most this share of the time of fewer
_LONGER = 1.05  # below it, the two are as good as alike
_BUSY = 2.0  # nothing but other processes makes two threads take twice as long as one
_SECONDS = 0.5  # for each number of threads
_MOST_RUNS = 5

_begun_with: list[int] = []


class Threads(NamedTuple):
    """number: of threads. why: a few words for people, after "because"."""

    number: int
    why: str

    def describe(self) -> str:
        return f"{self.number} {'thread' if self.number == 1 else 'threads'}, since {self.why}"


def decided() -> Threads | None:
    """What the environment or the machine has decided; None where it is worth measuring."""
    name = next((name for name in GIVEN_BY if os.environ.get(name)), None)
    if name is not None:
        return Threads(most(), f"{name} says so")
    if most() == 1:
        return Threads(1, "this process has one core")
    return None


def measure(step: Callable[[], object]) -> Threads:
    """The number of threads on which `step` is fastest, of 1, 2, 4 and so on up to all. Leaves the number as it was.

    More threads are tried as long as each doubling takes a tenth of the time away at least. All runs of a number count,
    not the best of them: a busy machine's delays are what it is about.
    """
    before, last = torch.get_num_threads(), most()
    numbers = [*(2**power for power in range(last.bit_length()) if 2**power < last), last]
    seconds: list[float] = []
    try:
        for number in numbers:
            torch.set_num_threads(number)
            seconds.append(_seconds_of(step))
            if len(seconds) > 1 and seconds[-1] > _GAIN * seconds[-2]:
                break
    finally:
        torch.set_num_threads(before)
    tried = numbers[: len(seconds)]
    if len(seconds) > 1 and seconds[-1] > _GAIN * seconds[-2]:
        more, fewer = tried[-1], tried[-2]
        times = seconds[-1] / seconds[-2]
        if times < _LONGER:
            return Threads(fewer, f"a step is no faster on {more} here")
        busy = "; is the machine busy?" if times > _BUSY else ""
        return Threads(fewer, f"{more} take {times:.1f} times as long for a step here{busy}")
    return Threads(tried[-1], f"a step takes {seconds[-1] / seconds[0]:.2f} of the time on one")


def use(number: int) -> None:
    """Compute on `number` threads from now on."""
    most()  # it has to be asked before it changes
    if torch.get_num_threads() != number:
        torch.set_num_threads(number)


def most() -> int:
    """The threads that this process began with: as many as it has cores, if nothing else was said."""
    if not _begun_with:
        _begun_with.append(torch.get_num_threads())
    return _begun_with[0]


def _seconds_of(step: Callable[[], object]) -> float:
    """Seconds a run, over some runs after one that warms up."""
    step()
    started, runs = time.perf_counter(), 0
    while runs < _MOST_RUNS and time.perf_counter() - started < _SECONDS:
        step()
        runs += 1
    return (time.perf_counter() - started) / runs
