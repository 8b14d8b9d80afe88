"""The table of tasks: what each arm scores, and how far that is from the reference's score."""

from unnorm.report.verdicts import in_points, task_could_show, task_verdict
from unnorm.report.wording import signed, signed_interval
from unnorm.study.task_differences import TaskRow, task_rows
from unnorm.study.view import StudyView


def task_table(study: StudyView) -> list[list[str]]:
    """Head and rows, names up to `arm` and numbers after it; empty where no tasks were answered."""
    rows = task_rows(study)
    if not rows:
        return []
    kept = [("model", len(study.models) > 1), ("dataset", len(study.datasets) > 1)]
    places = [name for name, several in kept if several]
    head = [*("data" if name == "dataset" else name for name in places), "task", "strategy", "arm"]
    return [
        [*head, "metric", "score", "difference", "verdict", "could show", "questions", "seeds"],
        *(
            [
                *(getattr(row, name) for name in places),
                *(row.task, row.strategy, row.arm, row.metric, task_score(row), task_difference(row)),
                *(task_verdict(row) or "–", task_could_show(row) or "–"),
                *(f"{row.questions:,}", str(len(row.seeds))),
            ]
            for row in rows
        ),
    ]


def task_caption(study: StudyView) -> str:
    """What the numbers of `task_table` are."""
    return (
        "Tasks of lm-evaluation-harness after fine-tuning. Score: mean over questions and seeds; difference: to the "
        f"score of {study.reference}, paired by question and seed, with its 95 % interval (over questions, and over "
        "seeds where there are several), which is not corrected for the number of tasks; could show: the smallest "
        "difference that such a study shows four times in five. Points are percentage points."
    )


def task_score(row: TaskRow) -> str:
    """A share in per cent, other numbers as they are."""
    return f"{row.value:.1%}" if row.is_share else f"{row.value:.4f}"


def task_difference(row: TaskRow) -> str:
    """With its interval, and with what is in doubt about it."""
    if row.difference is None:
        return "–"
    if row.is_share:
        text = signed(row.difference)
        text += f" ({signed_interval(row.low, row.high)})" if row.low is not None and row.high is not None else ""
        text = in_points(text)
    else:
        text = f"{row.difference:+.4f}"
        text += f" ({row.low:+.4f} to {row.high:+.4f})" if row.low is not None else ""
    return text + (f" [{row.doubt}]" if row.doubt else "")
