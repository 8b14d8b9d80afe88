"""Turn an artefact into a folder that transformers loads without unnorm: model, code of its norms, and a model card.

`AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)` gives the same logits. Without that flag, and by
any class that does not know of the new norms, loading stops with an error: the configuration has a model type of its
own, and names as weights a file that is never there.
"""

import json
import shutil
from collections import Counter
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import torch

from unnorm.artefacts.adapters import CONFIG, WEIGHTS, folder_of
from unnorm.artefacts.files import account, check_files, inventory
from unnorm.artefacts.fingerprint import fingerprint
from unnorm.artefacts.loading import load, load_base_of, merged
from unnorm.artefacts.manifest import NAME, BaseEntry, Manifest, library_versions, read_manifest
from unnorm.artefacts.model_card import model_card
from unnorm.artefacts.norm_code import norm_code
from unnorm.artefacts.saving import check_place, is_artefact
from unnorm.artefacts.weights import SHARD, stored_tensors, write_tensors
from unnorm.artefacts.whole import PACKAGE_WEIGHTS, outline_of
from unnorm.foundation import atomic
from unnorm.foundation.errors import ModelError, SettingsError
from unnorm.foundation.hashing import digest_tensors
from unnorm.surgery.base import load_tokenizer
from unnorm.surgery.swap import record_of

GUARD = "needs-an-Auto-class-and-trust_remote_code.safetensors"
CODE = "modeling_unnorm"
ADAPTERS = "adapters"
Adapters = Literal["merge", "keep"]


def package(
    artefact: str | Path,
    out: str | Path,
    *,
    base: str | None = None,
    adapters: Adapters = "merge",
    adapter: str | None = None,
    numbers: Mapping[str, Any] | None = None,
    name: str | None = None,
    shard: str = SHARD,
) -> Manifest:
    """Write what the folder `artefact` holds as a package into the folder `out`, atomically; its manifest.

    base: where an adapter's base lies now, if it moved. adapters: "merge" the adapter (named by `adapter` where there
    are several) into the weights, or "keep" them all in out/adapters/NAME, beside the swapped base they stand on.
    numbers: what is to stand in the model card, name -> value. name: what the card calls it (its id on the hub), by
    default the folder's name. shard: the largest file of weights. Raises `ModelError` for an architecture whose code
    is not transformers' own, `SettingsError` for a norm whose code cannot be taken along, `ArtefactError` as `load`
    does.
    """
    artefact, out = Path(artefact), Path(out)
    check_place(out)
    source = read_manifest(artefact)
    if not source.sites:
        raise SettingsError(f"nothing is swapped in {artefact}: transformers loads such a model without a package.")
    kept = list(source.adapters) if adapters == "keep" else []
    to_merge = _to_merge(artefact, source, adapter) if adapters == "merge" else None
    if source.kind == "adapter" and kept:
        check_files(artefact, source.files)
        model = load_base_of(artefact, source, base or source.base.name)
    else:
        model = load(artefact, base)
    if to_merge is not None:
        model.set_adapter(to_merge)
        model = merged(model)
    code = model_code(model)
    tensors, tied = _stored_for_transformers(model)
    content = {
        **source.model_dump(include={"architecture", "dtype", "sites", "corrected"}),
        "base": BaseEntry(name=source.base.public_name, hash=source.base.hash),
        "kind": "package",
        "tensors": digest_tensors(tensors),
        "tied": tied,
        "libraries": library_versions(),
        "fingerprint": fingerprint(model, to_save=True),
    }
    with atomic.folder(out) as folder:
        write_tensors(tensors, folder, PACKAGE_WEIGHTS, shard)
        config = json.dumps(package_config(model), indent=2, sort_keys=True)  # it may hold Infinity: not orjson's
        atomic.write_bytes(folder / "config.json", config.encode())
        atomic.write_bytes(folder / f"{CODE}.py", code.encode())
        if getattr(model, "generation_config", None) is not None:
            model.generation_config.save_pretrained(str(folder))
        if (artefact / "tokenizer_config.json").is_file():
            load_tokenizer(str(artefact)).save_pretrained(str(folder))
        for each in kept:
            _copy_adapter(artefact, each, folder, str(out.resolve()))
        card = model_card(source, to_merge, kept, numbers or {}, name=name or out.name, auto=_auto_of(model))
        atomic.write_bytes(folder / "README.md", card.encode())
        manifest = Manifest.model_validate({**content, "files": inventory(folder)})
        atomic.write_json(folder / NAME, manifest.model_dump())
    return manifest


def push(folder: str | Path, repo: str, *, private: bool = True) -> str:
    """Upload a package to the hub as `repo` by the hub's own client, with the login that stands there; its address.

    Adapters kept in it are made to name `repo` as their base. Raises `SettingsError` if `folder` is no package.
    """
    from huggingface_hub import HfApi

    folder = Path(folder)
    if not is_artefact(folder) or read_manifest(folder).kind != "package":
        raise SettingsError(f"{folder} is no package. Make one with: unnorm package ARTEFACT --out DIR")
    manifest = read_manifest(folder)
    check_files(folder, manifest.files)
    configs = [name for name in manifest.files if name.startswith(f"{ADAPTERS}/") and name.endswith(f"/{CONFIG}")]
    for name in configs:
        atomic.write_json(folder / name, {**atomic.read_json(folder / name), "base_model_name_or_path": repo})
    if configs:  # whatever else lies there by now, such as .gitattributes, is not the package's
        known = {**manifest.files, **{name: account(folder / name) for name in configs}}
        atomic.write_json(folder / NAME, manifest.model_copy(update={"files": known}).model_dump())
    api = HfApi()
    api.create_repo(repo, private=private, exist_ok=True)
    return str(api.upload_folder(repo_id=repo, folder_path=str(folder), commit_message="A package of unnorm"))


