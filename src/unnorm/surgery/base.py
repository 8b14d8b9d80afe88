"""Load a pretrained base and its tokenizer from the hub or a folder, with errors that say what to do."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from unnorm.foundation.errors import ModelError, SettingsError

_OFFLINE_HINT = "Give a folder that holds config.json and safetensors weights, or a hub id that this machine can reach."


def load_base(name: str, dtype: torch.dtype | str = torch.float32) -> Any:
    """The causal language model `name` (hub id or folder) in eval mode, in `dtype` ("auto": as it was saved).

    Safetensors only, remote code off. Anything that prevents loading is a `ModelError`.
    """
    from transformers import AutoModelForCausalLM

    _check_folder(name)
    bars_on_a_terminal_only()
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype, use_safetensors=True)
    except Exception as error:  # transformers, the hub and safetensors each raise their own kinds
        raise ModelError(f"cannot load the model {name!r}: {first_line(error)} {_OFFLINE_HINT}") from error
    return model.eval()


def bars_on_a_terminal_only() -> None:
    """Keep transformers' progress bars out of logs and pipes."""
    from transformers.utils import logging

    if not sys.stderr.isatty():
        logging.disable_progress_bar()


def load_tokenizer(name: str) -> Any:
    """The tokenizer of `name` (hub id or folder). It must have an end-of-text token, which ends every answer."""
    from transformers import AutoTokenizer

    _check_folder(name)
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except Exception as error:
        raise ModelError(f"cannot load the tokenizer of {name!r}: {first_line(error)} {_OFFLINE_HINT}") from error
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {name!r} has no eos token, so answers could not be ended. "
            "Set eos_token in its tokenizer_config.json."
        )
    return tokenizer


def context_length(model: Any) -> int | None:
    """The most positions `model` takes, where its configuration says so."""
    config = model.config.get_text_config()
    return getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)  # MPT's name for it


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


def first_line(error: BaseException) -> str:
    """The first line of an error's own message, shortened, ending in a full stop."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    text = lines[0][:300].rstrip()
    return text if text.endswith((".", "!", "?")) else text + "."


def _check_folder(name: str) -> None:
    path = Path(name).expanduser()
    looks_like_path = name.startswith((".", "/", "~")) or name.count("/") > 1
    if looks_like_path and not path.is_dir():
        raise ModelError(f"there is no folder {name!r}. {_OFFLINE_HINT}")
    if path.is_dir() and not (path / "config.json").is_file() and not (path / "tokenizer.json").is_file():
        raise ModelError(f"the folder {name!r} holds no config.json, so it is not a model. {_OFFLINE_HINT}")
