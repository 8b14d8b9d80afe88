"""`unnorm sites`."""

from typing import Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say

SITES_EXAMPLE = "Example: [bold]unnorm sites EleutherAI/pythia-14m[/bold]"

Model = Annotated[str, typer.Argument(metavar="MODEL", help="A hub id, a model's folder, or an artefact's folder.")]


def sites(model: Model, json: JsonOption = False) -> None:
    """List the norm sites of a model, in execution order."""
    from unnorm.artefacts.loading import open_model
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
