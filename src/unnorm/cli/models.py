"""`unnorm sites` and `unnorm swap`."""

from pathlib import Path
from typing import Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say
from unnorm.foundation.errors import SettingsError

SITES_EXAMPLE = "Example: [bold]unnorm sites EleutherAI/pythia-14m[/bold]"
SWAP_EXAMPLE = "Example: [bold]unnorm swap distilgpt2 --to dyt --calibrate alpaca --out swapped/[/bold]"

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a model's folder, or an artefact's folder.")]


def sites(model: Model, json: JsonOption = False) -> None:
    """List the norm sites of a model, in execution order."""
    from unnorm.surgery.artefact import open_model
    from unnorm.surgery.sites import find_sites

    loaded, _ = open_model(model)
    if hasattr(loaded, "peft_config"):
        loaded = loaded.merge_and_unload()
    found = find_sites(loaded)
    if json:
        emit_json([site.to_dict() for site in found])
        return
    title = f"{len(found)} norm sites of {model}"
    if found[0].order_is == "module":
        title += " (in module order: the model does not run on token ids alone)"
    columns = ["path", "kind", "role", "residual", "affine", "width", "ε"]
    letters = {"weight, bias": "γ, β", "weight": "γ", "bias": "β"}
    rows = [
        [s.path, s.kind, s.role, s.residual, letters.get(s.affine, s.affine), str(s.width), f"{s.eps:.3g}"]
        for s in found
    ]
    emit_table(title, columns, rows, 5, compact=True)


def swap(
    model: Model,
    out: Annotated[Path, typer.Option(help="Folder for the swapped model.")],
    to: Annotated[str, typer.Option(help="The norm to put there: dyt.")] = "dyt",
    calibrate: Annotated[str | None, typer.Option(metavar="DATA", help="Fit to tokens of this data.")] = None,
    bare: Annotated[bool, typer.Option("--bare", help="No fit: γ = 1, β = 0, one α.")] = False,
    alpha: Annotated[str, typer.Option(help="scalar: one α a site; channel: one a channel.")] = "scalar",
    sites: Annotated[list[str] | None, typer.Option(help="Only sites that match: path, role, glob or re:...")] = None,
    tokens: Annotated[int, typer.Option(min=64, help="Tokens to calibrate on.")] = 4096,
    template: Annotated[str, typer.Option(help="How rows of DATA become text: alpaca, alpaca-short.")] = "alpaca",
    seed: Annotated[int, typer.Option(min=0, help="Which rows of DATA are taken.")] = 0,
    json: JsonOption = False,
) -> None:
    """Replace the norms of a model, fit the new ones to real tokens, and save it.

    DATA is a known name (alpaca), a .json or .jsonl file in Alpaca form, or a hub id.
    """
    from unnorm.data.prepare import DataSettings, Source
    from unnorm.norms.spec import spec_from
    from unnorm.surgery.artefact import is_artefact, save
    from unnorm.surgery.base import context_length, load_base, load_tokenizer
    from unnorm.surgery.swap import swap_

    if bare == (calibrate is not None):
        raise SettingsError("give either --calibrate DATA, to fit the new norms, or --bare, to start them unfitted.")
    spec = spec_from({"norm": to, "alpha": alpha})
    if is_artefact(model):
        raise SettingsError(f"{model} is an artefact of unnorm already. Swap its base instead.")
    loaded, tokenizer = load_base(model), load_tokenizer(model)
    batch = None
    if calibrate is not None:
        length = min(256, context_length(loaded) or 256)
        settings = DataSettings(source=calibrate, max_length=length, template=template)
        rows = Source(settings, tokenizer).train(tokens, seed)
        batch = rows.collate(rows.rows)
    report = swap_(loaded, spec if not sites else dict.fromkeys(sites, spec), calibrate_on=batch)
    save(loaded, out, tokenizer)
    if json:
        emit_json({"out": str(out), **report.to_dict()})
        return
    fit = report.calibration
    if fit is None:
        say(f"swapped {len(report.sites)} sites, bare")
    else:
        rows_ = [
            [s.path, f"{s.r2:.3f}", f"{s.alpha:.3f}", f"{s.saturation:.1%}", f"{s.seconds:.3f}"] for s in fit.sites
        ]
        title = f"calibrated on {fit.tokens:,} tokens in {fit.seconds:.2f} s"
        emit_table(title, ["site", "R²", "α", "|αx| > 2", "seconds"], rows_)
    say(f"saved {out}")
