"""The part of an artefact that is peft's: adapters on a swapped base, told from adapters on a plain one."""

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from unnorm.artefacts.manifest import NAME, Manifest
from unnorm.artefacts.weights import read_tensors
from unnorm.artefacts.whole import NORM_WEIGHTS
from unnorm.foundation import atomic, hub
from unnorm.foundation.errors import ArtefactError, first_line
from unnorm.foundation.hashing import digest_tensors
from unnorm.surgery.base import without_peft_notice
from unnorm.surgery.swap import SwapRecord

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
_DEFAULT = "default"
_WRAPPERS = ("base_layer", "original_module", "token_adapter")
"""What peft's wrappers call the module inside them; around a module of several adapted parameters they are nested."""
NO_BASE = "./the-base/is-a-swapped-model/see-README.md"
"""What peft's own configuration names as base where the swapped base lies nowhere: never a folder, nor a hub id."""


def folder_of(name: str) -> str:
    """Where in an artefact peft keeps the adapter `name`: the first one at the top, others in folders of their own."""
    return "" if name == _DEFAULT else name


def base_tensors(model: nn.Module, adapters: Iterable[str]) -> Mapping[str, torch.Tensor]:
    """The state of the model under `adapters`, as it was before peft wrapped it."""
    theirs = set(adapters)
    state = {}
    for name, tensor in model.state_dict().items():
        parts = name.split(".")
        if any(part in theirs and _holds_adapters(model, parts[:at]) for at, part in enumerate(parts)):
            continue
        state[".".join(part for part in parts if part not in _WRAPPERS)] = tensor
    return state


def _holds_adapters(model: nn.Module, path: list[str]) -> bool:
    """Whether the module at `path` is one of peft's dictionaries, where an adapter's tensors lie under the adapter's
    name; elsewhere a part of the model may have the same name."""
    holder = model.get_submodule(".".join(path))
    return isinstance(holder, nn.ModuleDict | nn.ParameterDict) or type(holder).__name__ == "BufferDict"


def base_digests(inner: nn.Module, record: SwapRecord | None, adapters: Iterable[str]) -> dict[str, str]:
    """Digests of the base that `adapters` on `inner` stand on, once it is certain that it can be loaded again.

    Raises `ArtefactError` if weights under the adapter are not those that were loaded: no adapter's folder holds them.
    """
    if record is None or record.stands_on is None:
        return digest_tensors(base_tensors(inner, adapters))
    stands_on = record.stands_on
    ours = [] if stands_on.swapped else [site.path for site in record.sites] + record.corrected
    kept = {n: t for n, t in base_tensors(inner, adapters).items() if n in stands_on.digests and not _is_under(n, ours)}
    found = digest_tensors(kept)
    changed = [name for name, digest in found.items() if digest != stands_on.digests[name]]
    changed += [n for n in stands_on.digests if n not in found and not _is_under(n, ours)]
    if changed:
        raise ArtefactError(
            f"{len(changed)} weights under the adapter are not those of {stands_on.name!r} any more ({changed[0]} "
            "first), and an adapter's folder does not hold them. Save the model without the adapter first, load it, "
            "and train the adapter on that; or merge_and_unload() and save the whole."
        )
    return stands_on.digests


def write_adapters(model: Any, inner: Any, record: SwapRecord | None, manifest: Manifest, folder: Path) -> None:
    """Write every adapter of the PeftModel `model`, the norms they were trained on, and a README that says so."""
    model.save_pretrained(str(folder), save_embedding_layers=False)
    swapped = record is not None and record.stands_on is not None and record.stands_on.swapped
    base = manifest.base.name if swapped or not manifest.sites else NO_BASE
    for name in model.peft_config:
        path = folder / folder_of(name) / CONFIG
        content = atomic.read_json(path)
        repository, revision = hub.parse(base)
        atomic.write_json(path, {**content, "base_model_name_or_path": repository, "revision": revision})
        for card in path.parent.glob("README.md"):
            card.unlink()
    if record is not None and record.sites and not swapped:
        save_file(_norm_tensors(inner, record), str(folder / NORM_WEIGHTS))
    if manifest.sites:
        atomic.write_bytes(folder / "README.md", _readme(manifest, swapped=swapped).encode())


