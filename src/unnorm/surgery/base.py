"""Load a pretrained base and its tokenizer from the hub or a folder, with errors that say what to do."""

import re
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from unnorm.foundation import hub, lfs
from unnorm.foundation.errors import ModelError, SettingsError, first_line
from unnorm.foundation.hub_errors import explain
from unnorm.foundation.quiet import errors_alone, without_bars
from unnorm.surgery.computed_buffers import widen_computed_
from unnorm.surgery.finite import check_weights
from unnorm.surgery.vocabulary import fit_tokenizer_

_OF_OLD = re.compile(r"(^|\.)(attn|attention)\.(bias|masked_bias)$|(^|\.)(inv_freq|position_ids)$")
"""Masks, rotary frequencies and positions that older versions of transformers stored; a model computes them itself."""

ROW = 512
_INSTEAD = "Give a folder that holds config.json and safetensors weights, or a name on the hub."
_READ = ("*.safetensors", "*.json", "*.model", "*.txt", "*.jinja")
"""The files of a model and its tokenizer that may be read."""


def load_base(name: str, dtype: torch.dtype | str = torch.float32) -> Any:
    """The causal language model `name` in eval mode, in `dtype` ("auto": as it was saved).

    name: a folder, or a hub id, which may end in @revision (a branch, a tag or a commit). Safetensors only, remote code
    off. Anything that prevents loading is a `ModelError`, and so is what `load_model` refuses.
    """
    from transformers import AutoModelForCausalLM

    return load_model(AutoModelForCausalLM, name, "the model", dtype=dtype)


def load_model(loader: Any, name: str, what: str, *, dtype: torch.dtype | str) -> Any:
    """The model that the Auto class `loader` makes of `name`, in eval mode, every weight of it from the files.

    A weight that is missing, that the architecture has no place for, or that is of another size there, is a
    `ModelError` that names it, and so is one that is not finite. What the architecture declares (tied weights, buffers
    that are computed, keys that its class ignores) is no such weight.
    """
    options = {"dtype": dtype, "use_safetensors": True, "output_loading_info": True, "ignore_mismatched_sizes": True}
    with errors_alone("transformers"):  # weights that are missing or left over: those that matter are refused here
        model, found = load_pretrained(loader, name, what, **options)
    check_loaded(model, found, f"{what} {name!r}")
    widen_computed_(model, loader)
    check_weights(model, f"{what} {name!r}")
    return model.eval()


def load_pretrained(loader: Any, name: str, what: str, **options: Any) -> Any:
    """What `loader.from_pretrained` makes of `name`: a folder, or a hub id with @revision or without.

    All files are of one commit. The object remembers the revision that was asked for in its configuration's name, so
    that it can be loaded again. Anything that prevents loading is a `ModelError` with `what` and what to do.
    """
    _check_folder(name)
    folder = Path(name).expanduser()
    try:
        if folder.is_dir():
            with without_bars():
                return loader.from_pretrained(str(folder), **options)
        place = hub.pinned(name)
        with without_bars(), hub.download_shown(place.repository):
            loaded = loader.from_pretrained(place.repository, revision=place.revision, **options)
    except Exception as error:  # transformers, the hub and safetensors each raise their own kinds
        why = f"{first_line(error)} {_INSTEAD}" if folder.is_dir() else explain(error, name)
        raise ModelError(f"cannot load {what} {name!r}: {why}") from error
    made = loaded[0] if isinstance(loaded, tuple) else loaded
    if hub.parse(name).revision is not None and hasattr(made, "config"):
        made.config._name_or_path = name
    return loaded


def load_tokenizer(name: str) -> Any:
    """The tokenizer of `name` (a hub id or folder, as for `load_base`). It must have an end-of-text token, which ends
    every answer; if its pad token has no embedding in the model of that name, it pads with the end-of-text token."""
    from transformers import AutoTokenizer

    tokenizer = load_pretrained(AutoTokenizer, name, "the tokenizer of")
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {name!r} has no eos token, so answers could not be ended. "
            "Set eos_token in its tokenizer_config.json."
        )
    rows = _rows_in_configuration(name)
    return tokenizer if rows is None else fit_tokenizer_(tokenizer, rows, name)


def _rows_in_configuration(name: str) -> int | None:
    """How many embeddings the model beside a tokenizer has; None where no model lies there."""
    from transformers import AutoConfig

    try:
        config = load_pretrained(AutoConfig, name, "the configuration of")
    except ModelError:  # a tokenizer alone, or beside an adapter
        return None
    rows = getattr(config.get_text_config(), "vocab_size", None)
    return rows if isinstance(rows, int) else None


