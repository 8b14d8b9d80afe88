"""Two arms by everything that the study measured of both, in one table: loss, accuracy, win rate, speed, tasks."""

from collections import Counter
from collections.abc import Sequence

from unnorm.report.pairs import behind
from unnorm.report.tasks import task_difference, task_score
from unnorm.report.verdicts import could_show, in_its_unit, task_could_show, task_verdict, verdict
from unnorm.study.compare import Metric, Row
from unnorm.study.task_differences import TaskRow
from unnorm.study.view import StudyView

MEASURES: dict[Metric, str] = {
    "loss": "loss (nats)",
    "accuracy": "token accuracy",
    "preference": "win rate",
    "latency": "time per token",
}
_RESULT: dict[Metric, str] = {"loss": "eval_loss", "accuracy": "eval_token_accuracy"}
_FAIR = 0.5
_SIGNIFICANT = 0.05
_NONE = "–"


def side_by_side(study: StudyView, rows: Sequence[Row], tasks: Sequence[TaskRow], against: str) -> list[list[str]]:
    """Head and rows, a block an arm in a place: what was measured, of the arm, of `against`, difference and verdict.

    rows: `compare_arms`; tasks: `task_rows` with the same `against`. A place that the study has one of is not named.
    """
    named = [
        name for name, several in (("model", len(study.models) > 1), ("dataset", len(study.datasets) > 1)) if several
    ]
    head = [*("data" if name == "dataset" else name for name in named), "strategy", "arm", "measure"]
    found = [[*head, "arm's", f"{against}'s", "difference", "could show", "verdict", "seeds"]]
    scored = {(t.model, t.dataset, t.strategy, t.arm, t.task): t for t in tasks}
    for place in dict.fromkeys(row.place for row in rows):
        names = [*(place[("model", "dataset").index(name)] for name in named), *place[2:]]
        lines = [_line(study, row) for row in rows if row.place == place]
        lines += [
            _task_line(task, scored.get((*place[:3], against, task.task)))
            for task in tasks
            if (task.model, task.dataset, task.strategy, task.arm) == place and task.difference is not None
        ]
        found += [[*(names if not number else [""] * len(names)), *line] for number, line in enumerate(lines)]
    return found


def _line(study: StudyView, row: Row) -> list[str]:
    mine, other = (_mean(study, row, arm) for arm in (row.arm, row.against))
    sign = "" if row.metric == "preference" else "+"
    digits = 1 if row.metric == "preference" else 2
    value = f"{row.value:{sign}.{digits}%}"
    if row.low is not None and row.high is not None:
        value += f" ({row.low:{sign}.{digits}%} to {row.high:{sign}.{digits}%})"
    value = in_its_unit(value, row).replace("-", "−") + (
        " *" if row.p_holm is not None and row.p_holm < _SIGNIFICANT else ""
    )
    return [MEASURES[row.metric], mine, other, value, could_show(row) or _NONE, _claim(study, row), str(len(row.seeds))]


def _task_line(task: TaskRow, other: TaskRow | None) -> list[str]:
    theirs = task_score(other) if other else _NONE
    name = f"{task.task} ({task.metric})"
    claim = task_verdict(task, brief=True) or "undecided: no interval"
    could = task_could_show(task) or _NONE
    return [name, task_score(task), theirs, task_difference(task), could, claim, str(len(task.paired))]


def _mean(study: StudyView, row: Row, arm: str) -> str:
    """Over the seeds that were compared."""
    key = _RESULT.get(row.metric)
    if key is None:
        return _NONE
    results = [pair[arm == row.against].result or {} for pair in behind(study, row)]
    mean = sum(result[key] for result in results) / len(results)
    return f"{mean:.4f}" if row.metric == "loss" else f"{mean:.1%}"


def _claim(study: StudyView, row: Row) -> str:
    """The verdict, and what is in doubt about it."""
    words = verdict(row, brief=True)
    if row.metric == "preference":
        words = _preferred(row)
    elif row.metric == "latency":
        words = _timed(study, row)
    return (words or "undecided: no interval") + (f" [{row.doubt.upper()}]" if row.doubt else "")


def _preferred(row: Row) -> str | None:
    if row.low is None or row.high is None:
        return None
    if row.low <= _FAIR <= row.high:
        return "undecided"
    return f"{row.arm if row.low > _FAIR else row.against} is preferred"


def _timed(study: StudyView, row: Row) -> str | None:
    """What the clock said of each seed, which knows of its own noise."""
    said = Counter(
        each["verdict"]
        for pair in study.pairs
        if pair.latency and pair.place[:4] == (row.model, row.dataset, row.arm, row.strategy)
        if pair.against == row.against and pair.seed in row.seeds
        for each in pair.latency["comparisons"]
        if each["model"] == row.arm and each["workload"]["kind"] == "decode"
    )
    if len(said) == 1:
        return str(next(iter(said)))
    return ", ".join(f"{words} in {count} of {said.total()}" for words, count in said.items()) or None
