"""Running a study: its cells are planned, what is open is done by an engine, results written."""

import time
from pathlib import Path

from unnorm.foundation.precision import line_of
from unnorm.foundation.progress import Say
from unnorm.study import engines, threads
from unnorm.study import ledger as ledger_module
from unnorm.study.audit import elsewhere, elsewhere_in_words
from unnorm.study.drive import drive
from unnorm.study.engines.interface import Options, Setting
from unnorm.study.failures import DIVERGED
from unnorm.study.plan import Plan, Planned, pairs_of, place_of, plan_study
from unnorm.study.record import conclude, write_study
from unnorm.study.recovered_start import STARTS
from unnorm.study.sections import After
from unnorm.study.slices import reference_of
from unnorm.study.spec import StudyFile
from unnorm.study.tables import write_results
from unnorm.study.task_list import Work, tasks_of
from unnorm.study.tasks import Task, release_from, reopen, state_of
from unnorm.study.tune import slot_of
from unnorm.study.view import StudyView, read_study
from unnorm.study.workbench import Workbench

HERE = Options()
"""In this process."""


def run_study(
    spec: StudyFile,
    source: str,
    ledger: Path,
    *,
    retry_failed: bool = False,
    held_by: str | None = None,
    options: Options = HERE,
    report_to: tuple[str, ...] = (),
    quiet: bool = False,
    say: Say = lambda text: None,
) -> StudyView:
    """Run every cell of the study that is not done, and the stages after it. Returns the study as it then stands.

    source: the study file's text, kept beside the results. A cell or stage that fails is recorded with its error and
    does not stop the others; it is run again only with `retry_failed`. Others may run the same study at the same time,
    here or on another machine that sees the folder: the work is shared. held_by: a host that is gone for good, whose
    claims are given up. options: which engine does the work, and how. report_to: transformers' names of trackers.
    `Interrupted` and a full disk end the run, and the same call goes on from there.
    """
    ledger = Path(ledger)
    with spec.blamed("training", "devices"):
        engines.check(options, max(settings.training.devices for settings in spec.cells()))
    ledger_module.check_format(ledger)
    bench = Workbench(quiet=quiet)
    for asked in dict.fromkeys(settings.training.precision for settings in spec.cells()):
        say(line_of(asked))
    folder = ledger / spec.name
    threads.recall(folder)
    plan = plan_study(spec, ledger, bench)
    ledger_module.check_writable(ledger)
    reference = reference_of([arm.id for arm in spec.resolved_arms()])

    def do(cells: list[Planned], after: After) -> None:
        work = Work(cells, reference, after, report_to, quiet)
        do_work(work, bench, folder, options, retry_failed=retry_failed, held_by=held_by, say=say)

    for line in elsewhere_in_words(elsewhere({place_of(c.settings): (c.resolved, c.folder) for c in plan.cells})):
        say(line)
    _write(folder, spec, source, plan, reference)
    bases = {one.settings.model_name: one.resolved["model"]["hash"] for one in [*plan.search, *plan.cells]}
    for line in threads.keep(folder, bases):
        say(line)
    try:
        if plan.search:
            say("learning-rate search:")
            do(plan.search, After())
            plan = plan_study(spec, ledger, bench)
            _write(folder, spec, source, plan, reference)
            _say_choices(plan, say)
        do(plan.cells, spec.after)
    finally:
        conclude(folder)
    return read_study(folder)


def do_work(
    work: Work,
    bench: Workbench,
    folder: Path,
    options: Options,
    *,
    retry_failed: bool,
    held_by: str | None,
    say: Say,
) -> None:
    """Do the work, or what others leave of it, by the engine that is asked for. folder: the study's."""
    tasks = tasks_of(work, bench, say)
    if held_by is not None:
        freed = [task.name for task in tasks if release_from(task, held_by)]
        say(f"{held_by} holds nothing here any more; it held {', '.join(freed) or 'nothing'}")
    while retry_failed and [task for task in tasks if reopen(task)]:
        tasks = tasks_of(work, bench, say)  # with the starts that are needed again
    states = {task.id: state_of(task) for task in tasks}
    _say_what_is_left(tasks, states, say)
    if "open" not in states.values():
        return
    written = [0.0, 0.0]  # when, and how long it took

    def ended() -> None:
        if time.monotonic() - written[0] > max(2.0, 20 * written[1]):
            started = time.monotonic()
            write_results(read_study(folder, logs=False))
            written[:] = time.monotonic(), time.monotonic() - started

    devices = max(task.wants.devices for task in tasks)
    engine = engines.make(Setting(options, folder, say, work.quiet, threads=threads.most_of(folder), devices=devices))
    if not engine.here:
        bench.let_go()
    try:
        drive(tasks, engine, states, ended=ended)
    finally:
        engine.cancel()


def _say_what_is_left(tasks: list[Task], states: dict[str, str], say: Say) -> None:
    cells = [task for task in tasks if task.at.path.parent.name == "cells" and not task.at.stage]
    left = sum(states[task.id] == "open" for task in cells)
    starts = sum(states[task.id] == "open" for task in tasks if task.at.path.parent.name == STARTS)
    first = f", after {starts} start{'s' * (starts > 1)}" if starts else ""
    say(f"{len(cells)} cells: {len(cells) - left} finished before, {left} to run{first}")


def _write(folder: Path, spec: StudyFile, source: str, plan: Plan, reference: str) -> None:
    write_study(folder, spec, source, plan, pairs_of(plan.cells, reference))


def _say_choices(plan: Plan, say: Say) -> None:
    for choice in plan.choices:
        edge = ", at the edge of what was tried" if choice.at_edge else ""
        say(f"{' / '.join(choice.slot)}: learning rate {choice.learning_rate:g}{edge}")
    for slot in dict.fromkeys(map(slot_of, plan.pending)):
        tries = [ledger_module.standing_of(one.folder) for one in plan.search if slot_of(one.settings) == slot]
        mishaps = [one.failure for one in tries if one.state == "failed" and one.failure != DIVERGED]
        if mishaps:
            classes = ", ".join(sorted(set(filter(None, mishaps))))
            why = f"{len(mishaps)} of {len(tries)} tries failed ({classes}), which says nothing of their rates: "
            why += "study retry runs them again"
        else:
            why = "training diverged at every rate that was tried: give `tune` lower ones"
        say(f"{' / '.join(slot)}: its cells wait for a learning rate; {why}")
