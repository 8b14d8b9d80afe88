"""Load an artefact, and prove by its files' checksums and its fingerprint that it is what was saved."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unnorm.artefacts.adapters import put_on_adapters, put_on_norms
from unnorm.artefacts.files import check_files
from unnorm.artefacts.fingerprint import Fingerprint, fingerprint
from unnorm.artefacts.manifest import Manifest, read_manifest
from unnorm.artefacts.saving import is_artefact
from unnorm.artefacts.whole import NORM_WEIGHTS, build_whole, check_architecture, dtype_of, place_bare, record_from
from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, ModelError, SettingsError, first_line
from unnorm.foundation.hashing import digest_tensors, hash_digests
from unnorm.surgery.base import load_base, load_tokenizer
from unnorm.surgery.dtypes import to_fp32_
from unnorm.surgery.linears import shared_weights
from unnorm.surgery.swap import set_record
from unnorm.surgery.vocabulary import embedding_rows, fit_tokenizer_

DeviceMap = str | dict[str, int | str | torch.device] | None


@dataclass(frozen=True)
class CheckReport:
    """What `check` found: the largest difference of logits to those saved, and how large it may be."""

    kind: str
    architecture: str
    files: int
    bytes: int
    difference: float
    tolerance: float
    adapters: dict[str, float]
    """Adapter -> its own largest difference."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def load(folder: str | Path, base: str | None = None, *, device_map: DeviceMap = None) -> Any:
    """Load what `save` or `package` wrote, in eval mode: a model, or a PeftModel with every adapter saved.

    base: where an adapter's base lies now, if not where it lay when it was saved. device_map: None for the CPU, or as
    in transformers ("auto", a device, a mapping from module to device); needs accelerate. A wrong base, a damaged
    file, a newer manifest: `ArtefactError`.
    """
    return _load(Path(folder), base, device_map)[0]


def check(folder: str | Path, base: str | None = None, *, device_map: DeviceMap = None) -> CheckReport:
    """Load an artefact and say how close its logits are to those saved. Raises as `load` does."""
    return _load(Path(folder), base, device_map)[1]


def open_model(name: str) -> tuple[Any, Any]:
    """The model, in fp32, and the tokenizer of `name`: an artefact's folder, or a plain model's folder or hub id.

    Of whatever dtype their files are, two models that are opened so differ in no rounding but that of their weights.
    """
    if is_artefact(name):
        model = to_fp32_(load(name))
        return model, fit_tokenizer_(load_tokenizer(name), embedding_rows(model), name)
    if is_artefact(Path(name) / "model"):
        read_manifest(Path(name))  # says which folder to give
    return load_base(name), load_tokenizer(name)


def merged(model: Any) -> Any:
    """A loaded model with its adapter, if it has one, in its weights.

    Every weight trains after it, as in a model that had no adapter. A weight that is adapted in one place and stands
    in another too (a tied head) is no longer shared. An adapter that peft cannot merge is a `ModelError`.
    """
    if not hasattr(model, "peft_config"):
        return model
    _untie_adapted_(model)
    try:
        plain = model.merge_and_unload()
    except Exception as error:  # each of peft's adapters raises its own kinds
        raise ModelError(
            f"the adapter cannot be merged into the weights: {first_line(error)} Use it unmerged: `unnorm package "
            "--keep-adapters` keeps it beside the model."
        ) from error
    for parameter in plain.parameters():  # peft leaves what it merges frozen
        parameter.requires_grad_(parameter.is_floating_point())
    return plain


def _untie_adapted_(model: Any) -> None:
    """Give each adapted layer whose weight stands in another place too a weight of its own: peft would merge its
    adapter into both. Trained tokens are left out, which peft keeps tied by itself."""
    from peft.tuners.trainable_tokens.layer import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTunerLayer

    shared = shared_weights(model)
    for module in model.modules():
        if isinstance(module, BaseTunerLayer) and not isinstance(module, TrainableTokensLayer):
            layer = module.get_base_layer()
            weight = getattr(layer, "weight", None)
            if isinstance(weight, nn.Parameter) and id(weight) in shared:
                layer.weight = nn.Parameter(weight.detach().clone(), requires_grad=weight.requires_grad)