def _stored_for_transformers(model: Any) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """As `stored_tensors`, but for ties that the configuration does not make: those a load by transformers would not
    make either, and it would draw what it does not find."""
    tensors, tied = stored_tensors(model)
    _, outline = outline_of(model.config, type(model).__name__)
    theirs = dict(outline.named_parameters(remove_duplicate=False))
    state = model.state_dict()
    for name, other in list(tied.items()):
        if theirs.get(name) is None or theirs[name] is not theirs.get(other):
            tensors[name] = state[name]
            del tied[name]
    return tensors, tied


def package_config(model: Any) -> dict[str, Any]:
    """config.json of the package: the model's own, under a model type and with weights that only the package knows."""
    record = record_of(model)
    assert record is not None
    own = model.config.to_diff_dict()
    model_type = own["model_type"]
    prefix, head = _class_name(model)
    auto = _auto_of(model)
    sites = {}
    for site in record.sites:
        settings = record.specs[site.path].to_dict()
        sites[site.path] = {"norm": settings.pop("norm"), "width": site.width, "settings": settings}
    return {
        **{key: value for key, value in own.items() if not key.startswith("_")},
        "model_type": _own_type(model_type),
        "architectures": [prefix + head],
        "auto_map": {"AutoConfig": f"{CODE}.{prefix}Config", auto: f"{CODE}.{prefix}{head}"},
        "transformers_weights": GUARD,
        "dtype": str(model.dtype).removeprefix("torch."),
        # Not "model_type": a class of transformers' own would take a part with its model type for the whole.
        "unnorm": {"of": model_type, "sites": sites},
    }


def model_code(model: Any) -> str:
    """Source of the package's model class: transformers' own for this architecture, with the norms put in."""
    from jinja2 import Environment, StrictUndefined

    kind, config = type(model), type(model.config)
    for needed in (kind, config):
        if needed.__module__.split(".")[0] != "transformers":
            raise ModelError(
                f"{needed.__name__} is not a class of transformers, so a package could not carry it. "
                "Use unnorm.save and unnorm.load for this model."
            )
    record = record_of(model)
    assert record is not None
    specs = {spec.norm: type(spec) for spec in record.specs.values()}
    counts = Counter(spec.norm for spec in record.specs.values())
    prefix, head = _class_name(model)
    text = files("unnorm.artefacts").joinpath(f"{CODE}.py.jinja").read_text(encoding="utf-8")
    template = Environment(undefined=StrictUndefined, keep_trailing_newline=True).from_string(text)
    return template.render(
        architecture=kind.__name__,
        auto=_auto_of(model),
        config_class=config.__name__,
        prefix=prefix,
        head=head,
        model_type=_own_type(model.config.model_type),
        count=len(record.sites),
        norms=", ".join(f"{norm}: {count}" for norm, count in sorted(counts.items())),
        version=library_versions().get("unnorm", "?"),
        guard=GUARD,
        norm_code=norm_code(specs.values()),
        specs=sorted((norm, spec.__name__) for norm, spec in specs.items()),
    )


def _auto_of(model: Any) -> str:
    return str(outline_of(model.config, type(model).__name__)[0].__name__)


def _own_type(model_type: str) -> str:
    return f"unnorm_{model_type}"


def _class_name(model: Any) -> tuple[str, str]:
    """GPT2LMHeadModel -> ("UnnormGPT2", "LMHeadModel"): what configuration and model share, and the rest."""
    name, config = type(model).__name__, type(model.config).__name__
    stem = config.removesuffix("Config")
    if not name.startswith(stem):  # Gemma3ForCausalLM with Gemma3TextConfig
        stem = name.removesuffix("ForCausalLM").removesuffix("LMHeadModel")
    return f"Unnorm{stem}", name.removeprefix(stem)


def _to_merge(artefact: Path, source: Manifest, adapter: str | None) -> str | None:
    if adapter is None and len(source.adapters) <= 1:
        return next(iter(source.adapters), None)
    if adapter in source.adapters:
        return adapter
    there = ", ".join(source.adapters) or "none"
    asked = f"there is no adapter {adapter!r} in {artefact}" if adapter else f"{artefact} holds several adapters"
    raise SettingsError(f"{asked} (there: {there}). Name one to merge, or keep them all.")


def _copy_adapter(artefact: Path, name: str, folder: Path, base: str) -> None:
    place = folder / ADAPTERS / name
    place.mkdir(parents=True)
    shutil.copyfile(artefact / folder_of(name) / WEIGHTS, place / WEIGHTS)
    config = atomic.read_json(artefact / folder_of(name) / CONFIG)
    # peft's auto_mapping names the class of the plain base, which must not be loaded here; the task says enough.
    task = config.get("task_type") or "CAUSAL_LM"
    changed = {**config, "base_model_name_or_path": base, "revision": None, "auto_mapping": None, "task_type": task}
    atomic.write_json(place / CONFIG, changed)
