"""The driver of a study: it has every task done whose needs are met, by an engine, until all are done or failed.

It keeps no state of its own: what it knows is in the ledger, so the same command goes on after its death, and two
drivers share the work. A task is looked at in the ledger when it is submitted and when it has ended, and while another
holds it; not in between.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from unnorm.foundation import processes
from unnorm.foundation.errors import Interrupted, RunError
from unnorm.foundation.progress import time_in_words
from unnorm.study.engines.interface import Ended, Engine
from unnorm.study.lease import newest
from unnorm.study.tasks import Task, holder, record_death, state_of

LOOK = 2.0
"""Seconds between two looks at what others hold."""
_IDLE_DEATHS = 3
"""So many deaths in a row without a task in hand mean that tasks cannot be done there at all."""


def drive(
    tasks: Sequence[Task],
    engine: Engine,
    states: Mapping[str, str] | None = None,
    *,
    ended: Callable[[], None] = lambda: None,
) -> None:
    """Go on until every task is done or failed, or cannot be done since what it needs has failed.

    states: of the tasks, by their ids, if somebody has just looked. ended: called after each task that ended here.
    Raises `Interrupted` after Ctrl-C and what the engine raises; what was reached is kept.
    """
    driver = _Driver(tasks, engine, states or {task.id: state_of(task) for task in tasks})
    try:
        while driver.is_left():
            driver.submit()
            for end in driver.wait():
                driver.take(end)
                ended()
    except KeyboardInterrupt as stop:
        engine.say("stopping: what runs ends its step and saves; once more to stop at once")
        raise Interrupted from stop


class _Driver:
    def __init__(self, tasks: Sequence[Task], engine: Engine, states: Mapping[str, str]) -> None:
        self.tasks = {task.id: task for task in tasks}
        self.engine = engine
        self.state = dict(states)  # id: open, done, failed; void: what it needs has failed
        self.left = Counter(_kind(task) for task in tasks if self.state[task.id] == "open")
        self.submitted: set[str] = set()
        self.held: dict[str, float] = {}  # by others: when to look again
        self.died: dict[str, Ended] = {}  # whose death is not yet seen in their claims
        self.idle_deaths = 0
        self.started, self.begun = time.monotonic(), dict[str, float]()
        self.took: dict[str, tuple[int, float]] = {}  # kind of a task -> done since this run began, seconds
        self.shared = _shared([task.name for task in tasks])
        self.told: list[str] = []

    def is_left(self) -> bool:
        for task in self.tasks.values():
            if self.state[task.id] == "open" and self._needs(task) == "void":
                self._now(task, "void")
        return self.left.total() > 0

    def submit(self) -> None:
        """Submit what is ready and free, as far as there is room."""
        for task in self._ready():
            if not self.engine.has_room(task.wants):
                continue
            if self._now(task, state_of(task)) != "open":
                continue
            if holder(task) is not None:
                self.held[task.id] = time.monotonic() + LOOK
                continue
            self.held.pop(task.id, None)
            if (end := self.died.pop(task.id, None)) is not None:
                self._record_death(task, end)
            self.submitted.add(task.id)
            self.begun[task.id] = time.monotonic()
            self.engine.submit(task, self._label(task))

    def wait(self) -> list[Ended]:
        """Those that have ended; after a while if nothing runs here."""
        if self.submitted:
            return self.engine.finished()
        if self.held:
            self._tell_who_holds()
            time.sleep(LOOK)
        return []

    def take(self, end: Ended) -> None:
        """See what became of a task that has ended."""
        task = self.tasks[end.task]
        self.submitted.discard(task.id)
        if self._now(task, state_of(task)) == "done":
            count, seconds = self.took.get(_kind(task), (0, 0.0))
            self.took[_kind(task)] = count + 1, seconds + time.monotonic() - self.begun[task.id]
        if not end.died:
            self.idle_deaths = 0
            return
        last = newest(task.at)
        in_hand = last is not None and last.kind == "claimed"
        self.idle_deaths = 0 if in_hand else self.idle_deaths + 1
        if self.idle_deaths >= _IDLE_DEATHS:
            raise RunError(f"{end.died}, {_IDLE_DEATHS} times without a task in hand.")
        if self.state[task.id] != "open":
            return
        self.engine.say(f"{end.died} at {task.name}; another takes its place")
        if in_hand:
            self.died[task.id] = end

    def _ready(self) -> Iterator[Task]:
        now = time.monotonic()
        for task in self.tasks.values():
            if self.state[task.id] != "open" or task.id in self.submitted or self.held.get(task.id, 0.0) > now:
                continue
            if self._needs(task) == "met":
                yield task

    def _needs(self, task: Task) -> str:
        states = {self.state.get(need, "done") for need in task.needs}
        if "open" in states:
            return "open"
        return "met" if task.despite or states <= {"done"} else "void"

    def _record_death(self, task: Task, end: Ended) -> None:
        last = newest(task.at)
        if last is not None and last.kind == "claimed":
            record_death(task, last, out_of_memory=end.out_of_memory)

    def _tell_who_holds(self) -> None:
        claims = [(task, holder(task)) for task in map(self.tasks.__getitem__, self.held)]
        held = [
            f"waiting for {task.name}, which {claim.content.get('host', '?')} (pid {claim.content.get('pid', '?')}) has"
            for task, claim in claims
            if claim is not None
        ]
        here = processes.this_process()
        away = {
            str(claim.content.get("host"))
            for _, claim in claims
            if claim is not None and not claim.content.get("engine") and claim.content.get("place") != here["place"]
        }
        held += [
            f"{host} cannot be asked from here. If nothing of this study runs there any more: "
            f"unnorm study retry STUDY.yaml --held-by {host}"
            for host in sorted(away)
        ]
        for line in held:
            if line not in self.told:
                self.engine.say(line)
        self.told = held

    def _now(self, task: Task, state: str) -> str:
        """Note the state of a task, and how many of its kind are left."""
        self.left[_kind(task)] += (state == "open") - (self.state[task.id] == "open")
        self.state[task.id] = state
        return state

    def _label(self, task: Task) -> str:
        """Which task it is of how many, how long all will take, and its name as far as it tells it from the others."""
        count = len(self.tasks)
        return f"{count - self.left.total() + 1}/{count}{self._time_left()} {task.name.replace(self.shared, '')}"

    def _time_left(self) -> str:
        """By what tasks of each kind took since this run began, and how many ran at once: a start says nothing of
        cells. Nothing until a cell is done."""
        left = {kind: count for kind, count in self.left.items() if count}
        if "cell" not in self.took and "cell" in left:
            return ""
        known = {kind: seconds / count for kind, (count, seconds) in self.took.items()}
        busy = sum(seconds for _, seconds in self.took.values())
        at_once = max(1.0, busy / (time.monotonic() - self.started))
        seconds = sum(known.get(kind, 0.0) * count for kind, count in left.items()) / at_once
        how = "about" if left.keys() <= known.keys() else "over"
        return f" ({how} {time_in_words(seconds)} left)" if seconds else ""


def _kind(task: Task) -> str:
    """`cell`, `starts` (of recovered starts), or the name of the stage."""
    folder = task.at.path.parent.name
    return task.at.stage.partition("-")[0] or ("cell" if folder == "cells" else folder)


def _shared(names: Sequence[str]) -> str:
    """The model and the data set with which the names of all cells begin, if they are the same for all."""
    begin = {tuple(name.rpartition(" of ")[2].split(" / ")[:2]) for name in names if name.count(" / ") >= 4}
    return f"{' / '.join(begin.pop())} / " if len(begin) == 1 else ""
