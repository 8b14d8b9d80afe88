"""The report as text: Markdown, LaTeX, CSV, JSON, and a section for a model card. What a study holds is escaped."""

import re
from collections.abc import Callable
from typing import Any

import orjson

from unnorm.foundation.terminal import plain
from unnorm.report.names import named, without_folders
from unnorm.report.published import published_caption, published_table
from unnorm.report.summary import summary
from unnorm.report.table import COLUMNS, latencies, results
from unnorm.report.tasks import task_caption, task_table
from unnorm.report.wording import share, signed, signed_interval
from unnorm.study.audit import doubt_of, noted_in_words
from unnorm.study.failed import failed_of
from unnorm.study.tables import as_csv, latex, rows_of, tabular
from unnorm.study.task_differences import task_rows
from unnorm.study.view import StudyView


def to_markdown(study: StudyView) -> str:
    """Summary, results, tasks, what was published, latencies, audit, failures, and how to reproduce them."""
    study = named(study)
    lines = [f"# {_md(study.name)}", "", "## Summary", "", *(f"- {_md(line)}" for line in summary(study)), ""]
    lines += ["## Results", "", *_md_table(study), ""]
    tasks = task_table(study)
    if tasks:
        lines += ["## Tasks", "", *_md_rows(tasks), "", _md(task_caption(study)), ""]
    if published := published_table(study):
        lines += ["## Beside what was published", "", *_md_rows(published), "", _md(published_caption(study)), ""]
    times = latencies(study)
    if times:
        lines += ["## Latency", "", *_md_rows([_time_head(), *(_time_row(row) for row in times)]), ""]
    lines += ["## Audit", "", *_audit(study), ""]
    if failed := failed_of(study):
        lines += ["## Failures", "", *(f"- {_md(' / '.join(each.name))}: {_md(each.error)}" for each in failed), ""]
    return "\n".join([*lines, *_reproduce(study)])


def to_card(study: StudyView) -> str:
    """A section that can stand in a model card as it is: what was measured, the table, and what it does not show."""
    study = named(study)
    lines = ["## Results", "", f"From the study `{_code(study.name)}`.", "", *_md_table(study), ""]
    if tasks := task_table(study):
        lines += [*_md_rows(tasks), "", _md(task_caption(study)), ""]
    lines += [f"- {_md(line)}" for line in summary(study)]
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    return "\n".join([*lines, "", f"Measured with {_md(versions)}.", ""])


