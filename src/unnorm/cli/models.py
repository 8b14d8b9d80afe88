"""`unnorm sites`, and what every verb sets up that computes with loaded models."""

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from unnorm.cli.data_options import DATA_HELP, Map, Repair, Template, settings_from
from unnorm.cli.options import tokens_option
from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.foundation.errors import SettingsError

if TYPE_CHECKING:
    from unnorm.data.settings import DataSettings


SITES_EXAMPLE = (
    "Example: [bold]unnorm sites EleutherAI/pythia-14m[/bold], or before a swap "
    "[bold]unnorm sites EleutherAI/pythia-14m --data alpaca --figure sizes.svg[/bold]"
)
_BATCH_TOKENS = 2048

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a model's folder, or an artefact's folder.")]


def sites(
    model: Model,
    data: Annotated[
        str | None, typer.Option(metavar="DATA", help="Look at what comes into each norm on this text. " + DATA_HELP)
    ] = None,
    tokens: Annotated[int, tokens_option("With --data: tokens to look at.", 64)] = 4096,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="With --data: sizes over depth, as .svg, .png or .pdf.")
    ] = None,
    template: Template = "alpaca",
    repair: Repair = False,
    map: Map = None,
    seed: Annotated[int, typer.Option(min=0, help="Which rows of DATA are taken.")] = 0,
    json: JsonOption = False,
) -> None:
    """List the norm sites of a model, in execution order.

    With --data, say what a swap will meet there: attention sinks, large tokens, large channels.
    """
    from unnorm.artefacts.loading import merged, open_model
    from unnorm.surgery.sites import find_sites

    if figure is not None:
        from unnorm.report.export import check_figure_file

        if data is None:
            raise SettingsError("--figure draws what --data DATA shows: give both.")
        check_figure_file(figure)
    loaded, tokenizer = open_model(model)
    loaded = merged(loaded)
    if data is not None:
        reading = settings_from(None, source=data, template=template, repair=repair, map=map)
        _anatomy(model, loaded, tokenizer, reading, tokens, seed, figure, json)
        return
    found = find_sites(loaded)
    if json:
        emit_json([site.to_dict() for site in found])
        return
    title = f"{len(found)} norm sites of {model}"
    if found[0].order_is == "module":
        title += " (in module order: the model does not run on token ids alone)"
    unreached = sum(not site.is_reached for site in found)
    columns = ["path", "kind", "role", "residual", "affine", "width", "ε"]
    letters = {"weight, bias": "γ, β", "weight": "γ", "bias": "β"}
    rows = [
        [s.path, s.kind, s.role, s.residual, letters.get(s.affine, s.affine), str(s.width), f"{s.eps:.3g}"]
        for s in found
    ]
    emit_table(title, columns, rows, 5, compact=True)
    if unreached:
        say(
            f"token ids alone do not reach the last {unreached}: outside the language model, or cross-attention; "
            "a swap leaves them alone unless they are named"
        )


def _anatomy(
    name: str,
    model: Any,
    tokenizer: Any,
    data: "DataSettings",
    tokens: int,
    seed: int,
    figure: Path | None,
    json: bool,
) -> None:
    from unnorm.data.prepare import Source
    from unnorm.foundation.progress import track
    from unnorm.surgery.anatomy import site_anatomy
    from unnorm.surgery.base import context_length
    from unnorm.tuning.packing_probe import packing_is_clean

    length = min(256, context_length(model) or 256)
    source = Source(data.model_copy(update={"max_length": length}), tokenizer, quiet=json)
    rows = source.train(tokens, seed, packed=packing_is_clean(model))
    batches = rows.batches(max(1, _BATCH_TOKENS // length))
    found = site_anatomy(model, track(batches, "looking into the norms (batches)", quiet=json))
    short = name.rstrip("/").rsplit("/", 1)[-1]
    if figure is not None:
        from unnorm.report.export import export_file
        from unnorm.report.figures.anatomy import sizes

        drawn = sizes(found, short)
        export_file(drawn, figure)
        say(drawn.caption)
        say(f"wrote {figure}")
    if json:
        emit_json(found.to_dict())
        return
    columns = ["path", "median", "5 to 95 %", "largest", "position 0", "flat", "α each", "large channels"]
    blocks = _blocks([s.path for s in found.sites])
    table = [
        [
            s.path.removeprefix(blocks),
            f"{s.median:.3g}",
            f"{s.low:.3g} to {s.high:.3g}",
            _three(s.largest),
            _three(s.first),
            f"{s.saturation:.1%}",
            f"{s.saturation_channel:.1%}",
            ", ".join(f"{channel} ×{times:.0f}" for channel, times in s.channels[:3]),
        ]
        for s in found.sites
    ]
    title = (
        f"what comes into {len(found.sites)} norms of {short}: {found.tokens:,} tokens, {found.sequences:,} sequences"
    )
    emit_table(title, columns, table, 1, compact=True)
    if blocks:
        print(f"A path that begins with a number is in {blocks.removesuffix('.')}.")
    print(
        "Sizes are the root mean square over channels; all but position 0's are of the other tokens. flat: share of "
        "activations\nat which a fitted DyT is nearly flat, with one α a site and with one each channel."
    )
    for line in found.verdict.text:
        print(f"\n{line}")


def _blocks(paths: list[str]) -> str:
    """Where the numbered blocks of a model are, with a dot at the end (`model.layers.`); empty if nowhere."""
    return next((found[1] for path in paths if (found := re.match(r"(.*?\.)\d+\.", path))), "")


def _three(value: float) -> str:
    """Three digits, and no exponent."""
    return f"{value:,.0f}" if value >= 99.95 else f"{value:.3g}"


def use_threads_for(model: Any) -> None:
    """Compute on as many threads as pay for `model`, and say how many, unless they were chosen before."""
    from unnorm.foundation import threads
    from unnorm.tuning.threads import threads_for

    found = threads_for(model)
    if threads.decided() is None:
        say(f"computing on {found.describe()}")
    threads.use(found.number)
