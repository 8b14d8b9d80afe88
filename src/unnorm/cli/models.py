"""`unnorm sites`."""

from typing import Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table

SITES_EXAMPLE = "Example: [bold]unnorm sites EleutherAI/pythia-14m[/bold]"

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
    rows = [[str(s.order), s.path, s.role, s.kind, str(s.width), f"{s.parameters:,}"] for s in found]
    emit_table(f"{len(found)} norm sites of {model}", ["", "path", "role", "kind", "width", "parameters"], rows, 4)
