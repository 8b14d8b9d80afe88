"""`unnorm package` and `unnorm check`."""

from pathlib import Path
from typing import Annotated

import typer

from unnorm.cli.output import JsonOption, emit_json, emit_table, say, say_next, typed

PACKAGE_EXAMPLE = "Example: [bold]unnorm package run/model --out my-model --push me/my-model[/bold]"
CHECK_EXAMPLE = "Example: [bold]unnorm check run/model[/bold]"

Base = Annotated[str | None, typer.Option(metavar="MODEL", help="Where an adapter's base lies now, if it was moved.")]


def package(
    artefact: Annotated[
        Path, typer.Argument(metavar="DIR", help="An artefact: what swap, recover, finetune or save wrote.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for the package.")],
    base: Base = None,
    adapter: Annotated[str | None, typer.Option(help="Which adapter to merge, where there are several.")] = None,
    keep_adapters: Annotated[
        bool, typer.Option("--keep-adapters", help="Do not merge: the swapped base, and its adapters beside it.")
    ] = False,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Upload it to the hub too, as USER/NAME, private.")
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="With --push: for everyone to see.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a folder that transformers loads without unnorm: model, code of its norms, model card.

    Load it with AutoModelForCausalLM.from_pretrained(DIR, trust_remote_code=True). An adapter is merged. The card
    quotes the numbers of the run that made the model, where DIR is one's model.
    """
    from unnorm.artefacts.package import package as make
    from unnorm.artefacts.package import push as upload
    from unnorm.artefacts.saving import refuse_overwriting
    from unnorm.foundation.errors import SettingsError
    from unnorm.foundation.places import check_new_folder
    from unnorm.study.card import card_numbers

    if adapter is not None and keep_adapters:
        raise SettingsError("--adapter names one to merge, --keep-adapters merges none. Give one of them.")
    if public and push is None:
        raise SettingsError("--public goes with --push.")
    check_new_folder(out)
    refuse_overwriting(out)
    numbers = card_numbers(artefact)
    manifest = make(
        artefact,
        out,
        base=base,
        adapters="keep" if keep_adapters else "merge",
        adapter=adapter,
        numbers=numbers,
        name=push,
    )
    size = sum(file.bytes for file in manifest.files.values())
    say(f"packaged {len(manifest.sites)} swapped sites of a {manifest.architecture} in {out} ({size / 1e6:,.1f} MB)")
    address = upload(out, push, private=not public) if push is not None else None
    if address is not None:
        say(f"uploaded to {address}")
    if not json:
        say_next(f"The model card is {out / 'README.md'}.", f"unnorm check {typed(out)}")
    if json:
        emit_json({"out": str(out), "bytes": size, "sites": len(manifest.sites), "numbers": numbers, "hub": address})


def check(
    artefact: Annotated[Path, typer.Argument(metavar="DIR", help="An artefact, or a package.")],
    base: Base = None,
    json: JsonOption = False,
) -> None:
    """Compare the files of an artefact with their checksums, and its logits with those that were saved."""
    from unnorm.artefacts.loading import check as run

    report = run(artefact, base)
    if json:
        emit_json({"artefact": str(artefact), **report.to_dict()})
        return
    rows = [[f"{report.kind}, {report.architecture}", f"{report.difference:.2g}", f"{report.tolerance:.2g}"]]
    rows += [
        [f"with adapter {name}", f"{value:.2g}", f"{report.tolerance:.2g}"] for name, value in report.adapters.items()
    ]
    title = f"{artefact}: {report.files} files as they were saved ({report.bytes / 1e6:,.1f} MB)"
    emit_table(title, ["logits of", "largest difference", "allowed"], rows)
