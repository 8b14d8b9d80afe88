"""`unnorm latency`."""

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unnorm.cli.options import check_choice, finite
from unnorm.cli.output import JsonOption, emit_json, emit_table, say, told_apart

if TYPE_CHECKING:
    from unnorm.evaluation.latency import LatencyReport

EXAMPLE = "Example: [bold]unnorm latency distilgpt2 swapped/ --workloads prefill,decode --batch-sizes 1,8[/bold]"


def latency(
    models: Annotated[
        list[str], typer.Argument(metavar="A B...", help="Hub ids, models' folders or artefacts; A is the reference.")
    ],
    workloads: Annotated[str, typer.Option(help="prefill, decode, train; with commas between.")] = "prefill,decode",
    batch_sizes: Annotated[str, typer.Option(help="Numbers, with commas between.")] = "1",
    lengths: Annotated[str, typer.Option(help="Tokens of a prompt or row; numbers, with commas between.")] = "128",
    new_tokens: Annotated[int, typer.Option(min=1, help="Tokens that decode adds.")] = 32,
    prompts: Annotated[
        str | None, typer.Option(help="Instead: the questions of a file (or builtin, mt-bench), one after the other.")
    ] = None,
    budget: Annotated[
        float,
        typer.Option(min=1, callback=finite, help="Seconds of all workloads, warm-up included; loading comes before."),
    ] = 60.0,
    half_width: Annotated[
        float, typer.Option(min=0, callback=finite, help="A workload ends early at intervals of ± this.")
    ] = 0.005,
    mode: Annotated[
        str, typer.Option(help="eager, compile (torch.compile), cuda-graphs, compiled-cuda-graphs.")
    ] = "eager",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1; a GPU where there is one.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; as the models are.")] = None,
    optimize: Annotated[
        bool, typer.Option("--optimize", help="Fold and fuse the swapped ones first, as for serving.")
    ] = False,
    no_bound: Annotated[bool, typer.Option("--no-bound", help="Leave out the copy without norms.")] = False,
    out: Annotated[Path | None, typer.Option(help="A .parquet file for every timed run.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the order and the tokens.")] = 0,
    json: JsonOption = False,
) -> None:
    """Compare how fast models are: alternated in one process, with intervals and a noise floor.

    ms and tokens/s are medians. tokens/s counts the tokens that decode adds, and those that prefill and train read.
    The reference runs a second time against itself: a ratio that is not larger than what that shows is no difference.
    One model alone is timed against itself, and against a copy without norms. A verdict needs 12 blocks, in each of
    which every model runs twice; where the budget is too small for them, the ratios come without one.
    """
    from typing import get_args

    from unnorm.artefacts.loading import open_model
    from unnorm.evaluation.latency import Workload, compare_latency
    from unnorm.evaluation.latency.report import ENOUGH
    from unnorm.evaluation.latency.workloads import RunMode
    from unnorm.foundation.errors import SettingsError
    from unnorm.foundation.places import check_file

    check_choice("--mode", mode, get_args(RunMode))
    if out is not None:
        check_file(out)
    place = _place(device, dtype)

    sizes, spans = _numbers(batch_sizes, "--batch-sizes"), _numbers(lengths, "--lengths")
    if prompts is not None:
        grid = [Workload(kind="prompts", new_tokens=new_tokens)]
    else:
        kinds = workloads.split(",")
        if not set(kinds) <= {"prefill", "decode", "train"}:
            raise SettingsError(f"--workloads are prefill, decode and train, with commas between, not {workloads!r}.")
        grid = [
            Workload(kind=kind, batch_size=size, length=span, new_tokens=new_tokens)  # type: ignore[arg-type]
            for kind in kinds
            for size in sizes
            for span in spans
        ]
    if len(set(models)) < len(models):
        raise SettingsError("a model is given twice; against itself the reference is timed anyhow.")
    if len(models) == 1:
        bound_too = "" if no_bound else ", and against a copy without norms, which is the most that any swap could save"
        say(f"one model: it is timed against itself{bound_too}. Name a second model to compare the two.")
    started = time.monotonic()
    opened = {name: open_model(name) for name in models}
    texts = _prompt_ids(prompts, opened[models[0]][1], opened, new_tokens) if prompts is not None else []
    ready = {name: _ready(model, optimize).to(**place) for name, (model, _) in opened.items()}
    say(f"loaded in {time.monotonic() - started:.0f} s; timing for {budget:.0f} s")
    report = compare_latency(
        ready,
        grid,
        budget_seconds=budget,
        half_width=half_width,
        least_blocks=2,
        bound=not no_bound,
        mode=mode,  # type: ignore[arg-type]
        prompts=texts,
        seed=seed,
    )
    if out is not None:
        report.write_samples(out)
    if json:
        emit_json(report.to_dict())
        return
    _show(report, models[0])
    blocks = min(c.ratio.blocks for c in report.comparisons)
    if blocks < ENOUGH:
        say(
            f"{budget:.0f} s were enough for {blocks} of the {ENOUGH} blocks that a verdict needs: "
            f"--budget {math.ceil(report.seconds * ENOUGH / blocks)} would be enough for all"
        )
    if out is not None:
        say(f"every run: {out}")


