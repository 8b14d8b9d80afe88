"""Build a whole swapped model from a folder: from its configuration and safetensors alone, no code of anyone's run."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unnorm.artefacts.manifest import Manifest
from unnorm.artefacts.weights import read_into_, shapes_in
from unnorm.foundation.errors import ArtefactError, first_line
from unnorm.norms.spec import Norm, spec_from
from unnorm.surgery.computed_buffers import empty_model
from unnorm.surgery.swap import StandsOn, SwapRecord, place_, set_record

MODEL_WEIGHTS = "weights"
"""Stem of a whole model's files. transformers does not look for it: a swapped model is not to be taken for its base."""
PACKAGE_WEIGHTS = "model"
NORM_WEIGHTS = "norms.safetensors"
"""In an adapter's folder: the swapped norms as they are without the adapter."""


def dtype_of(manifest: Manifest) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, manifest.dtype)  # one of four names
    return dtype


def build_whole(folder: Path, manifest: Manifest) -> Any:
    """The model that `folder` holds, in eval mode on the CPU. Its weights are mapped from disk, not copied.

    Raises `ArtefactError` if configuration, manifest and weights do not belong together.
    """
    from transformers import GenerationConfig

    stem = PACKAGE_WEIGHTS if manifest.kind == "package" else MODEL_WEIGHTS
    files = [folder / name for name in manifest.files if name.startswith(stem) and name.endswith(".safetensors")]
    shapes = shapes_in(files)
    try:
        config = read_config(folder)
        auto, outline = outline_of(config, manifest.architecture)
    except Exception as error:  # a configuration can be wrong in many ways
        raise ArtefactError(
            f"{folder}/config.json cannot be used: {first_line(error)} Save the model again."
        ) from error
    check_architecture(outline, manifest, folder)
    # An outline takes no memory, so whatever sizes the files claim are compared before anything is built.
    place_bare(outline, manifest, "meta")
    if different := difference(outline, shapes, manifest.tied):
        raise ArtefactError(f"the weights in {folder} do not fit its manifest and configuration: {different}.")
    del outline
    model = empty_model(auto, config, dtype_of(manifest))
    place_bare(model, manifest, "cpu")
    read_into_(model, files, manifest.tied)
    if (folder / "generation_config.json").is_file():
        model.generation_config = GenerationConfig.from_pretrained(str(folder))
    model.config._name_or_path = str(folder.resolve())
    record = record_from(manifest)
    record.stands_on = StandsOn(str(folder.resolve()), manifest.tensors, artefact=True, swapped=True)
    set_record(model, record)
    return model.eval()


def outline_of(config: Any, architecture: str) -> tuple[Any, Any]:
    """The Auto class of transformers that makes a model of the class `architecture` from `config`, and such a model on
    the meta device; where none makes it, that of a causal language model."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    with torch.device("meta"):
        for auto in (AutoModelForCausalLM, AutoModelForMaskedLM):
            try:
                outline = auto.from_config(config)
            except ValueError:  # it knows no model for this configuration
                continue
            if type(outline).__name__ == architecture:
                return auto, outline
        return AutoModelForCausalLM, AutoModelForCausalLM.from_config(config)


def read_config(folder: Path) -> Any:
    """The configuration in `folder`, of a class of transformers' own also where the folder is a package."""
    from transformers import AutoConfig

    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))  # it may hold Infinity: not orjson's
    package = content.pop("unnorm", None)
    if package is None:
        return AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
    for key in ("auto_map", "transformers_weights", "architectures"):
        content.pop(key, None)
    content.pop("model_type", None)
    return AutoConfig.for_model(package["of"], **content)


def place_bare(model: nn.Module, manifest: Manifest, device: torch.device | str) -> None:
    """Put the manifest's norms into an unswapped model, at their bare start."""
    norms: dict[str, Norm] = {}
    for entry in manifest.sites:
        try:
            model.get_submodule(entry.path)
        except AttributeError as error:
            raise ArtefactError(
                f"the manifest names a site {entry.path!r} that {manifest.architecture} lacks."
            ) from error
        norms[entry.path] = spec_from(entry.spec).build(entry.width, device)
    place_(model, norms)


def record_from(manifest: Manifest) -> SwapRecord:
    """What `swap_` would have kept on the model."""
    return SwapRecord(
        base_name=manifest.base.name,
        base_hash=manifest.base.hash,
        sites=[entry.site() for entry in manifest.sites],
        specs={entry.path: spec_from(entry.spec) for entry in manifest.sites},
        calibration=None,
        corrected=list(manifest.corrected),
        measured=manifest.measured,
        recovered=manifest.recovered,
        stands_on=StandsOn(
            manifest.base.name,
            manifest.tensors,
            artefact=manifest.base.artefact,
            swapped=NORM_WEIGHTS not in manifest.files,
        ),
    )


def check_architecture(model: Any, manifest: Manifest, folder: Path) -> None:
    """Refuse a model of another class than the one that was saved."""
    if type(model).__name__ != manifest.architecture:
        raise ArtefactError(f"{folder} was saved from a {manifest.architecture}, not a {type(model).__name__}.")


def difference(outline: nn.Module, found: dict[str, tuple[int, ...]], tied: Mapping[str, str]) -> str:
    """How weights of the shapes `found` differ from those of `outline`, in words; empty where they do not.

    tied: names that are not among `found`, since they share another name's tensor.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in outline.state_dict().items()}
    for name, other in tied.items():
        if name not in wanted or other not in wanted or wanted[name] != wanted[other] or name in found:
            return f"it ties {name!r} to {other!r}, which this model does not do"
        del wanted[name]
    if found == wanted:
        return ""
    lists = {"missing": sorted(wanted.keys() - found.keys()), "unknown": sorted(found.keys() - wanted.keys())}
    shapes = [
        f"{name} is {list(found[name])}, not {list(wanted[name])}"
        for name in sorted(wanted.keys() & found.keys())
        if found[name] != wanted[name]
    ]
    parts = [f"{len(names)} {what}, {names[0]} first" for what, names in lists.items() if names]
    return "; ".join(parts + shapes[:1])
