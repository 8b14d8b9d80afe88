"""The model that a cell starts from, before what trains is decided: swapped here, recovered here, or saved by a user.

A saved one is a whole swapped model that `unnorm swap` or `unnorm recover` wrote, or `unnorm.save`. It counts as what
its files hold, wherever they lie, and it must come from the base of the cell that begins from it.
"""

from pathlib import Path
from typing import Any, NamedTuple

from unnorm.artefacts.loading import load, open_model
from unnorm.artefacts.manifest import Manifest, read_manifest
from unnorm.foundation import atomic
from unnorm.foundation.errors import ArtefactError, ModelError
from unnorm.foundation.hashing import hash_json
from unnorm.surgery.swap import record_of


class Start(NamedTuple):
    """The model that a cell starts from; copied for each cell."""

    model: Any
    calibration: dict[str, Any] | None
    """`Started.to_dict()`; None where the pretrained norms stay, and where it is not known any more."""
    recovery: dict[str, Any] | None
    """What the recovery in it did, as recovery.json has it; None where there was none."""
    words: str
    """What was done, in a few lines for people; empty where nothing was."""


def recovered_start(folder: Path) -> Start:
    """The model of a recovered start that is done; `folder` is the start's."""
    recovery = atomic.read_json(folder / "recovery.json")
    gap = recovery["gap_after"] if recovery["kept"] else recovery["gap_before"]
    words = f"begins from the recovered start {folder.name}, whose held-out gap is {gap:+.1%}"
    fit = folder / "calibration.json"
    model = _about_to_learn(load(folder / "model"))
    return Start(model, atomic.read_json(fit) if fit.is_file() else None, recovery, words)


def manifest_of_saved(folder: str) -> Manifest:
    """The manifest of the swapped model in `folder`. An `ArtefactError` or a `ModelError` if it holds no whole one."""
    manifest = read_manifest(Path(folder))
    if manifest.kind != "model" or not manifest.sites:
        what = "an adapter" if manifest.kind == "adapter" else "a package" if manifest.sites else "no swapped norms"
        raise ModelError(
            f"{folder} holds {what}, and a fine-tune begins from a whole swapped model: from the folder that `unnorm "
            "swap` wrote, or from OUT/model of `unnorm recover`."
        )
    return manifest


def check_saved(folder: str, base: str, base_hash: str) -> Manifest:
    """The same manifest. An `ArtefactError` unless the model was swapped from `base`, whose hash is `base_hash`."""
    manifest = manifest_of_saved(folder)
    if manifest.base.hash and manifest.base.hash != base_hash:
        raise ArtefactError(
            f"{folder} was swapped from another base: its manifest names {manifest.base.name!r} with hash "
            f"{manifest.base.hash[:12]}, but {base!r} has {base_hash[:12]}. Give its own base."
        )
    return manifest


def identity_of(manifest: Manifest) -> str:
    """Hash of what a saved model computes: its weights, and which norms they are the weights of."""
    return hash_json({"tensors": manifest.tensors, "sites": {site.path: site.spec for site in manifest.sites}})


def saved_start(folder: str, manifest: Manifest) -> Start:
    """The model in `folder`, which has this manifest."""
    model = _about_to_learn(open_model(folder)[0])
    measured = manifest.measured or {}
    said = f", whose held-out gap was {measured['gap']:+.1%}" if "gap" in measured else ""
    recovery = None
    if manifest.recovered is not None:
        gaps = {"gap_before": None, "gap_after": measured.get("gap")}
        recovery = {**manifest.recovered, **gaps, "kept": True, "curve": []}
    return Start(model, None, recovery, f"begins from the saved model {folder}{said}")


def _about_to_learn(model: Any) -> Any:
    """`model` without what was measured of it, which is true of nothing that is trained from it."""
    record = record_of(model)
    assert record is not None
    record.measured = None
    return model