def _show(report: "LatencyReport", reference: str) -> None:
    """A row a model on each workload: the reference first, then what is compared with it."""
    compared = {(c.workload.name, c.model): c for c in report.comparisons}
    absolute = report.absolute()
    names = list(dict.fromkeys(a["model"] for a in absolute))
    shown = dict(zip(names, told_apart(*names), strict=True))
    rows = []
    for a in absolute:
        c = compared.get((a["workload"], a["model"]))
        row = [a["workload"], shown[a["model"]], _digits(1000 * a["seconds"]), _digits(a["tokens_per_second"])]
        if c is not None:
            times = f"{c.ratio.value - 1:+.2%} ({c.ratio.low - 1:+.2%} to {c.ratio.high - 1:+.2%})"
            share = "" if c.share_of_norms is None else f"{c.share_of_norms:.0%}"
            row += [times, f"± {c.floor.bound:.2%}", c.verdict, share]
        rows.append(row + [""] * (8 - len(row)))
    columns = ["workload", "model", "ms", "tokens/s", "time (95 %)", "noise floor", "verdict", "of norms' cost"]
    emit_table(f"against {reference}, in {report.seconds:.0f} s", columns, rows, 2)
    about, blocks = report.environment, [c.ratio.blocks for c in report.comparisons]
    how_many = f"{min(blocks)}" if min(blocks) == max(blocks) else f"{min(blocks)} to {max(blocks)}"
    say(f"{how_many} blocks; {about['processor']}, {about['threads']} threads, load {about['load']}")


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 99.5 else f"{value:.3g}"


def _place(device: str | None, dtype: str | None) -> dict[str, Any]:
    import torch

    from unnorm.foundation.errors import SettingsError

    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if dtype is not None:
        check_choice("--dtype", dtype, dtypes)
    gpus = torch.cuda.device_count()
    known = ["cpu", "cuda", *(f"cuda:{number}" for number in range(gpus))][: None if gpus else 1]
    if device is not None and device not in known:
        raise SettingsError(f"--device is one of {', '.join(known)} on this machine, not {device!r}.")
    place: dict[str, Any] = {"device": torch.device(device or known[min(1, len(known) - 1)])}
    return place if dtype is None else {**place, "dtype": dtypes[dtype]}


def _numbers(text: str, option: str) -> list[int]:
    from unnorm.foundation.errors import SettingsError

    parts = text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() and int(part) > 0 for part in parts):
        raise SettingsError(f"{option} takes whole numbers from 1 with commas between, not {text!r}.")
    return [int(part) for part in parts]


def _ready(model: Any, optimize: bool) -> Any:
    """Adapters merged, since nobody serves them apart; and optimized where it is swapped, if that is asked for."""
    from unnorm.artefacts.loading import merged
    from unnorm.surgery.optimize import optimize_
    from unnorm.surgery.swap import record_of

    model = merged(model)
    if optimize and record_of(model) is not None:
        done = optimize_(model)
        folded = sum(site.done != "left" for site in done.sites)
        say(f"optimized: {folded} of {len(done.sites)} norms folded, {len(done.fused_blocks)} blocks fused")
    return model


def _prompt_ids(source: str, tokenizer: Any, opened: dict[str, tuple[Any, Any]], new_tokens: int) -> list[list[int]]:
    """Token ids of the first turn of each question, cut to what every model has room for."""
    from unnorm.data.encode import encode_prompt
    from unnorm.data.templates import template_of
    from unnorm.evaluation.questions import read_questions
    from unnorm.surgery.base import context_length

    room = min(context_length(model) or 2**30 for model, _ in opened.values()) - new_tokens
    render = template_of("alpaca", tokenizer).prompt
    return [encode_prompt(render(q.turns[:1]), tokenizer)[-max(1, room) :] for q in read_questions(source)]
