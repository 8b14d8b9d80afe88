"""`unnorm finetune`: one cell, no YAML."""

from pathlib import Path
from typing import Annotated, Any

import typer

from unnorm.cli import data_options as o
from unnorm.cli.options import ReportTo, chosen_sharding, tokens_option
from unnorm.cli.output import JsonOption, emit_json, emit_table, say, say_next, typed

EXAMPLE = (
    "Example: [bold]unnorm finetune EleutherAI/pythia-14m --data alpaca --to dyt --strategy frozen --out run/[/bold]"
)
_TRAINING = (
    "tokens", "epochs", "max_length", "batch_tokens", "learning_rate", "schedule", "warmup", "precision", "compile",
    "train_sites", "devices", "sharding",
)  # fmt: skip
_LORA = {"lora_rank": "r", "lora_dropout": "dropout", "lora_targets": "targets"}
_EVALUATION = {"evaluation_tokens": "tokens", "evaluate_every": "every_tokens"}
_DATASET = ("template", "loss_on", "too_long", "repair", "map", "held_out", "policy")


def finetune(
    ctx: typer.Context,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base, a hub id or a folder; or a swapped model.")],
    data: Annotated[str, typer.Option(metavar="DATA", help=o.DATA_HELP)],
    out: Annotated[Path, typer.Option(help="Folder of the run. An interrupted run in it is resumed.")],
    to: Annotated[str, typer.Option(help="The arm: original, dyt (calibrated), dyt-recovered, dyt-bare, ...")] = "dyt",
    strategy: Annotated[str, typer.Option(help="What trains: frozen, selective or full.")] = "frozen",
    alpha: Annotated[str, typer.Option(help="scalar: one α a site; channel: one a channel.")] = "scalar",
    tokens: Annotated[int, tokens_option("Training tokens: 1M, 500k or a number.")] = 1_000_000,
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of --tokens: all training data so often.")] = None,
    max_length: Annotated[int, typer.Option(min=2, help="Tokens a row.")] = 256,
    batch_tokens: Annotated[int, typer.Option(min=2, help="Tokens a step.")] = 4096,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 3e-3 with LoRA, 4e-4 for full.")] = None,
    schedule: Annotated[str, typer.Option(help="cosine, linear or constant.")] = "cosine",
    warmup: Annotated[float, typer.Option(min=0, help="Share of the steps in which the rate rises.")] = 0.1,
    precision: Annotated[
        str,
        typer.Option(help="fp32, bf16 or fp16 (autocast); auto: bf16 where the device multiplies it, else fp32."),
    ] = "auto",
    compile: o.CompileOption = False,
    template: o.Template = "alpaca",
    loss_on: o.LossOn = "answer",
    too_long: o.TooLong = "drop",
    policy: o.Policy = None,
    repair: o.Repair = False,
    map: o.Map = None,
    held_out: o.HeldOut = 0.05,
    lora_rank: Annotated[int, typer.Option(min=1, help="LoRA's r.")] = 8,
    lora_dropout: Annotated[float, typer.Option(min=0, help="Of LoRA's inputs.")] = 0.05,
    lora_targets: Annotated[list[str] | None, typer.Option(help="Module names; default: every linear layer.")] = None,
    train_sites: Annotated[list[str] | None, typer.Option(help="selective: only these sites train.")] = None,
    evaluation_tokens: Annotated[int, tokens_option("Held-out tokens.")] = 100_000,
    evaluate_every: Annotated[int, tokens_option("Tokens between evaluations.")] = 200_000,
    checkpoint_every: Annotated[
        int | None, tokens_option("Tokens between checkpoints. Default: at each evaluation.")
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="YAML with training, evaluation and dataset as a study has them. Options win over it."
        ),
    ] = None,
    report_to: ReportTo = None,
    devices: Annotated[int, typer.Option(min=1, help="GPUs to spread it over (processes, without any).")] = 1,
    sharding: o.ShardingOption = "ddp",
    base: Annotated[str | None, typer.Option(help="Of a swapped MODEL: where its base lies now, if moved.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Data order, LoRA's start, dropout.")] = 0,
    json: JsonOption = False,
) -> None:
    """Swap a model's norms and fine-tune it, or fine-tune it as it is (--to original).

    A MODEL that unnorm swap or recover wrote is fine-tuned from where it stands.
    """
    from unnorm.cli.one_cell import one_cell, saved_axes
    from unnorm.foundation.errors import SettingsError
    from unnorm.foundation.places import check_folder
    from unnorm.foundation.processes import is_main
    from unnorm.study.arms import Arm
    from unnorm.study.hooks import check_trackers
    from unnorm.study.run_cell import run_cell

    given = {name: value for name, value in ctx.params.items() if _is_given(ctx, name)}
    if {"tokens", "epochs"} <= given.keys():
        raise SettingsError("--tokens and --epochs both say how long to train: give one of them.")
    trackers = check_trackers(report_to or [])
    given |= {"sharding": chosen} if (chosen := chosen_sharding(sharding)) != sharding else {}
    axes = {"model": model, "data": data, "arm": to, "strategy": strategy, "seed": seed}
    axes |= saved_axes(model, base, [f"--{name}" for name in ("to", "alpha") if name in given])
    settings = one_cell(axes, _sections(given), config)
    if alpha != "scalar":
        arm = settings.arm
        if arm.norm is None:
            raise SettingsError(f"arm {to!r} keeps the pretrained norms, which have no alpha.")
        arm = Arm(**{**arm.model_dump(), "id": f"{to}-{alpha}", "norm": {**arm.norm, "alpha": alpha}})
        settings = settings.model_copy(update={"arm": arm})
    if checkpoint_every is not None:
        settings = settings.model_copy(update={"checkpoint_every_tokens": checkpoint_every})
    if is_main():
        check_folder(out)
    result = run_cell(settings, out, say=say, report_to=trackers)
    if not is_main():
        return
    if json:
        emit_json({"out": str(out), **result})
        return
    rows = [
        [
            f"{result['arm']} / {result['strategy']}",
            f"{result['start_eval_loss']:.4f}",
            f"{result['eval_loss']:.4f}",
            f"{result['loss_drop']:.1%}",
            f"{result['eval_token_accuracy']:.1%}",
            f"{result['train_tokens']:,}",
            f"{result['tokens_per_second']:,.0f}",
        ]
    ]
    columns = ["cell", "start loss", "end loss", "drop", "accuracy", "tokens", "tokens/s"]
    emit_table("held-out loss in nats per token", columns, rows)
    if "tensorboard" in trackers:
        say(f"The curves are in {out / 'runs'}: tensorboard --logdir {typed(out / 'runs')}")
    made = out / "model"
    read = o.as_given(template=template, loss_on=loss_on, held_out=held_out, repair=repair, map=map)
    # What a swap cost does not show against a base that was not fine-tuned.
    against = "" if settings.arm.swaps else f" --against {typed(settings.model)}"
    say_next(
        f"The model is in {made}.",
        f"unnorm evaluate {typed(made)} --data {typed(data)}{read}{against}",
        f"unnorm package {typed(made)} --out {typed(out / 'package')}"
        if settings.arm.swaps
        else f"unnorm check {typed(made)}",
    )


def _is_given(ctx: typer.Context, name: str) -> bool:
    source = ctx.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


def _sections(given: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The options that were given, as the sections of a study file."""
    training = {name: given[name] for name in _TRAINING if name in given}
    lora = {key: given[name] for name, key in _LORA.items() if name in given}
    dataset = {name: given[name] for name in _DATASET if name in given}
    return {
        "training": {**training, "lora": lora} if lora else training,
        "evaluation": {key: given[name] for name, key in _EVALUATION.items() if name in given},
        "dataset": o.values_from(dataset.pop("policy", None), **dataset),
    }
