"""The model card of a package: what was done to which model, how to load it, and the numbers it was handed."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from unnorm.artefacts.manifest import Manifest, SiteEntry


def model_card(
    source: Manifest, merged: str | None, kept: Sequence[str], numbers: Mapping[str, Any], *, name: str, auto: str
) -> str:
    """README.md with the hub's metadata on top. numbers: name -> value, shown as a table, in their order.

    Nothing is said of the model's quality but what stands in `numbers`, and the gap in the manifest of `source`.
    """
    from huggingface_hub import ModelCardData

    data = ModelCardData(
        base_model=source.base.hub_id,
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["unnorm", "norm-free", *sorted({entry.spec["norm"] for entry in source.sites})],
    )
    base = _plain(source.base.public_name)
    lines = [
        "---",
        data.to_yaml(),
        "---",
        "",
        f"# {_plain(name)}",
        "",
        f"`{base}` ({source.architecture}) with {len(source.sites)} of its norms replaced.",
        "",
        "```python",
        f"from transformers import {auto}, AutoTokenizer",
        "",
        f'model = {auto}.from_pretrained("{_plain(name)}", trust_remote_code=True)',
        f'tokenizer = AutoTokenizer.from_pretrained("{_plain(name)}", trust_remote_code=True)',
        "```",
        "",
        "The flag is needed: the code of the new norms (`modeling_unnorm.py`, torch alone) comes with the weights.",
        "Without it, or by a class that does not know of them, loading stops with an error.",
        "",
        "## What was replaced",
        "",
        "| where | was | is now | sites |",
        "|---|---|---|---|",
        *_replaced(source.sites),
    ]
    if source.corrected:
        lines += ["", f"{len(source.corrected)} linear layers around them were corrected in closed form."]
    if merged is not None:
        lines += ["", "An adapter that was trained on the swapped model is merged into the weights."]
    if kept:
        names = ", ".join(f"`adapters/{_plain(each)}`" for each in kept)
        lines += ["", f"Adapters for this model, not for `{base}`: {names}."]
    if source.recovered is not None:
        lines += ["", "## How it was recovered", "", _recovered(source.recovered)]
    rows = {**(_gap(source.measured) if source.measured is not None and merged is None else {}), **numbers}
    if rows:
        lines += ["", "## Measured", "", "| | |", "|---|---|"]
        lines += [f"| {_plain(key)} | {_plain(_shown(value))} |" for key, value in rows.items()]
    else:
        lines += ["", "Its gap to the original was not measured: `unnorm evaluate --against` measures it."]
    versions = ", ".join(f"{library} {version}" for library, version in sorted(source.libraries.items()))
    lines += [
        "",
        f"Made with {versions}. `unnorm check` compares files and logits with those saved (`unnorm.json`).",
        "",
    ]
    return "\n".join(lines)


def _replaced(sites: Sequence[SiteEntry]) -> list[str]:
    """A row for each norm that stands there now: at which roles, in place of what, and how often."""
    by_norm: dict[str, list[SiteEntry]] = {}
    for entry in sites:
        by_norm.setdefault(_settings(entry.spec), []).append(entry)
    return [
        f"| {_plain(', '.join(dict.fromkeys(entry.role for entry in found)))} | "
        f"{_plain(', '.join(dict.fromkeys(entry.kind for entry in found)))} | {norm} | {len(found)} |"
        for norm, found in sorted(by_norm.items())
    ]


def _gap(measured: Mapping[str, Any]) -> dict[str, Any]:
    """What was measured when the model was swapped or recovered, against the original on text that neither had seen."""
    found = {
        "held-out gap to the original": f"{measured['gap']:+.2%}",
        "held-out loss (nats a token)": f"{measured['loss']:.4f}; the original: {measured['original_loss']:.4f}",
        "KL to the original (nats a token)": measured["kl"],
        "measured on (tokens)": measured["tokens"],
    }
    if measured.get("broken"):
        found["held-out rows of which nothing is left, and which no figure holds"] = measured["broken"]
    return found


def _recovered(recovered: Mapping[str, Any]) -> str:
    """How, from how many tokens and from which data, in one sentence."""
    how = (
        "It was trained by cross-entropy"
        if recovered.get("objective") == "ce"
        else "The original was distilled into it"
    )
    parts = [f"{_file_name(part['name'])} ({part['tokens']:,})" for part in recovered.get("data", [])]
    data = f" of {_plain(', '.join(parts))}" if parts else ""
    straight = (
        f" Meanwhile {recovered['straightened']} curves were bent straight, until they were fixed scales."
        if recovered.get("straightened")
        else ""
    )
    learnt = _plain(str(recovered["train"]))
    return f"{how}, from {recovered['tokens']:,} tokens{data}. What learnt: {learnt}.{straight}"


def _file_name(source: str) -> str:
    """A data set's name; of a file here, its last part: the card tells nobody where it lay."""
    return source.rsplit("/", 1)[-1] if source.startswith(("/", "~", ".")) else source


def _settings(spec: Mapping[str, Any]) -> str:
    rest = ", ".join(f"{key}={value}" for key, value in spec.items() if key != "norm")
    return _plain(f"{spec['norm']} ({rest})")


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _plain(text: str) -> str:
    """One line of text that cannot end a cell, a code span or a string."""
    return re.sub(r"[\x00-\x1f`|<>\"\\]", " ", text).strip()
