"""Running a study: its cells are planned, what is open is done by as many processes as asked for, results written."""

from collections.abc import Callable
from pathlib import Path

from unnorm.foundation import ranks
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.precision import line_of
from unnorm.study import ledger as ledger_module
from unnorm.study import threads
from unnorm.study.after.pairs import pairs_of
from unnorm.study.after.stages import pair_entries
from unnorm.study.after.tasks import tasks_stage
from unnorm.study.audit import elsewhere, elsewhere_in_words
from unnorm.study.plan import Plan, Planned, name_of, place_of, plan_study
from unnorm.study.record import conclude, write_study
from unnorm.study.results import write_results
from unnorm.study.spec import After, StudyFile
from unnorm.study.tasks import Timing, is_open, reopen
from unnorm.study.view import StudyView, read_study, reference_of
from unnorm.study.work import Work, cell_tasks, stage_tasks, start_tasks, training_tasks, work_through
from unnorm.study.workbench import Workbench
from unnorm.study.workers import run_workers

Say = Callable[[str], None]


def run_study(
    spec: StudyFile,
    source: str,
    ledger: Path,
    *,
    retry_failed: bool = False,
    workers: int = 1,
    report_to: tuple[str, ...] = (),
    quiet: bool = False,
    say: Say = lambda text: None,
    timing: Timing | None = None,
) -> StudyView:
    """Run every cell of the study that is not done, and the stages after it. Returns the study as it then stands.

    source: the study file's text, kept beside the results. A cell or stage that fails is recorded with its error and
    does not stop the others; it is run again only with `retry_failed`. Others may run the same study at the same time,
    here or on another machine that sees the folder: the work is shared. workers: processes; with one, this one works
    itself. report_to: transformers' names of trackers. `Interrupted` and a full disk end the run, and the same call
    goes on from there.
    """
    ledger = Path(ledger)
    ledger_module.check_format(ledger)
    bench = Workbench(quiet=quiet)
    for asked in dict.fromkeys(settings.training.precision for settings in spec.cells()):
        say(line_of(asked))
    with spec.blamed("training", "devices"):
        devices = max(settings.training.devices for settings in spec.cells())
        ranks.check_devices(devices)
        if devices > 1 and workers > 1:
            raise SettingsError("a cell of several devices has the machine to itself. Leave --workers out.")
    folder = ledger / spec.name
    threads.recall(folder)
    plan = plan_study(spec, ledger, bench)
    ledger_module.check_writable(ledger)
    reference = reference_of([arm.id for arm in spec.resolved_arms()])

    def do(cells: list[Planned], after: After) -> None:
        work = Work(cells, reference, after, report_to, quiet)
        do_work(work, bench, retry_failed=retry_failed, workers=workers, say=say, timing=timing, results=folder)

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
    *,
    retry_failed: bool,
    workers: int,
    say: Say,
    timing: Timing | None,
    results: Path,
) -> None:
    """Do the work, or what others leave of it, in this process or in workers. results: the study's folder."""
    cells = cell_tasks(work, bench, say)
    if retry_failed:
        for task in [*start_tasks(work, bench, say).values(), *cells, *stage_tasks(work)]:
            reopen(task)
    left = sum(is_open(task) for task in cells)
    starts = sum(is_open(task) for task in training_tasks(work, bench, say)) - left
    first = f", after {starts} start{'s' * (starts > 1)}" if starts else ""
    say(f"{len(cells)} cells: {len(cells) - left} finished before, {left} to run{first}")

    def ended() -> None:
        write_results(read_study(results, logs=False))

    if workers > 1:
        bench.let_go()
        # what is timed is timed alone: workers that train beside it would be what is measured
        alone = work._replace(after=work.after.model_copy(update={"latency": None}))
        run_workers(alone, workers, say=say, ended=ended, timing=timing)
    work_through(work, bench, say=say, ended=ended, timing=timing)


def _write(folder: Path, spec: StudyFile, source: str, plan: Plan, reference: str) -> None:
    pairs = pair_entries(pairs_of(plan.cells, reference), spec.after)
    write_study(folder, spec, source, plan, pairs, tasks_stage(spec.after.tasks) if spec.after.tasks else None)


def _say_choices(plan: Plan, say: Say) -> None:
    for choice in plan.choices:
        edge = ", at the edge of what was tried" if choice.at_edge else ""
        say(f"{' / '.join(choice.slot)}: learning rate {choice.learning_rate:g}{edge}")
    for settings in plan.pending:
        say(f"{name_of(settings)}: FAILED: no try of its learning rate came to an end")
