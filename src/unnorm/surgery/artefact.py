"""Save and load artefacts: a whole swapped model, or an adapter with the norms it was trained on.

A folder holds the manifest (`unnorm.json`), the tokenizer, the configuration and safetensors only. A whole model's
weights are named `weights.safetensors`, a name that transformers does not look for: loaded as if it were the original,
a swapped model would give wrong logits in silence. An adapter's folder holds peft's own files and the untrained norms
(`norms.safetensors`); the base itself is named and hashed, not copied.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, load_model, save_file, save_model
from torch import nn

from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, SettingsError
from unnorm.foundation.hashing import hash_tensors
from unnorm.norms.spec import Norm, spec_from
from unnorm.surgery.base import first_line, load_base, load_tokenizer, without_peft_notice
from unnorm.surgery.fingerprint import fingerprint
from unnorm.surgery.manifest import NAME, Base, Manifest, SiteEntry, library_versions, read_manifest
from unnorm.surgery.sites import Site
from unnorm.surgery.swap import SwapRecord, place_, record_of, set_record, settle_

WEIGHTS = "weights.safetensors"
NORMS = "norms.safetensors"
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def is_artefact(name: str | Path) -> bool:
    """Whether `name` is a folder that `save` wrote."""
    return (Path(name) / NAME).is_file()


def save(model: Any, out: str | Path, tokenizer: Any = None) -> None:
    """Save `model` (swapped, unswapped, or a PeftModel on either) into the folder `out`, atomically.

    After it a swap can no longer be undone. An artefact that stands there is replaced; any other folder that is not
    empty is an `ArtefactError`. Raises `DiskError` if the disk is full or the folder cannot be written.
    """
    from transformers import PreTrainedModel

    out = Path(out)
    if out.exists() and not is_artefact(out) and (not out.is_dir() or any(out.iterdir())):
        raise ArtefactError(f"{out} exists and is no artefact of unnorm, so it is not replaced. Give another folder.")

    is_adapter = hasattr(model, "peft_config")
    inner: PreTrainedModel = model.get_base_model() if is_adapter else model
    record = record_of(inner) or SwapRecord(
        base_name=str(getattr(inner.config, "_name_or_path", "")),
        base_hash=hash_tensors(_base_tensors(inner)),
        sites=[],
        specs={},
        calibration=None,
    )
    manifest = Manifest(
        kind="adapter" if is_adapter else "model",
        architecture=type(inner).__name__,
        dtype=str(inner.dtype).removeprefix("torch."),
        base=Base(name=_lasting_name(record.base_name), hash=record.base_hash),
        sites=[SiteEntry(**site.to_dict(), spec=record.specs[site.path].to_dict()) for site in record.sites],
        corrected=record.corrected,
        libraries=library_versions(),
        fingerprint=fingerprint(model),
    )
    with atomic.folder(out) as folder:
        if is_adapter:
            model.save_pretrained(str(folder), save_embedding_layers=False)
            save_file(_norm_tensors(inner, record), str(folder / NORMS))
        else:
            save_model(inner, str(folder / WEIGHTS))
            inner.config.save_pretrained(str(folder))
        if getattr(inner, "generation_config", None) is not None:
            inner.generation_config.save_pretrained(str(folder))
        if tokenizer is not None:
            tokenizer.save_pretrained(str(folder))
        atomic.write_json(folder / NAME, manifest.model_dump())
    settle_(inner)


def load(folder: str | Path, base: str | None = None) -> Any:
    """Load what `save` wrote, in eval mode, and prove by its fingerprint that it is what was saved.

    base: where an adapter's base lies now, if not where it lay when it was saved. A wrong base, a damaged file, a
    newer manifest: `ArtefactError`.
    """
    folder = Path(folder)
    atomic.restore_folder(folder)
    manifest = read_manifest(folder)
    if manifest.kind == "adapter":
        model = _load_swapped_base(folder, manifest, base or manifest.base.name)
        _check_fingerprint(model, manifest, folder)
        return _load_adapter(model, folder)
    if base is not None:
        raise SettingsError(f"{folder} holds a whole model, which needs no base.")
    model = _load_whole(folder, manifest)
    _check_fingerprint(model, manifest, folder)
    return model


def open_model(name: str) -> tuple[Any, Any]:
    """The model and tokenizer of `name`: an artefact's folder, or a plain model's folder or hub id (in fp32)."""
    if is_artefact(name):
        return load(name), load_tokenizer(name)
    if is_artefact(Path(name) / "model"):
        raise ArtefactError(f"{name} is the folder of a run; its model is {Path(name) / 'model'}. Give that one.")
    return load_base(name), load_tokenizer(name)


def _load_whole(folder: Path, manifest: Manifest) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(str(folder))
        model = AutoModelForCausalLM.from_config(config, dtype=_DTYPES[manifest.dtype])
    except Exception as error:
        raise ArtefactError(
            f"{folder}/config.json cannot be used: {first_line(error)} Save the model again."
        ) from error
    _check_architecture(model, manifest, folder)
    _place_bare(model, manifest)
    try:
        load_model(model, str(folder / WEIGHTS), strict=True)
    except (SafetensorError, OSError, RuntimeError) as error:
        raise ArtefactError(
            f"{folder}/{WEIGHTS} does not hold this model: {first_line(error)} Save it again."
        ) from error
    return model.eval()


def _load_swapped_base(folder: Path, manifest: Manifest, base: str) -> Any:
    model = load_base(base, _DTYPES[manifest.dtype])
    _check_architecture(model, manifest, folder)
    found = hash_tensors(model.state_dict())
    if found != manifest.base.hash:
        raise ArtefactError(
            f"{folder} was trained on another base: its manifest names {manifest.base.name!r} with hash "
            f"{manifest.base.hash[:12]}, but the weights of {base!r} hash to {found[:12]}. Give the right one as base."
        )
    _place_bare(model, manifest)
    tensors = _read_tensors(folder / NORMS)
    for path in [entry.path for entry in manifest.sites] + manifest.corrected:
        prefix = path + "."
        part = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        try:
            model.get_submodule(path).load_state_dict(part, strict=True)
        except (RuntimeError, AttributeError) as error:
            raise ArtefactError(f"{folder}/{NORMS} does not fit {path}: {first_line(error)}") from error
    return model


def _load_adapter(model: Any, folder: Path) -> Any:
    from peft import PeftModel, get_peft_model_state_dict

    with without_peft_notice():
        loaded = PeftModel.from_pretrained(model, str(folder)).eval()
    stored = _read_tensors(folder / "adapter_model.safetensors")
    wanted = get_peft_model_state_dict(loaded, save_embedding_layers=False)
    if stored.keys() != wanted.keys():
        different = sorted(stored.keys() ^ wanted.keys())
        raise ArtefactError(f"{folder}/adapter_model.safetensors does not fit its configuration: {different[:4]}.")
    return loaded


def _place_bare(model: nn.Module, manifest: Manifest) -> None:
    """Put the manifest's norms into an unswapped model, at their bare start, and keep the record on it."""
    norms: dict[str, Norm] = {}
    sites, specs = [], {}
    for entry in manifest.sites:
        try:
            model.get_submodule(entry.path)
        except AttributeError as error:
            raise ArtefactError(
                f"the manifest names a site {entry.path!r} that {manifest.architecture} lacks."
            ) from error
        specs[entry.path] = spec_from(entry.spec)
        norms[entry.path] = specs[entry.path].build(entry.width, next(model.parameters()).device)
        sites.append(Site(**entry.model_dump(exclude={"spec"})))
    place_(model, norms)
    record = SwapRecord(
        manifest.base.name, manifest.base.hash, sites, specs, calibration=None, corrected=manifest.corrected
    )
    set_record(model, record)


