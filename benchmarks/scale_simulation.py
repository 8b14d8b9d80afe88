"""A study on made-up machines: the scheduler's own loop, event by event. Nothing runs; the same seed, the same end.

One driver looks at every task in the ledger once, at the start. Then it goes round: it hands every task whose needs are
met to the engine, looks which have ended, and reads what became of them, one after another. The engine gives tasks to
free GPUs. A GPU's process starts up, waits until its node has prepared what the cell needs (base, encoded data; once a
node), claims, works, commits. A node that dies takes its GPUs along until it is replaced; what ran there is handed in
again and goes on from its last checkpoint. A task that dies twice at the same checkpoint is given up, as a real study
does.

Left out: the engine's own limits, networks, two GPUs that share a disk, a driver that dies.
"""

import heapq
import math
import random
from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

SPENT = ("useful", "redone", "start_up", "preparing", "ledger", "idle", "down")
"""What a GPU's time goes to. redone: work after the last checkpoint before a death, and of tasks given up. idle: no
task at hand. down: its node is being replaced."""
_DEATHS = 2


@dataclass(frozen=True)
class Study:
    """What is to be done, in seconds.

    shape: durations of cells relative to their mean, drawn with replacement. starts: recovered starts, which half of
    the cells wait for. stage_share: of a cell's duration, for what comes after it. kinds: pairs of base and data.
    checkpoint: between two of a cell.
    """

    cells: int = 10_000
    mean: float = 600.0
    shape: tuple[float, ...] = (1.0,)
    starts: int = 8
    start_seconds: float = 1_200.0
    stage_share: float = 0.1
    kinds: int = 8
    checkpoint: float = 120.0


@dataclass(frozen=True)
class Machines:
    """Where it runs, in seconds. start_up: of a process, once a GPU, or for each task (as in a Slurm array).

    prepare: of one base and its data on one node. failures: a second and node. repair: until another node stands there.
    """

    gpus: int = 1_000
    gpus_a_node: int = 8
    start_up: float = 30.0
    start_up_each_task: bool = False
    prepare: float = 60.0
    failures: float = 0.0
    repair: float = 600.0


@dataclass(frozen=True)
class Loop:
    """What the ledger and its readers take, in seconds.

    read: of a task's newest entry; it is read once at the start, twice when the task is handed in, twice when it has
    ended. claim, commit: commit is with moving the files. submit: of a task to the engine. poll: between two rounds.
    in_order: whether the engine begins tasks in the study's order, so that a cell that was lost
    comes next, and not in the order in which they were handed in, where it comes last. driver: False where there is
    none, and every process looks through the ledger for itself.
    reads_a_second: that the file server answers, to all together. dead_after: until a process that looks for itself
    takes another for dead.
    """

    read: float = 0.0
    claim: float = 0.0
    commit: float = 0.0
    submit: float = 0.0
    poll: float = 0.5
    in_order: bool = True
    driver: bool = True
    reads_a_second: float = 30_000.0
    dead_after: float = 90.0


class Outcome(NamedTuple):
    """efficiency: useful GPU time in all of it, from the first second to the last task's end. spent: GPU seconds by
    `SPENT`. round_seconds: the most that the driver read in one round, or one process in its look."""

    cells: int
    done: int
    given_up: int
    makespan: float
    efficiency: float
    deaths: int
    round_seconds: float
    spent: dict[str, float]


@dataclass
class _Task:
    duration: float
    kind: int
    needs: int | None = None
    is_cell: bool = False
    saved: float = 0.0
    settled: bool = False
    reached: list[float] = field(default_factory=list)
    wanted_by: list[int] = field(default_factory=list)


@dataclass
class _Run:
    """A task on a GPU: what it does until when, in order."""

    task: int
    began: float
    parts: list[tuple[str, float]]


@dataclass
class _Gpu:
    node: int
    fresh: bool = True
    idle_since: float = 0.0
    run: _Run | None = None


@dataclass
class _Node:
    chance: random.Random
    gpus: list[int]
    prepared: dict[int, float] = field(default_factory=dict)
    down_since: float | None = None


def tasks_of(study: Study, seed: int) -> list[_Task]:
    """Starts, then cells, then a stage after each cell."""
    chance = random.Random(f"{seed}/durations")
    tasks = [_Task(study.start_seconds, number % study.kinds) for number in range(study.starts)]
    for number in range(study.cells):
        needs = number % study.starts if study.starts and number % 2 else None
        kind = needs % study.kinds if needs is not None else number % study.kinds
        tasks.append(_Task(study.mean * chance.choice(study.shape), kind, needs, is_cell=True))
    if study.stage_share:
        for number in range(study.starts, study.starts + study.cells):
            cell = tasks[number]
            tasks.append(_Task(study.stage_share * cell.duration, cell.kind, number))
    for number, task in enumerate(tasks):
        if task.needs is not None:
            tasks[task.needs].wanted_by.append(number)
    return tasks