def to_tex(study: StudyView) -> str:
    """A table for LaTeX, with booktabs; its caption says what the numbers are."""
    study = named(study)
    head, *rows = text_table(study)
    caption = latex(f"{study.name}. {table_caption(study)}")
    lines = ["% needs \\usepackage{booktabs}", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
    return "\n".join([*lines, *tabular(head, rows, head.index("arm") + 1), r"\end{table}", ""])


def to_csv(study: StudyView) -> str:
    """The table of results, every number in full."""
    return as_csv(results(study), COLUMNS).decode()


def to_json(study: StudyView) -> str:
    """Everything that the other formats are made of."""
    content = {
        "name": study.name,
        "summary": summary(study),
        "results": results(study),
        "tasks": [row.to_dict() for row in task_rows(study)],
        "latency": latencies(study),
        "cells": rows_of(study),
        "audit": study.audit,
        "failures": [each._asdict() for each in failed_of(study)],
        "versions": study.versions,
        "source": study.source,
    }
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n"


FORMATS: dict[str, Callable[[StudyView], str]] = {
    "md": to_markdown, "tex": to_tex, "csv": to_csv, "json": to_json, "card": to_card,
}  # fmt: skip


def text_table(study: StudyView) -> list[list[str]]:
    """Head and rows: names up to `arm`, numbers after it. A column that would say nothing is left out."""
    named = [
        ("model", len(study.models) > 1), ("dataset", len(study.datasets) > 1), ("strategy", True), ("arm", True),
    ]  # fmt: skip
    names = [name for name, kept in named if kept]
    found = results(study)
    judged = any(row["win_rate"] is not None for row in found)
    recovered = any(row["start_tokens"] for row in found)
    sure = any(row["gap_detectable"] is not None for row in found)
    numbers = ["tokens before"] * recovered + ["seeds", "start loss", "end loss", "gap"]
    numbers += ["verdict"] + ["could show"] * sure + ["accuracy"] + ["win rate"] * judged
    rows = [["data" if name == "dataset" else name for name in names] + numbers]
    for row in found:
        planned = "" if row["seeds"] == row["planned_seeds"] else f" of {row['planned_seeds']}"
        accuracy = "–" if row["eval_token_accuracy"] is None else f"{row['eval_token_accuracy']:.1%}"
        texts = [
            *(str(row[name]) for name in names), *([_count(row["start_tokens"])] if recovered else []),
            f"{row['seeds']}{planned}", _number(row["start_eval_loss"]),
            _number(row["eval_loss"]), _gap(row), claim(study, row), *([_could_show(row)] if sure else []),
            accuracy,
            *([_wins(row)] if judged else []),
        ]  # fmt: skip
        rows.append(texts)
    return rows


def table_caption(study: StudyView) -> str:
    """What the numbers of `text_table` are."""
    sure = "with its 95 % interval (over conversations, and over seeds where there are several)"
    wins = f"; win rate: against {study.reference}, ties as half, with its 95 % interval"
    judged = any(pair.judge for pair in study.pairs)
    recovered = any((cell.result or {}).get("start_tokens") for cell in study.cells)
    could = "; could show: the smallest gap that such a study shows four times in five, however large this one came out"
    known = any(row["gap_detectable"] is not None for row in results(study))
    before = "; tokens before: those that the arm's start learnt from, on top of the training that all arms have"
    return (
        "Held-out loss in nats per token, before and after fine-tuning; gap: of the loss after it, to that of "
        f"{study.reference}, paired by seed, {sure}; verdict: equivalent where two one-sided tests hold at 95 %, "
        f"behind or ahead where the interval excludes 0, else undecided{could if known else ''}; "
        f"accuracy: of held-out tokens, after fine-tuning{wins if judged else ''}{before if recovered else ''}."
    )


def claim(study: StudyView, row: dict[str, Any]) -> str:
    """What the gap of a row of `results` shows: a verdict, and why it is in doubt where it is."""
    if row["arm"] == study.reference:
        return "the reference"
    if row["gap"] is None:
        return "not compared"
    doubt = doubt_of(row["matched"], row["complete"])
    return (row["verdict"] or "undecided: no interval") + (f" [{doubt}]" if doubt else "")


def _gap(row: dict[str, Any]) -> str:
    if row["gap"] is None:
        return "–"
    text = signed(row["gap"])
    if row["gap_low"] is not None:
        text += f" ({signed_interval(row['gap_low'], row['gap_high'])})"
    return text


def _could_show(row: dict[str, Any]) -> str:
    return "–" if row["gap_detectable"] is None else f"± {share(row['gap_detectable'])}"


def _wins(row: dict[str, Any]) -> str:
    if row["win_rate"] is None:
        return "–"
    doubt = doubt_of(row["matched"], row["judged_seeds"] == row["planned_seeds"])
    interval = f"{row['win_rate_low']:.0%} to {row['win_rate_high']:.0%}"
    return f"{row['win_rate']:.0%} ({interval})" + (f" [{doubt}]" if doubt else "")


def _md_table(study: StudyView) -> list[str]:
    return [*_md_rows(text_table(study)), "", _md(table_caption(study))]


def _md_rows(rows: list[list[str]]) -> list[str]:
    head, *rest = ["| " + " | ".join(_md(cell) for cell in row) + " |" for row in rows]
    return [head, "|" + "---|" * len(rows[0]), *rest]


def _time_head() -> list[str]:
    return ["model", "data", "strategy", "arm", "workload", "time", "95 % interval", "noise floor", "verdict"]


def _time_row(row: dict[str, Any]) -> list[str]:
    return [
        row["model"], row["dataset"], row["strategy"], row["arm"], row["workload"], signed(row["time_ratio"] - 1),
        signed_interval(row["low"] - 1, row["high"] - 1), f"± {row['noise_floor']:.1%}",
        row["verdict"] + (f" [{row['doubt']}]" if row["doubt"] else ""),
    ]  # fmt: skip


def _audit(study: StudyView) -> list[str]:
    if study.audit["matched"] is None:
        return ["Nothing could be compared yet."]
    wrong = [c for c in study.audit["comparisons"] if not c["matched"]]
    noted = [f"- Noted: {_md(line)}." for line in noted_in_words(study.audit)]
    if not wrong:
        matched = (
            f"Matched in {len(study.audit['comparisons'])} comparisons: they differ in the arm and in nothing else"
        )
        return [f"{matched}, but for what is noted:", "", *noted] if noted else [f"{matched}."]
    where = (
        (c["model"], c["dataset"], c["strategy"], f"seed {c['seed']}", f"{c['arm']} against {c['against']}")
        for c in wrong
    )
    lines = [f"- {_md(' / '.join(w))}: {_md('; '.join(c['differences']))}" for w, c in zip(where, wrong, strict=True)]
    return [*lines, *noted]


def _reproduce(study: StudyView) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in study.versions.items())
    cells = ", ".join(f"`{_code(cell.cell)}`" for cell in study.cells)
    source = plain(without_folders(study.source)).rstrip("\n")
    fence = "`" * (3 + max((len(run) for run in re.findall("`+", study.source)), default=0))
    return [
        "## Reproduce", "", "Save this as `study.yaml` and run `unnorm study run study.yaml`.", "",
        f"{fence}yaml", source, fence, "", f"Versions: {_md(versions)}. Cells: {cells}.", "",
    ]  # fmt: skip


def _count(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


def _md(text: str) -> str:
    """One line that no Markdown in it can leave."""
    return re.sub(r"([\\`*\[\]<>|])", r"\\\1", " ".join(plain(text).split()))


def _code(text: str) -> str:
    return " ".join(plain(text).replace("`", "'").split())