def _check_architecture(model: Any, manifest: Manifest, folder: Path) -> None:
    if type(model).__name__ != manifest.architecture:
        raise ArtefactError(f"{folder} was saved from a {manifest.architecture}, not a {type(model).__name__}.")


def _check_fingerprint(model: Any, manifest: Manifest, folder: Path) -> None:
    difference = manifest.fingerprint.difference(fingerprint(model))
    if not difference <= manifest.fingerprint.tolerance:
        raise ArtefactError(
            f"{folder} does not compute what was saved: its logits differ by {difference:.3g}, more than "
            f"{manifest.fingerprint.tolerance:.3g}. The base, a file or a library is not the one it was made with."
        )


def _lasting_name(name: str) -> str:
    """A folder's full path, so that the artefact can be loaded from another working directory; a hub id as it is."""
    return str(Path(name).resolve()) if name and Path(name).is_dir() else name


def _base_tensors(model: nn.Module) -> Mapping[str, torch.Tensor]:
    """The state of an unswapped model as it was before peft wrapped it."""
    state = {}
    for name, tensor in model.state_dict().items():
        if ".lora_" in name or ".modules_to_save." in name:
            continue
        state[name.replace(".base_layer.", ".").replace(".original_module.", ".")] = tensor
    return state


def _norm_tensors(model: nn.Module, record: SwapRecord) -> dict[str, torch.Tensor]:
    """The swapped norms and the corrected layers as they are without the adapter."""
    tensors = {}
    for path in [site.path for site in record.sites] + record.corrected:
        module = model.get_submodule(path)
        module = getattr(module, "original_module", getattr(module, "base_layer", module))
        for name, tensor in module.state_dict().items():
            tensors[f"{path}.{name}"] = tensor.contiguous()
    return tensors


def _read_tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(str(path))
    except (SafetensorError, OSError) as error:
        raise ArtefactError(f"{path} cannot be read: {first_line(error)} Save the model again.") from error