def simulate(study: Study, machines: Machines, loop: Loop, seed: int = 0) -> Outcome:
    """Run it to its end: every task is done or given up."""
    return _Simulation(study, machines, loop, seed).run()


class _Simulation:
    def __init__(self, study: Study, machines: Machines, loop: Loop, seed: int) -> None:
        self.study, self.machines, self.loop = study, machines, loop
        self.tasks = tasks_of(study, seed)
        self.open = len(self.tasks)
        self.gpus = [_Gpu(number // machines.gpus_a_node) for number in range(machines.gpus)]
        nodes = range(-(-machines.gpus // machines.gpus_a_node))
        self.nodes = [_Node(random.Random(f"{seed}/node {number}"), []) for number in nodes]
        for number, gpu in enumerate(self.gpus):
            self.nodes[gpu.node].gpus.append(number)
        self.free = deque(range(machines.gpus))
        self.queue: list[tuple[int, int]] = []
        self.ready = [number for number, task in enumerate(self.tasks) if task.needs is None]
        self.looks: list[float] = []
        self.events: list[tuple[float, int, str, int, object]] = []
        self.count = 0
        self.spent = dict.fromkeys(SPENT, 0.0)
        self.deaths = self.given_up = self.done = 0
        self.now = self.round_seconds = 0.0
        self.ended: list[int] = []
        self.watching_since: float | None = None

    def run(self) -> Outcome:
        for number in range(len(self.nodes)):
            self._fail_later(number)
        if self.loop.driver:
            self._at(len(self.tasks) * self.loop.read, "round", 0)
        else:
            self._hand_in(self.ready)
        while self.open:
            self.now, _, what, number, run = heapq.heappop(self.events)
            if what == "ended" and self.gpus[number].run is not run:
                continue  # its node died before
            getattr(self, f"_{what}")(number)
        self._close()
        whole = self.machines.gpus * self.now
        efficiency = self.spent["useful"] / whole if whole else 1.0
        return Outcome(self.study.cells, self.done, self.given_up, self.now, efficiency, self.deaths,
                       self.round_seconds, self.spent)  # fmt: skip

    def _at(self, when: float, what: str, number: int, run: object = None) -> None:
        self.count += 1
        heapq.heappush(self.events, (when, self.count, what, number, run))

    # The driver

    def _round(self, _: int) -> None:
        """Hand in, in the study's order, what is ready; then wait a little, and look."""
        found, self.ready = sorted(self.ready), []
        at = self.now
        for number in found:
            at += 2 * self.loop.read + self.loop.submit
            self._at(at, "queued", number)
        self._at(at + self.loop.poll, "collect", 0)

    def _collect(self, _: int) -> None:
        """Read what became of those that have ended, one after another."""
        ended, self.ended = self.ended, []
        if not ended:
            self.watching_since = self.now  # rounds without anything to do are passed over
            return
        took = 2 * self.loop.read * len(ended)
        self.round_seconds = max(self.round_seconds, took)
        for number in ended:
            self.ready += self.tasks[number].wanted_by if self.tasks[number].settled else [number]
        self._at(self.now + took, "round", 0)

    def _queued(self, number: int) -> None:
        self._hand_in([number])

    def _hand_in(self, tasks: list[int]) -> None:
        for number in tasks:
            self.count += 1
            heapq.heappush(self.queue, (number if self.loop.in_order else self.count, number))
        while self.queue and self.free:
            self._begin(self.free.popleft(), heapq.heappop(self.queue)[1])

    def _tell_end(self, number: int) -> None:
        """A task is done, or its node is gone."""
        task = self.tasks[number]
        if self.loop.driver:
            self.ended.append(number)
            if self.watching_since is not None:
                passed = math.ceil((self.now - self.watching_since) / self.loop.poll) if self.loop.poll else 0
                self._at(max(self.now, self.watching_since + passed * self.loop.poll), "collect", 0)
                self.watching_since = None
        elif task.settled:
            self._hand_in(task.wanted_by)
        else:
            self._at(self.now + self.loop.dead_after, "queued", number)

    # GPUs

    def _begin(self, number: int, which: int) -> None:
        gpu, task, machines = self.gpus[number], self.tasks[which], self.machines
        node = self.nodes[gpu.node]
        self.spent["idle"] += self.now - gpu.idle_since
        at = self.now
        parts = []
        if gpu.fresh or machines.start_up_each_task:
            at += machines.start_up
            parts.append(("start_up", at))
            gpu.fresh = False
        if not self.loop.driver:
            at += self._own_look(at)
            parts.append(("ledger", at))
        there = node.prepared.setdefault(task.kind, at + machines.prepare)  # the first one prepares, others wait
        if there > at:
            at = there
            parts.append(("preparing", at))
        at += self.loop.claim
        parts.append(("ledger", at))
        at += task.duration - task.saved
        parts.append(("useful", at))
        at += self.loop.commit
        parts.append(("ledger", at))
        gpu.run = _Run(which, self.now, parts)
        self._at(at, "ended", number, gpu.run)

    def _own_look(self, at: float) -> float:
        """Seconds in which one process looks through all tasks, beside others that do."""
        while self.looks and self.looks[0] <= at:
            heapq.heappop(self.looks)
        each = max(self.loop.read, (len(self.looks) + 1) / self.loop.reads_a_second)
        took = len(self.tasks) * each
        heapq.heappush(self.looks, at + took)
        self.round_seconds = max(self.round_seconds, took)
        return took

    def _ended(self, number: int) -> None:
        gpu = self.gpus[number]
        assert gpu.run is not None
        ended = gpu.run.task
        task = self.tasks[ended]
        self._charge(gpu.run)
        self.spent["useful"] += task.saved  # what earlier attempts left
        gpu.run, gpu.idle_since = None, self.now
        self.free.append(number)
        self._settle(task)
        self.done += task.is_cell
        self._tell_end(ended)
        self._hand_in([])

    def _settle(self, task: _Task) -> None:
        assert not task.settled
        task.settled = True
        self.open -= 1

    def _charge(self, run: _Run) -> float:
        """Put what a run took until now where it belongs. Returns the seconds of work."""
        at, worked = run.began, 0.0
        for what, until in run.parts:
            took = max(0.0, min(until, self.now) - at)
            self.spent[what] += took
            worked += took if what == "useful" else 0.0
            at = until
        return worked

    # Nodes

    def _fail_later(self, number: int) -> None:
        if self.machines.failures:
            wait = self.nodes[number].chance.expovariate(1.0) / self.machines.failures
            self._at(self.now + wait, "fail", number)

    def _fail(self, number: int) -> None:
        node = self.nodes[number]
        self.deaths += 1
        node.down_since = self.now
        node.prepared.clear()
        again: list[int] = []
        for which in node.gpus:
            gpu = self.gpus[which]
            gpu.fresh = True
            if gpu.run is None:
                self.spent["idle"] += self.now - gpu.idle_since
                self.free.remove(which)
            else:
                again += self._lose(gpu.run)
                gpu.run = None
        self._at(self.now + self.machines.repair, "repaired", number)
        for which in again:
            self._tell_end(which)

    def _lose(self, run: _Run) -> list[int]:
        """What is left of a run whose node died: the task to be begun again, or nothing where it is given up."""
        task = self.tasks[run.task]
        worked = self._charge(run)
        reached = (task.saved + worked) // self.study.checkpoint * self.study.checkpoint
        lost = task.saved + worked - reached
        self.spent["useful"] -= worked  # counted once the task is done
        self.spent["redone"] += lost
        task.saved = reached
        task.reached.append(reached)
        if task.reached.count(reached) < _DEATHS:
            return [run.task]
        self._give_up(run.task)
        return []

    def _give_up(self, number: int) -> None:
        """The task fails, and so does what needs it."""
        task = self.tasks[number]
        self.spent["redone"] += task.saved
        self._settle(task)
        self.given_up += task.is_cell
        for other in task.wanted_by:
            self._give_up(other)

    def _repaired(self, number: int) -> None:
        node = self.nodes[number]
        assert node.down_since is not None
        self.spent["down"] += len(node.gpus) * (self.now - node.down_since)
        node.down_since = None
        for which in node.gpus:
            self.gpus[which].idle_since = self.now
        self.free.extend(node.gpus)
        self._fail_later(number)
        self._hand_in([])

    def _close(self) -> None:
        for node in self.nodes:
            if node.down_since is not None:
                self.spent["down"] += len(node.gpus) * (self.now - node.down_since)
                continue
            for which in node.gpus:
                self.spent["idle"] += self.now - self.gpus[which].idle_since
