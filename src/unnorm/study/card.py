"""The numbers that a model card may quote: those of the cell that made the model, read from its folder."""

from pathlib import Path
from statistics import mean
from typing import Any

from unnorm.evaluation.judges.interface import WHOLE
from unnorm.evaluation.lm_eval import read_scores
from unnorm.evaluation.paired_tasks import Questions, in_tables, pair_tasks
from unnorm.evaluation.preference import REPORT
from unnorm.foundation import atomic
from unnorm.foundation.hashing import hash_json
from unnorm.study.ledger import result_of, stages_of, standing_of
from unnorm.study.start_words import read_recovery
from unnorm.study.view import TASK_SCORES


def card_numbers(model: Path) -> dict[str, Any]:
    """Name -> value for the model in the folder `model`, if it is CELL/model of a cell that is done; else nothing.

    Where the same ledger holds the cell that differs in its arm alone, and is `original`, its numbers stand beside:
    loss, how often a judge preferred an answer of the model to one of its, scores on tasks.
    """
    cell = model.resolve().parent
    if model.resolve().name != "model" or standing_of(cell).state != "done":
        return {}
    result = result_of(cell)
    numbers = {
        "fine-tuned on": f"{result['dataset']}, {result['train_tokens']:,} tokens, strategy {result['strategy']}",
        "arm, seed": f"{result['arm']}, {result['seed']}",
        "held-out loss before training (nats a token)": result["start_eval_loss"],
        "held-out loss (nats a token)": result["eval_loss"],
        "held-out token accuracy": result["eval_token_accuracy"],
        "held-out tokens": result["eval_tokens"],
    }
    if result.get("start_tokens"):
        by = (read_recovery(cell) or {}).get("objective")
        how = "trained by cross-entropy" if by == "ce" else "distilled from the original"
        numbers[f"{how} before that (tokens)"] = f"{result['start_tokens']:,}"
    original = _original_of(cell) if result["arm"] != "original" else None
    if original is not None:
        loss = result_of(original)["eval_loss"]
        numbers["held-out loss of the original, fine-tuned alike"] = loss
        numbers["gap to the original"] = f"{result['eval_loss'] / loss - 1:+.2%} (one seed)"
        numbers |= _win_rates(cell, original)
    return numbers | _tasks(cell, original)


def _win_rates(cell: Path, original: Path) -> dict[str, str]:
    """Of each judge that was asked about this pair."""
    pair = hash_json([_id_of(cell), _id_of(original)])
    found = {}
    for report in sorted(cell.parent.parent.glob(f"pairs/*-{pair}/judge-*/{REPORT}")):
        content = atomic.read_json(report)
        rate = content["parts"][WHOLE]["win_rate"]
        if rate and report.parent.name in _done_stages(report.parents[1]):
            interval = f"95 % interval {rate['low']:.1%} to {rate['high']:.1%}"
            judge = f"win rate against the original, ties as half (judge: {content['judge']['kind']})"
            found[judge] = f"{rate['value']:.1%} ({interval}; {content['parts'][WHOLE]['questions']} questions)"
    return found


def _tasks(cell: Path, original: Path | None) -> dict[str, str]:
    """A score a task, and how far it is from the original's, paired by question."""
    found = {}
    for stage, scores in _scores(cell).items():
        others = _scores(original).get(stage, {}) if original is not None else {}
        paired = {(each.task, each.metric): each for each in pair_tasks(scores, others)}
        for (task, metric), mine in scores.items():
            name = f"{task} ({metric}, {len(mine):,} questions)"
            found[name] = _share(mean(mine.values()))
            each = paired.get((task, metric))
            if each is None:
                continue
            low, high = each.low, each.high
            interval = f", 95 % interval {low:+.3f} to {high:+.3f}" if low is not None and high is not None else ""
            found[name] += f"; the original, fine-tuned alike: {_share(each.second)} ({each.difference:+.3f}{interval})"
    return found


def _share(value: Any) -> str:
    return f"{value:.3f}"


def _scores(cell: Path) -> dict[str, dict[tuple[str, str], Questions]]:
    """Stage -> (task, metric) -> question -> number, of the stages of tasks that are done; a metric a task."""
    files = {stage: cell / stage / TASK_SCORES for stage in _done_stages(cell) if stage.startswith("tasks-")}
    return {stage: in_tables(read_scores(path)) for stage, path in files.items() if path.is_file()}


def _done_stages(folder: Path) -> list[str]:
    return [stage for stage, standing in stages_of(folder).items() if standing.state == "done"]


def _id_of(cell: Path) -> str:
    return str(atomic.read_json(cell / "cell.json")["cell"])


def _original_of(cell: Path) -> Path | None:
    mine = _without_arm(cell)
    for other in sorted(cell.parent.iterdir()):
        if other == cell or standing_of(other).state != "done" or result_of(other)["arm"] != "original":
            continue
        if _without_arm(other) == mine:
            return other
    return None


def _without_arm(cell: Path) -> dict[str, Any]:
    settings = atomic.read_json(cell / "cell.json")["settings"]
    return {key: value for key, value in settings.items() if key not in ("arm", "start")}
