"""`unnorm recover`."""

from pathlib import Path
from typing import Annotated, get_args

import typer

from unnorm.cli.data_options import CompileOption, Map, Repair, ShardingOption, Template, as_given, settings_from
from unnorm.cli.options import check_choice, chosen_sharding, tokens_option
from unnorm.cli.output import JsonOption, emit_json, say, say_next, typed

EXAMPLE = (
    "Example: [bold]unnorm recover swapped/ --data alpaca --data sharegpt=0.5 --tokens 10M --target 1% "
    "--out recovered/[/bold]"
)


def recover(
    swapped: Annotated[str, typer.Argument(metavar="SWAPPED", help="What `unnorm swap` or `recover` wrote.")],
    data: Annotated[
        list[str], typer.Option(metavar="DATA", help="What to learn from; again for more: NAME or NAME=WEIGHT.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run. An interrupted run in it is resumed.")],
    tokens: Annotated[str, typer.Option(help="Tokens to learn from: 10M, 500k or a number.")] = "10M",
    train: Annotated[
        str,
        typer.Option(help="What learns: all (every weight); lora (and the norms); norms; or corrected (also layers)."),
    ] = "all",
    target: Annotated[str | None, typer.Option(help="Stop at this held-out gap: 1% or 0.01.")] = None,
    straighten: Annotated[
        str | None,
        typer.Option(metavar="SHARE", help="Bend the curves straight until this share of the steps: 70%."),
    ] = None,
    straighten_after: Annotated[
        str | None, typer.Option(metavar="SHARE", help="Recover for this share of the steps before: 40%.")
    ] = None,
    straighten_sites: Annotated[
        list[str] | None,
        typer.Option(metavar="SITES", help="Bend these alone: attention, final, or as swap's --sites. Again for more."),
    ] = None,
    max_length: Annotated[
        int | None, typer.Option(min=2, help="Tokens a row. Default: 512, or the model's most.")
    ] = None,
    batch_tokens: Annotated[int | None, typer.Option(min=2, help="Tokens a step. Default: by --tokens.")] = None,
    blockwise: Annotated[
        bool, typer.Option("--blockwise", help="Blocks learn one at a time first: for models that do not fit twice.")
    ] = False,
    rows_per_forward: Annotated[int | None, typer.Option(min=1, help="Fewer need less memory.")] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Of weights. Default: by --train, and by tokens a step with all.")
    ] = None,
    norm_learning_rate: Annotated[
        float | None, typer.Option(help="Of norms, which learn relatively. Default: likewise.")
    ] = None,
    lora_rank: Annotated[int, typer.Option(min=1, help="LoRA's r.")] = 64,
    when_out: Annotated[str, typer.Option(help="Where the data run out: again (from the start) or stop.")] = "again",
    held_out_tokens: Annotated[
        int | None, tokens_option("Tokens that the gap is measured on. Default: by --tokens, up to 20,000.", 64)
    ] = None,
    evaluate_every: Annotated[
        str | None, typer.Option(help="Tokens between two measurements. Default: 10 in all.")
    ] = None,
    template: Template = "alpaca",
    repair: Repair = False,
    map: Map = None,
    precision: Annotated[str, typer.Option(help="auto, bf16 (autocast) or fp32.")] = "auto",
    compile: CompileOption = False,
    sharding: ShardingOption = "ddp",
    base: Annotated[str | None, typer.Option(help="Where the base lies now, if it was moved.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Order of the data, LoRA's start.")] = 0,
    json: JsonOption = False,
) -> None:
    """Distil the original into a swapped model, to bring it closer to the original.

    The model that comes out is in OUT/model. Progress, losses and checkpoints are in OUT, too.
    """
    from unnorm.cli.options import share, token_count
    from unnorm.data.mixture import When
    from unnorm.foundation.processes import is_main
    from unnorm.study.recover_model import recover_model
    from unnorm.study.recovery import Recovery, parse_data
    from unnorm.tuning.recover_settings import recover_settings
    from unnorm.tuning.settings import LoraSettings

    settings = recover_settings(
        tokens=token_count(tokens, "--tokens"),
        train=train,
        target=share(target, "--target") if target is not None else None,
        straighten=share(straighten, "--straighten") if straighten is not None else None,
        straighten_after=share(straighten_after, "--straighten-after") if straighten_after is not None else 0.0,
        straighten_sites=tuple(straighten_sites) if straighten_sites else None,
        batch_tokens=batch_tokens,
        learning_rate=learning_rate,
        norm_learning_rate=norm_learning_rate,
        precision=precision,
        compile=compile,
        lora=LoraSettings(r=lora_rank, alpha=2 * lora_rank, dropout=0.0),
    )
    reading = {"max_length": max_length or _row(swapped), "template": template, "repair": repair, "map": map}
    sources = tuple(
        (settings_from(None, source=name, loss_on="all", too_long="split", **reading), weight)
        for name, weight in parse_data(data)
    )
    check_choice("--when-out", when_out, get_args(When))
    shared = chosen_sharding(sharding)
    recovery = Recovery(settings, sources, held_out_tokens, when_out, seed, blockwise, shared)  # type: ignore[arg-type]
    result = recover_model(
        swapped,
        base,
        recovery,
        out,
        say=say,
        rows_per_forward=rows_per_forward,
        evaluate_every=token_count(evaluate_every, "--evaluate-every") if evaluate_every else None,
    )
    if not is_main():
        return
    if json:
        emit_json({"out": str(out), **result})
        return
    made = out / "model"
    read = as_given(template=template, repair=repair, map=map)
    first, against = typed(parse_data(data)[0][0]), typed(base or _base_of(swapped))
    compare = f"unnorm evaluate {typed(made)} --data {first}{read} --against {against}"
    say_next(f"The model is in {made}.", compare, f"unnorm package {typed(made)} --out {typed(out / 'package')}")


def _row(swapped: str) -> int:
    """Tokens a row, unless told: as many as suit the model in the folder `swapped`."""
    from unnorm.artefacts.whole import read_config
    from unnorm.surgery.base import ROW, row_length

    try:
        return row_length(read_config(Path(swapped)))
    except Exception:  # a configuration can be wrong in many ways, which is said once the model is opened
        return ROW


def _base_of(swapped: str) -> str:
    from unnorm.artefacts.manifest import read_manifest

    return read_manifest(Path(swapped)).base.name
