"""Save a model as an artefact: a folder that says what it is.

A folder holds the manifest (`unnorm.json`), the tokenizer, the configuration and safetensors only. A whole model's
weights are named `weights.safetensors`, a name that transformers does not look for: loaded as if it were the original,
a swapped model would give wrong logits in silence. An adapter's folder holds peft's own files and the untrained norms
(`norms.safetensors`); the base itself is named and hashed, not copied.
"""

from pathlib import Path
from typing import Any

from unnorm.artefacts.adapters import base_digests, base_tensors, write_adapters
from unnorm.artefacts.buffers import as_loaded
from unnorm.artefacts.files import inventory
from unnorm.artefacts.fingerprint import Fingerprint, fingerprint
from unnorm.artefacts.manifest import NAME, BaseEntry, SiteEntry, library_versions, manifest_of
from unnorm.artefacts.savable import check_adapters, check_layout, check_state
from unnorm.artefacts.weights import SHARD, stored_tensors, write_tensors
from unnorm.artefacts.whole import MODEL_WEIGHTS
from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, ModelError
from unnorm.foundation.hashing import digest_tensors, hash_digests
from unnorm.foundation.places import is_here
from unnorm.surgery.base import under_adapters, unwrapped
from unnorm.surgery.finite import advice_on_linear, check_weights, name_of
from unnorm.surgery.swap import SwapRecord, record_of, settle_

_NONE_YET = Fingerprint(logits=[], tolerance=1.0)
"""In the place of a fingerprint while it is not known whether the rest can be saved."""


def is_artefact(name: str | Path) -> bool:
    """Whether `name` is a folder that `save` wrote."""
    return (Path(name) / NAME).is_file()


def save(model: Any, out: str | Path, tokenizer: Any = None, *, shard: str = SHARD) -> None:
    """Save `model` (swapped, unswapped, or a PeftModel on either) into the folder `out`, atomically.

    After it a swap can no longer be undone. Of a compiled model the model itself is saved. An artefact that stands
    there is replaced, once the new one is whole; any other folder that is not empty is an `ArtefactError`, and so is an
    adapter whose base was changed since it was loaded, and whatever else `load` would refuse. shard: the largest file
    of a whole model's weights ("5GB", "200MB"). Raises `ModelError` if the logits are not finite, `DiskError` if the
    disk is full or the folder cannot be written.
    """
    out = Path(out)
    check_place(out)
    model = unwrapped(model)
    if hasattr(model, "peft_config"):
        check_adapters(model)
    check_state(under_adapters(model), record_of(under_adapters(model)))
    check_weights(model)
    if hasattr(model, "peft_config"):
        _save_adapters(model, out, tokenizer)
    else:
        _save_whole(model, out, tokenizer, shard)


def check_place(out: Path) -> None:
    """Refuse to write where something else than an artefact stands, or where no folder can be put."""
    if is_here(out):
        raise ArtefactError(f"{out} is the working directory, whose place no folder can take. Name a new one in it.")
    if out.exists() and not is_artefact(out) and (not out.is_dir() or any(out.iterdir())):
        raise ArtefactError(f"{out} exists and is no artefact of unnorm, so it is not replaced. Give another folder.")


def refuse_overwriting(out: str | Path) -> None:
    """Refuse to write where anything stands, an artefact too: for a verb that was not asked to replace it."""
    out = Path(out)
    check_place(out)
    if is_artefact(out):
        raise ArtefactError(f"{out} holds an artefact already. Give another folder, or delete that one first.")


def _save_whole(model: Any, out: Path, tokenizer: Any, shard: str) -> None:
    tensors, tied = stored_tensors(model)
    digests = digest_tensors(tensors)
    record = record_of(model)
    base = BaseEntry(
        name=lasting_name(record.base_name if record else _name_of(model)),
        hash=record.base_hash if record else hash_digests(digests),
    )
    content = {**_common(model, record), "kind": "model", "base": base, "tensors": digests, "tied": tied}
    check_layout(model, tensors, manifest_of({**content, "fingerprint": _NONE_YET}, {}))
    with as_loaded(model):
        content["fingerprint"] = _fingerprint(model)
    with atomic.folder(out) as folder:
        write_tensors(tensors, folder, MODEL_WEIGHTS, shard)
        model.config.save_pretrained(str(folder))
        finish(folder, model, tokenizer, content)
    settle_(model)


def _save_adapters(model: Any, out: Path, tokenizer: Any) -> None:
    inner = model.get_base_model()
    record = record_of(inner)
    digests = base_digests(inner, record, model.peft_config)
    stands_on = record.stands_on if record else None
    base = BaseEntry(
        name=lasting_name(stands_on.name if stands_on else _name_of(inner)),
        hash=hash_digests(digests),
        artefact=stands_on is not None and stands_on.artefact,
    )
    content = {**_common(inner, record), "kind": "adapter", "base": base, "tensors": digests}
    check_layout(inner, base_tensors(inner, model.peft_config), manifest_of({**content, "fingerprint": _NONE_YET}, {}))
    with as_loaded(inner):
        content["fingerprint"] = _fingerprint(model)
        content["adapters"] = {name: _fingerprint(model, name) for name in model.peft_config}
    manifest = manifest_of(content, {})
    with atomic.folder(out) as folder:
        write_adapters(model, inner, record, manifest, folder)
        finish(folder, inner, tokenizer, content)
    settle_(inner)


def finish(folder: Path, inner: Any, tokenizer: Any, content: dict[str, Any]) -> None:
    """Write what every artefact has: how it generates, its tokenizer, and last the manifest with all files' digests."""
    if getattr(inner, "generation_config", None) is not None:
        inner.generation_config.save_pretrained(str(folder))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    manifest = manifest_of(content, inventory(folder))
    atomic.write_json(folder / NAME, manifest.model_dump())


def _fingerprint(model: Any, adapter: str | None = None) -> Fingerprint:
    found = fingerprint(model, adapter, to_save=True)
    if not found.is_finite:
        inner = under_adapters(model)
        worn = f" with its adapter {adapter!r}" if adapter else ""
        record = record_of(inner)
        swapped = " with its new norms" if record else ""
        advice = advice_on_linear(record.specs.values()) if record else ""
        raise ModelError(
            f"the logits are not finite: {name_of(inner)}{swapped}{worn} computes NaN or infinity, though its weights "
            f"are finite. Nothing was saved. {advice}".rstrip()
        )
    return found


def _common(inner: Any, record: SwapRecord | None) -> dict[str, Any]:
    sites = [SiteEntry(**s.to_dict(), spec=record.specs[s.path].to_dict()) for s in record.sites] if record else []
    return {
        "architecture": type(inner).__name__,
        "dtype": str(inner.dtype).removeprefix("torch."),
        "sites": sites,
        "corrected": record.corrected if record else [],
        "measured": record.measured if record else None,
        "recovered": record.recovered if record else None,
        "libraries": library_versions(),
    }


def _name_of(model: Any) -> str:
    return str(getattr(model.config, "_name_or_path", ""))


def lasting_name(name: str) -> str:
    """A folder's full path, so that the artefact can be loaded from another working directory; a hub id as it is."""
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name
