"""What `load` would refuse, `save` refuses first: before a file is written or what stands there is replaced."""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from unnorm.artefacts.manifest import Manifest
from unnorm.artefacts.whole import difference, outline_of, place_bare, read_config
from unnorm.foundation.errors import ArtefactError, first_line
from unnorm.norms.spec import Norm
from unnorm.surgery.optimize import is_optimized
from unnorm.surgery.swap import SwapRecord


def check_state(inner: Any, record: SwapRecord | None) -> None:
    """Refuse a model, without its adapters, that is no longer what was swapped."""
    if is_optimized(inner):
        raise ArtefactError(
            "this model was optimized: its weights no longer fit the architecture that would load them. Save it before "
            "unnorm.optimize_, and optimize what unnorm.load gives."
        )
    gone = [site.path for site in record.sites if not _stands(inner, site.path)] if record else []
    if record is not None and gone:
        raise ArtefactError(
            f"this model was changed after the swap: {len(gone)} of its {len(record.sites)} swapped sites are gone or "
            f"hold something else ({gone[0]} first), so unnorm.load could not make it. Prune or change the base first, "
            "save and load it, and swap then."
        )


def check_adapters(model: Any) -> None:
    """Refuse a model with adapters whose state an adapter's folder cannot hold."""
    from peft import PeftModel

    if not isinstance(model, PeftModel):
        raise ArtefactError(
            f"the adapters of this {type(model).__name__} are not those of a peft.PeftModel. Put them on with "
            "peft.get_peft_model, or load them with peft.PeftModel.from_pretrained."
        )
    for name, config in model.peft_config.items():
        kind = getattr(config.peft_type, "value", config.peft_type)
        if config.is_prompt_learning:
            kind = str(config.peft_type).rpartition(".")[2]
            raise ArtefactError(
                f"the adapter {name!r} is of the kind {kind}, which puts tokens of its own before "
                "the text instead of changing layers; an artefact cannot hold it. Save it with save_pretrained, or use "
                "LoRA or another adapter of layers."
            )
    status = model.get_model_status()
    if status.enabled is not True:
        raise ArtefactError(
            "adapters of this model are disabled, and a folder of adapters holds none that are. Call "
            "enable_adapter_layers() to save it with them, or unload() and save what is left without them."
        )
    if status.merged_adapters:
        raise ArtefactError(
            "an adapter of this model is merged into its weights, so the base under it is not what it was. Call "
            "unmerge_adapter() to save the adapter, or merge_and_unload() to save the whole."
        )


def check_layout(model: Any, tensors: Mapping[str, torch.Tensor], manifest: Manifest) -> None:
    """Refuse `tensors`, the weights of `model` as they lie in a file, where its configuration would make others."""
    with tempfile.TemporaryDirectory(prefix="unnorm-") as place:
        model.config.save_pretrained(place)
        try:
            config = read_config(Path(place))
            _, outline = outline_of(config, manifest.architecture)
        except Exception as error:  # a configuration can be wrong in many ways
            raise ArtefactError(
                f"no {manifest.architecture} can be made of this model's configuration, so unnorm.load could not make "
                f"it: {first_line(error)} Load the base by AutoModelForCausalLM."
            ) from error
    if type(outline).__name__ != manifest.architecture:
        raise ArtefactError(
            f"unnorm.load would make a {type(outline).__name__} of this model's configuration, not a "
            f"{manifest.architecture}. Save the model as the class that AutoModelForCausalLM gives."
        )
    place_bare(outline, manifest, "meta")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if different := difference(outline, shapes, manifest.tied):
        raise ArtefactError(
            f"the weights of this model are not those that its configuration would make, so unnorm.load could not make "
            f"it: {different}. If layers were pruned or embeddings resized, change its configuration too."
        )


def _stands(model: Any, path: str) -> bool:
    """Whether a new norm stands at `path`, perhaps in one of peft's wrappers."""
    try:
        module = model.get_submodule(path)
    except AttributeError:
        return False
    return isinstance(getattr(module, "original_module", getattr(module, "base_layer", module)), Norm)
