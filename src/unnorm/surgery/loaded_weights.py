"""Whether every weight of a model came from its files: transformers fills in what is missing with random numbers."""

import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from unnorm.foundation.errors import ModelError

_OF_OLD = re.compile(r"(^|\.)(attn|attention)\.(bias|masked_bias)$|(^|\.)(inv_freq|position_ids)$")
"""Masks, rotary frequencies and positions that older versions of transformers stored; a model computes them itself."""


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