def put_on_norms(model: nn.Module, manifest: Manifest, folder: Path) -> None:
    """Give the swapped sites and corrected layers of `model` the parameters that `folder` holds."""
    tensors = read_tensors(folder / NORM_WEIGHTS)
    for path in [entry.path for entry in manifest.sites] + manifest.corrected:
        prefix = path + "."
        part = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        try:
            model.get_submodule(path).load_state_dict(part, strict=True)
        except (RuntimeError, AttributeError) as error:
            raise ArtefactError(f"{folder / NORM_WEIGHTS} does not fit {path}: {first_line(error)}") from error


def put_on_adapters(model: Any, manifest: Manifest, folder: Path) -> Any:
    """A PeftModel on `model` with every adapter of `folder`; the first is active."""
    from peft import PeftModel, get_peft_model_state_dict

    loaded: Any = None
    for name in manifest.adapters:
        place = folder / folder_of(name)
        for file in (WEIGHTS, CONFIG):
            if f"{folder_of(name)}/{file}".lstrip("/") not in manifest.files:
                raise ArtefactError(f"{folder}: the manifest names an adapter {name!r}, but no {file} of it.")
        try:
            with without_peft_notice():
                if loaded is None:
                    loaded = PeftModel.from_pretrained(model, str(place), adapter_name=name).eval()
                else:
                    loaded.load_adapter(str(place), adapter_name=name)
        except Exception as error:  # peft and the libraries under it raise many kinds
            raise ArtefactError(f"{place} does not hold an adapter for this model: {first_line(error)}") from error
        stored = read_tensors(place / WEIGHTS)
        wanted = get_peft_model_state_dict(loaded, adapter_name=name, save_embedding_layers=False)
        if stored.keys() != wanted.keys():
            different = sorted(stored.keys() ^ wanted.keys())
            raise ArtefactError(f"{place / WEIGHTS} does not fit its configuration: {different[:4]}.")
    return loaded.eval()


def _is_under(name: str, paths: list[str]) -> bool:
    return any(name.startswith(path + ".") for path in paths)


def _norm_tensors(model: nn.Module, record: SwapRecord) -> dict[str, torch.Tensor]:
    """The swapped norms and the corrected layers as they are without the adapter."""
    tensors = {}
    for path in [site.path for site in record.sites] + record.corrected:
        module = model.get_submodule(path)
        while inside := [module.get_submodule(name) for name in _WRAPPERS if name in module._modules]:
            module = inside[0]
        for name, tensor in module.state_dict().items():
            tensors[f"{path}.{name}"] = tensor.contiguous()
    return tensors


def _readme(manifest: Manifest, *, swapped: bool) -> str:
    norms = Counter(entry.spec["norm"] for entry in manifest.sites)
    what = ", ".join(f"{count} sites: {norm}" for norm, count in norms.items())
    base = manifest.base.name.replace("`", "")
    if swapped:
        stands = f"It stands on the swapped model in `{base}`."
    else:
        stands = (
            f"It stands on `{base}` with its norms replaced ({what}). Their parameters are in `{NORM_WEIGHTS}` here; "
            "the rest is that base's own."
        )
    return f"""# An adapter for a model whose norms were replaced

**Do not put it on the plain base.** `PeftModel.from_pretrained(plain_base, ...)` does not notice the difference and
gives wrong answers without an error.

{stands}

```python
import unnorm

model = unnorm.load("path/to/this/folder")  # checks base, files and a fingerprint of the logits
```

For tools that do not know unnorm, `unnorm package THIS_FOLDER --out DIR` writes a model that transformers loads by
itself: merged, or, with `--keep-adapters`, the swapped base with its adapters beside it.

What was swapped, on which base, and what the logits must be, stands in `{NAME}`.
"""