def _load(folder: Path, base: str | None, device_map: DeviceMap) -> tuple[Any, CheckReport]:
    atomic.restore_folder(folder)
    manifest = read_manifest(folder)
    if manifest.kind != "adapter" and base is not None:
        raise SettingsError(f"{folder} holds a whole model, which needs no base.")
    check_files(folder, manifest.files)
    worn = {}
    if manifest.kind == "adapter":
        model = load_base_of(folder, manifest, base or manifest.base.name, device_map)
        difference = _compare(manifest.fingerprint, fingerprint(model), folder, "")
        model = put_on_adapters(model, manifest, folder)
        for name, saved in manifest.adapters.items():
            worn[name] = _compare(saved, fingerprint(model, name), folder, f" with its adapter {name!r}")
    else:
        model = dispatch(build_whole(folder, manifest), device_map)
        difference = _compare(manifest.fingerprint, fingerprint(model), folder, "")
    size = sum(file.bytes for file in manifest.files.values())
    report = CheckReport(
        kind=manifest.kind,
        architecture=manifest.architecture,
        files=len(manifest.files),
        bytes=size,
        difference=difference,
        tolerance=manifest.fingerprint.tolerance,
        adapters=worn,
    )
    return model, report


def dispatch(model: Any, device_map: DeviceMap) -> Any:
    """`model` on the devices of `device_map`: None leaves it; "auto" fills them; a device; a mapping to devices."""
    if device_map is None:
        return model
    if isinstance(device_map, str) and device_map not in ("auto", "balanced", "balanced_low_0", "sequential"):
        return model.to(device_map)
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    if isinstance(device_map, str):
        whole = list(getattr(model, "_no_split_modules", None) or [])
        memory = None
        if device_map != "sequential":
            memory = get_balanced_memory(model, no_split_module_classes=whole, low_zero=device_map == "balanced_low_0")
        device_map = infer_auto_device_map(model, max_memory=memory, no_split_module_classes=whole)
    return dispatch_model(model, device_map=device_map)


def load_base_of(folder: Path, manifest: Manifest, base: str, device_map: DeviceMap = None) -> Any:
    """The swapped base of the adapters in `folder`, from the plain base or from the artefact that they stand on."""
    if manifest.base.artefact != is_artefact(base):
        stands, given = ("an artefact", "none") if manifest.base.artefact else ("a plain base", "an artefact")
        raise ArtefactError(
            f"the adapter in {folder} stands on {stands}, {manifest.base.name!r}, but {base!r} is {given}. "
            "Give the right one as base."
        )
    brings_norms = NORM_WEIGHTS in manifest.files
    if manifest.base.artefact:
        theirs = read_manifest(Path(base))
        _check_specs(folder, manifest, base, theirs, brings_norms=brings_norms)
        _check_digests(folder, manifest, base, theirs.tensors)
        if not brings_norms:
            return load(base, device_map=device_map)
        model = load(base)
    else:
        model = load_base(base, dtype_of(manifest))
        check_architecture(model, manifest, folder)
        _check_digests(folder, manifest, base, digest_tensors(model.state_dict()))
    if manifest.sites:
        place_bare(model, manifest, "cpu")
        put_on_norms(model, manifest, folder)
    set_record(model, record_from(manifest))
    return dispatch(model, device_map)


def _check_specs(folder: Path, manifest: Manifest, base: str, theirs: Manifest, *, brings_norms: bool) -> None:
    if theirs.architecture != manifest.architecture:
        raise ArtefactError(
            f"{folder} was saved from a {manifest.architecture}, but {base} is a {theirs.architecture}."
        )
    mine = {} if brings_norms else {entry.path: entry.spec for entry in manifest.sites}
    other = {entry.path: entry.spec for entry in theirs.sites}
    for path in sorted(mine.keys() | other.keys()):
        if mine.get(path) != other.get(path):
            raise ArtefactError(
                f"{folder} was trained on other norms than {base} has: at {path} on {mine.get(path, 'none')}, "
                f"and there is {other.get(path, 'none')}. Give the right one as base."
            )


def _check_digests(folder: Path, manifest: Manifest, base: str, found: dict[str, str]) -> None:
    wanted = manifest.tensors
    if found == wanted:
        return
    lacking, unknown = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    changed = [name for name in sorted(wanted.keys() & found.keys()) if wanted[name] != found[name]]
    parts = [
        f"{len(names)} of {len(wanted)} weights {what} ({names[0]} first)"
        for what, names in (("are missing", lacking), ("are unknown", unknown), ("differ", changed))
        if names
    ]
    raise ArtefactError(
        f"{folder} was trained on another base: its manifest names {manifest.base.name!r} with hash "
        f"{manifest.base.hash[:12]}, but {base!r} has {hash_digests(found)[:12]}: {', '.join(parts)}. "
        "Give the right one as base."
    )


def _compare(saved: Fingerprint, found: Fingerprint, folder: Path, what: str) -> float:
    if not saved.holds_for(found):
        raise ArtefactError(
            f"{folder}{what} does not compute what was saved: its logits differ by {saved.difference(found):.3g}, "
            f"more than {saved.tolerance:.3g}. The base, a file or a library is not the one it was made with."
        )
    return saved.difference(found)
