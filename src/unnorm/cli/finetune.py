"""`unnorm finetune`: one cell, no YAML."""

from pathlib import Path
from typing import Annotated

import typer

from unnorm.cli import data_options as o
from unnorm.cli.options import chosen_sharding, option_of
from unnorm.cli.output import JsonOption, emit_json, emit_table, say

EXAMPLE = (
    "Example: [bold]unnorm finetune EleutherAI/pythia-14m --data alpaca --to dyt --strategy frozen --out run/[/bold]"
)


def finetune(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The base: a hub id or a folder.")],
    data: Annotated[str, typer.Option(metavar="DATA", help=o.DATA_HELP)],
    out: Annotated[Path, typer.Option(help="Folder of the run. An interrupted run in it is resumed.")],
    to: Annotated[str, typer.Option(help="The arm: original, dyt (calibrated), dyt-recovered, dyt-bare, ...")] = "dyt",
    strategy: Annotated[str, typer.Option(help="What trains: frozen, selective or full.")] = "frozen",
    alpha: Annotated[str, typer.Option(help="scalar: one α a site; channel: one a channel.")] = "scalar",
    tokens: Annotated[int, typer.Option(min=1, help="Training tokens.")] = 1_000_000,
    max_length: Annotated[int, typer.Option(min=2, help="Tokens a row.")] = 256,
    batch_tokens: Annotated[int, typer.Option(min=2, help="Tokens a step.")] = 4096,
    learning_rate: Annotated[float | None, typer.Option(help="Default: 3e-3 with LoRA, 4e-4 for full.")] = None,
    schedule: Annotated[str, typer.Option(help="cosine, linear or constant.")] = "cosine",
    precision: Annotated[
        str,
        typer.Option(help="fp32, bf16 or fp16 (autocast); auto: bf16 where the device multiplies it, else fp32."),
    ] = "auto",
    template: o.Template = "alpaca",
    loss_on: o.LossOn = "answer",
    too_long: o.TooLong = "drop",
    policy: o.Policy = None,
    repair: o.Repair = False,
    map: o.Map = None,
    held_out: o.HeldOut = 0.05,
    lora_rank: Annotated[int, typer.Option(min=1, help="LoRA's r.")] = 8,
    lora_targets: Annotated[list[str] | None, typer.Option(help="Module names; default: every linear layer.")] = None,
    train_sites: Annotated[list[str] | None, typer.Option(help="selective: only these sites train.")] = None,
    evaluation_tokens: Annotated[int, typer.Option(min=1, help="Held-out tokens.")] = 100_000,
    evaluate_every: Annotated[int, typer.Option(min=1, help="Tokens between evaluations.")] = 200_000,
    checkpoint_every: Annotated[int, typer.Option(min=1, help="Tokens between checkpoints.")] = 200_000,
    devices: Annotated[int, typer.Option(min=1, help="GPUs to spread it over (processes, without any).")] = 1,
    sharding: o.ShardingOption = "ddp",
    seed: Annotated[int, typer.Option(min=0, help="Data order, LoRA's start, dropout.")] = 0,
    json: JsonOption = False,
) -> None:
    """Swap a model's norms and fine-tune it, or fine-tune it as it is (--to original)."""
    from unnorm.foundation.errors import SettingsError
    from unnorm.foundation.places import check_folder
    from unnorm.foundation.processes import is_main
    from unnorm.foundation.validation import Misplaced, sentence, validated
    from unnorm.study.arms import Arm, arm_from
    from unnorm.study.cell import CellSettings
    from unnorm.study.run_cell import run_cell
    from unnorm.tuning.settings import DEFAULT_LEARNING_RATE

    rate = learning_rate if learning_rate is not None else DEFAULT_LEARNING_RATE.get(strategy, 3e-3)  # type: ignore[call-overload]
    arm = arm_from(to)
    if alpha != "scalar":
        if arm.norm is None:
            raise SettingsError(f"arm {to!r} keeps the pretrained norms, which have no alpha.")
        arm = Arm(**{**arm.model_dump(), "id": f"{to}-{alpha}", "norm": {**arm.norm, "alpha": alpha}})
    data_settings = o.settings_from(
        policy, source=data, max_length=max_length, template=template, loss_on=loss_on, too_long=too_long,
        held_out=held_out, repair=repair, map=map,
    )  # fmt: skip
    try:
        settings = validated(
            CellSettings,
            {
                "model": model,
                "arm": arm.model_dump(),
                "strategy": strategy,
                "data": data_settings,
                "training": {
                    "tokens": tokens,
                    "batch_tokens": batch_tokens,
                    "learning_rate": rate,
                    "schedule": schedule,
                    "precision": precision,
                    "lora": {"r": lora_rank, "targets": lora_targets or "auto"},
                    "train_sites": train_sites,
                    "devices": devices,
                    "sharding": chosen_sharding(sharding),
                },
                "evaluation_tokens": evaluation_tokens,
                "evaluate_every_tokens": evaluate_every,
                "checkpoint_every_tokens": checkpoint_every,
                "seed": seed,
            },
        )
    except Misplaced as error:
        raise SettingsError(f"{option_of(error.location)}: {sentence(error)}") from error
    settings.rows_per_step()
    if is_main():
        check_folder(out)
    result = run_cell(settings, out, say=say)
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
    say(f"the model is in {out / 'model'}")
