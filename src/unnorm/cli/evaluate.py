"""`unnorm evaluate`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from unnorm.cli.data_options import (
    DATA_HELP,
    LOSS_ON_HELP,
    HeldOut,
    Map,
    Repair,
    ShardingOption,
    Template,
    settings_from,
)
from unnorm.cli.models import use_threads_for
from unnorm.cli.options import check_choice, chosen_sharding, tokens_option
from unnorm.cli.output import JsonOption, emit_json, emit_table, say, told_apart

EXAMPLE = "Example: [bold]unnorm evaluate recovered/model --data alpaca --against distilgpt2[/bold]"


def evaluate(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a model's folder, or an artefact's folder.")],
    data: Annotated[list[str] | None, typer.Option(metavar="DATA", help=DATA_HELP + " May be repeated.")] = None,
    against: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Another model, compared on the same conversations and questions."),
    ] = None,
    by: Annotated[str, typer.Option(help="Groups of conversations: source, language, or category.")] = "source",
    tokens: Annotated[int, tokens_option("Held-out tokens, prompts included.")] = 100_000,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens a row; default 256, or the model's most.")
    ] = None,
    template: Template = "alpaca",
    loss_on: Annotated[str, typer.Option(help=LOSS_ON_HELP)] = "answer",
    held_out: HeldOut = 0.05,
    repair: Repair = False,
    map: Map = None,
    tasks: Annotated[str | None, typer.Option(help="Tasks of lm-evaluation-harness, with commas between.")] = None,
    tasks_folder: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="With --tasks: task files (.yaml) that come before the harness's own."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="With --tasks: examples a task.")] = None,
    sharding: ShardingOption = "ddp",
    seed: Annotated[int, typer.Option(min=0, help="Of the intervals' resamples, and of tasks.")] = 0,
    json: JsonOption = False,
) -> None:
    """Measure held-out loss and token accuracy: on the part of DATA that no run with this --held-out trains on.

    Intervals are 95 %, by bootstrap over conversations.
    """
    from typing import get_args

    from unnorm.artefacts.loading import open_model
    from unnorm.evaluation.held_out import By
    from unnorm.foundation import ranks
    from unnorm.foundation.errors import SettingsError
    from unnorm.foundation.processes import is_main
    from unnorm.tuning.sharded import spread

    if not data and tasks is None:
        raise SettingsError("give --data DATA, --tasks TASKS, or both.")
    check_choice("--by", by, get_args(By))
    if tasks is None and (tasks_folder is not None or limit is not None):
        raise SettingsError("--tasks-folder and --limit belong to tasks: give --tasks TASKS.")
    how = chosen_sharding(sharding)
    if tasks is not None and how == "fsdp" and ranks.count() > 1:
        raise SettingsError("--tasks needs the whole model in one process: use --sharding ddp, or leave the tasks out.")
    loaded_tasks = _load_tasks(tasks, tasks_folder) if tasks is not None else {}
    ranks.join()
    opened = [open_model(name) for name in (model, against) if name is not None]
    use_threads_for(opened[0][0])
    found: dict[str, Any] = {"model": model}
    if data:
        shared = {
            "max_length": max_length, "template": template, "loss_on": loss_on, "held_out": held_out, "repair": repair,
            "map": map,
        }  # fmt: skip
        with spread([loaded for loaded, _ in opened], how):
            losses = {each: _losses(opened, each, shared, by, tokens, seed) for each in data}
        found |= {"against": against, "data": losses}
    if not is_main():
        return
    if loaded_tasks:
        found |= _answers(opened, loaded_tasks, limit, seed)
    if json:
        emit_json(found)
        return
    for each in data or []:
        _show(found["data"][each], each, model, against)
    for task, metrics in found.get("tasks", {}).items():
        rows = [[name, f"{value:.4f}" if isinstance(value, float) else str(value)] for name, value in metrics.items()]
        emit_table(task, ["metric", "value"], rows)
    if found.get("tasks_paired"):
        _show_paired(found["tasks_paired"], model, str(against))


def _load_tasks(names: str, folder: Path | None) -> dict[str, Any]:
    """Before models are loaded, so that a mistyped name costs no time."""
    from unnorm.evaluation.lm_eval_tasks import load_tasks

    return load_tasks([name.strip() for name in names.split(",")], folder)


def _answers(opened: list[tuple[Any, Any]], tasks: dict[str, Any], limit: int | None, seed: int) -> dict[str, Any]:
    """Scores of the first model, and of the second, where there is one, with their differences by task."""
    from unnorm.evaluation.lm_eval import RESAMPLES, Answered, answer
    from unnorm.evaluation.paired_tasks import in_tables, pair_tasks
    from unnorm.foundation.progress import Bar

    each: list[Answered] = []
    with Bar("tasks", len(opened) * len(tasks)) as bar:
        for model, tokenizer in opened:
            parts = []
            for name, task in tasks.items():
                parts.append(answer(model, tokenizer, {name: task}, limit=limit, seed=seed, resamples=RESAMPLES))
                bar.advance()
            metrics = {name: values for part in parts for name, values in part.metrics.items()}
            each.append(Answered(metrics, [score for part in parts for score in part.scores]))
    found: dict[str, Any] = {"tasks": each[0].metrics}
    if len(each) > 1:
        paired = pair_tasks(*(in_tables(answered.scores) for answered in each), seed=seed)
        found |= {"tasks_against": each[1].metrics, "tasks_paired": [one.to_dict() for one in paired]}
    return found


def _losses(
    opened: list[tuple[Any, Any]], data: str, shared: dict[str, Any], by: str, tokens: int, seed: int
) -> dict[str, Any]:
    from unnorm.evaluation.held_out import score_data
    from unnorm.evaluation.losses import compare
    from unnorm.surgery.base import context_length

    length = shared["max_length"]
    if length is None:
        length = min(256, *(context_length(loaded) or 256 for loaded, _ in opened))
    settings = settings_from(None, source=data, **{**shared, "max_length": length})
    scored = [
        score_data(loaded, settings, tokenizer, tokens=tokens, by=by)  # type: ignore[arg-type]
        for loaded, tokenizer in opened
    ]
    if scored[0].warning:
        say(f"{data}: {scored[0].warning}")
    found = scored[0].to_dict(by, seed=seed)  # type: ignore[arg-type]
    if len(scored) > 1:
        found["difference"] = compare(scored[0].scores, scored[1].scores, seed=seed).to_dict()
    return found


def _show(found: dict[str, Any], data: str, model: str, against: str | None) -> None:
    rows = [
        [
            which,
            _with_interval(found[which]["nats_per_token"], ".4f"),
            f"{found[which]['nats_per_byte']['value']:.4f}" if found[which]["nats_per_byte"] else "",
            f"{found[which]['perplexity']['value']:.2f}",
            f"{found[which]['top1']['value']:.1%}",
            f"{found[which]['top5']['value']:.1%}",
            f"{found[which]['tokens']:,}",
            f"{found[which]['conversations']:,}",
        ]
        for which in ("trained", "all")
    ]
    columns = ["tokens that are", "nats per token (95 %)", "per byte", "perplexity", "top 1", "top 5", "tokens"]
    emit_table(f"{model} on what is held out from {data}", [*columns, "conversations"], rows)
    if found["dropped"]:
        reasons = ", ".join(f"{count:,} × {reason}" for reason, count in found["dropped"].items())
        say(f"left out of {data}: {reasons}")
    if "difference" in found:
        d = found["difference"]
        row = [
            f"{d['first']:.4f}",
            f"{d['second']:.4f}",
            _with_interval(d["difference"], "+.4f"),
            _with_interval(d["relative"], "+.2%"),
            f"{d['conversations']:,}",
        ]
        title = f"against {against}, nats per {d['per']} over the same conversations"
        names = told_apart(model, str(against))
        emit_table(title, [*names, "difference (95 %)", "relative (95 %)", "conversations"], [row], 0)


def _show_paired(paired: list[dict[str, Any]], model: str, against: str) -> None:
    rows = []
    for one in paired:
        form, unit, scale = ("+.1f", " points", 100) if one["is_share"] else ("+.4f", "", 1)
        difference = {name: one[name] and one[name] * scale for name in ("difference", "low", "high")}
        value = ".1%" if one["is_share"] else ".4f"
        rows.append([
            one["task"], one["metric"], format(one["first"], value), format(one["second"], value),
            _with_interval({"value": difference.pop("difference"), **difference}, form) + unit, f"{one['questions']:,}",
        ])  # fmt: skip
    columns = ["task", "metric", *told_apart(model, against), "difference (95 %)", "questions"]
    emit_table("the same questions, paired", columns, rows, 0)


def _with_interval(interval: dict[str, Any], form: str) -> str:
    value = format(interval["value"], form)
    if interval["low"] is None:
        return value
    return f"{value} ({format(interval['low'], form)} to {format(interval['high'], form)})"
