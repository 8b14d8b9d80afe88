"""Save a model as an artefact: a folder that says what it is.

A folder holds the manifest (`unnorm.json`), the tokenizer, the configuration and safetensors only. A whole model's
weights are named `weights.safetensors`, a name that transformers does not look for: loaded as if it were the original,
a swapped model would give wrong logits in silence. An adapter's folder holds peft's own files and the untrained norms
(`norms.safetensors`); the base itself is named and hashed, not copied.
"""

from pathlib import Path
from typing import Any

from unnorm.artefacts.adapters import base_digests, write_adapters
from unnorm.artefacts.buffers import as_loaded
from unnorm.artefacts.files import inventory
from unnorm.artefacts.fingerprint import fingerprint
from unnorm.artefacts.manifest import NAME, Base, Manifest, SiteEntry, library_versions
from unnorm.artefacts.weights import SHARD, stored_tensors, write_tensors
from unnorm.artefacts.whole import MODEL_WEIGHTS
from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError
from unnorm.foundation.hashing import digest_tensors, hash_digests
from unnorm.surgery.base import under_adapters
from unnorm.surgery.optimize import is_optimized
from unnorm.surgery.swap import SwapRecord, record_of, settle_


def is_artefact(name: str | Path) -> bool:
    """Whether `name` is a folder that `save` wrote."""
    return (Path(name) / NAME).is_file()


def save(model: Any, out: str | Path, tokenizer: Any = None, *, shard: str = SHARD) -> None:
    """Save `model` (swapped, unswapped, or a PeftModel on either) into the folder `out`, atomically.

    After it a swap can no longer be undone. An artefact that stands there is replaced; any other folder that is not
    empty is an `ArtefactError`, and so is an adapter whose base was changed since it was loaded. shard: the largest
    file of a whole model's weights ("5GB", "200MB"). Raises `DiskError` if the disk is full or the folder cannot be
    written.
    """
    out = Path(out)
    check_place(out)
    if is_optimized(under_adapters(model)):
        raise ArtefactError(
            "this model was optimized: its weights no longer fit the architecture that would load them. Save it before "
            "unnorm.optimize_, and optimize what unnorm.load gives."
        )
    if hasattr(model, "peft_config"):
        _save_adapters(model, out, tokenizer)
    else:
        _save_whole(model, out, tokenizer, shard)


def check_place(out: Path) -> None:
    """Refuse to write where something else than an artefact stands."""
    if out.exists() and not is_artefact(out) and (not out.is_dir() or any(out.iterdir())):
        raise ArtefactError(f"{out} exists and is no artefact of unnorm, so it is not replaced. Give another folder.")


def _save_whole(model: Any, out: Path, tokenizer: Any, shard: str) -> None:
    tensors, tied = stored_tensors(model)
    digests = digest_tensors(tensors)
    record = record_of(model)
    base = Base(
        name=lasting_name(record.base_name if record else _name_of(model)),
        hash=record.base_hash if record else hash_digests(digests),
    )
    content = {**_common(model, record), "kind": "model", "base": base, "tensors": digests, "tied": tied}
    with as_loaded(model):
        content["fingerprint"] = fingerprint(model)
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
    base = Base(
        name=lasting_name(stands_on.name if stands_on else _name_of(inner)),
        hash=hash_digests(digests),
        artefact=stands_on is not None and stands_on.artefact,
    )
    content = {**_common(inner, record), "kind": "adapter", "base": base, "tensors": digests}
    with as_loaded(inner):
        content["fingerprint"] = fingerprint(model)
        content["adapters"] = {name: fingerprint(model, name) for name in model.peft_config}
    with atomic.folder(out) as folder:
        write_adapters(model, inner, record, Manifest(**content, files={}), folder)
        finish(folder, inner, tokenizer, content)
    settle_(inner)


def finish(folder: Path, inner: Any, tokenizer: Any, content: dict[str, Any]) -> None:
    """Write what every artefact has: how it generates, its tokenizer, and last the manifest with all files' digests."""
    if getattr(inner, "generation_config", None) is not None:
        inner.generation_config.save_pretrained(str(folder))
    if tokenizer is not None:
        tokenizer.save_pretrained(str(folder))
    manifest = Manifest(**content, files=inventory(folder))
    atomic.write_json(folder / NAME, manifest.model_dump())


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