def under_adapters(model: Any) -> Any:
    """The model itself, where `model` is one with peft adapters around it."""
    return model.get_base_model() if hasattr(model, "peft_config") else model


def unwrapped(model: Any) -> Any:
    """The model itself, where `model` is what torch.compile or a parallel wrapper of torch made of it."""
    while True:
        if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(model, nn.Module) and "_orig_mod" in model._modules:
            model = model._modules["_orig_mod"]
        else:
            return model


def context_length(model: Any) -> int | None:
    """The most tokens a row that `model` takes, where its configuration says so."""
    positions = context_of(model.config)
    if positions is None:
        return None
    learned = [m for name, m in model.named_modules() if name.endswith("position_embeddings")]
    pads = [pad for module in learned if (pad := getattr(module, "padding_idx", None)) is not None]
    return positions - max(pads) - 1 if pads else positions  # as in RoBERTa, whose first token is after that of padding


def context_of(config: Any) -> int | None:
    """The same of a configuration."""
    config = config.get_text_config()
    names = ("max_position_embeddings", "max_seq_len")  # the second is MPT's; -1 and 0 stand for no limit
    return next((length for name in names if (length := getattr(config, name, None)) and length > 0), None)


def row_length(config: Any) -> int:
    """Tokens a row, unless told: 512, or the most that a model of this configuration takes."""
    return min(ROW, context_of(config) or ROW)


def check_length(model: Any, max_length: int) -> None:
    """Refuse rows that are longer than the positions `model` has: a `SettingsError`."""
    context = context_length(model)
    if context is not None and max_length > context:
        raise SettingsError(
            f"max_length {max_length} is more than the {context} positions that {model.config._name_or_path!r} takes. "
            f"Use {context} or less."
        )


@contextmanager
def without_peft_notice() -> Iterator[None]:
    """Silence peft's use of a name that transformers 5 has deprecated: nothing that a user could act on."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        yield


def _check_folder(name: str) -> None:
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or hub.parse(name).repository.count("/") > 1
    if looks_like_path and not path.is_dir():
        raise ModelError(f"there is no folder {name!r}. {_INSTEAD}")
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "tokenizer.json").is_file():
        raise ModelError(f"the folder {name!r} holds no config.json, so it is not a model. {_INSTEAD}")
    if path.is_dir() and (pointers := lfs.pointers(path, _READ)):
        raise ModelError(
            f"{path / pointers[0]} is a Git LFS pointer, which stands in the place of the file itself"
            f"{f', as {len(pointers) - 1} more do' if len(pointers) > 1 else ''}. {lfs.REMEDY}"
        )


def check_loaded(model: nn.Module, found: Mapping[str, Any], which: str) -> None:
    """Raise `ModelError` naming the first weight that is missing, without a place, or of another size in the files.

    found: what `from_pretrained(output_loading_info=True)` gives beside `model`, from which the class's own exceptions
    and tied weights are left out already. which: what the message calls the model.
    """
    computed = _computed(model)
    missing = sorted(found["missing_keys"])
    unexpected = sorted(n for n in found["unexpected_keys"] if not (_OF_OLD.search(n) or _is_one_of(n, computed)))
    sizes = sorted(found["mismatched_keys"])
    problems = [
        f"{len(names)} {of}, {names[0]} first"
        for names, of in ((missing, "are missing in its files"), (unexpected, "of its files have no place in it"))
        if names
    ]
    if sizes:
        name, there, here = sizes[0]
        problems.append(f"{len(sizes)} are of another size, {name} first: {list(there)}, not {list(here)}")
    if problems:
        raise ModelError(
            f"{which} cannot be loaded as a {type(model).__name__}: of its weights {'; '.join(problems)}. What is "
            "missing would be random. Check that its config.json belongs to its weights, that their names are those "
            "that save_pretrained gives them, and that nothing was lost in copying."
        )


def _computed(model: nn.Module) -> set[str]:
    """Full names of the buffers that a model computes from its configuration and no file need hold."""
    return {
        f"{path}.{name}".lstrip(".")
        for path, module in model.named_modules()
        for name in module._non_persistent_buffers_set
    }


def _is_one_of(name: str, computed: set[str]) -> bool:
    """Whether `name` is one of `computed`, with the base model's prefix or without."""
    return any(name == own or own.endswith("." + name) or name.endswith("." + own) for own in computed)
