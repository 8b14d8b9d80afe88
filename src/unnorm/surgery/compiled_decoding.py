"""Let a model's `generate` decode with a cache of fixed size and a compiled step: on a GPU captured in CUDA graphs.

transformers does it, where the model's generation config says so; here that is set, checked against eager, and refused
with a reason where it would silently not happen.
"""

from typing import Any

import torch

from unnorm.foundation.compilers import missing_compiler
from unnorm.foundation.errors import ModelError, SettingsError, first_line

_NEW = 5
"""Tokens that are decoded for the check: one is read off the prompt, the next compiles, the others use what it made."""
_BACKEND = "inductor"


def check_compilable(model: Any) -> None:
    """`ModelError` for a model whose decoding transformers cannot compile, `SettingsError` without a compiler."""
    if not hasattr(model, "generate") or not getattr(model, "_can_compile_fullgraph", False):
        raise ModelError(
            f"transformers does not compile the decoding of {type(model).__name__}: it has no cache of fixed size. "
            "Call optimize_ without compile=True."
        )
    missing = missing_compiler(next(model.parameters()).device.type)
    if missing:
        raise SettingsError(f"compile=True needs {missing}. Install it, or call optimize_ without compile=True.")


def compile_decoding_(model: Any, ids: torch.Tensor, tolerance: float) -> float:
    """From now on `model.generate` compiles its step of one token. ids: [1, T], for the check.

    Returns ‖compiled − eager‖ / ‖eager‖ of the logits of a few tokens decoded one by one. If it is not below
    `tolerance`, or compiling fails, everything is as it was, and that is a `ModelError`.
    """
    from transformers import CompileConfig

    settings = model.generation_config
    before = settings.cache_implementation, settings.compile_config
    eager = _decoded(model, ids)
    on_cpu = ids.device.type == "cpu"
    compiler = CompileConfig(backend=_BACKEND, mode="default" if on_cpu else "reduce-overhead")
    compiler._compile_all_devices = on_cpu  # type: ignore[assignment]  # transformers leaves a CPU out, unless told so
    settings.cache_implementation, settings.compile_config = "static", compiler
    model.__dict__.pop("_compiled_call", None)
    try:
        found = _decoded(model, ids)
        difference = _difference(found, eager)
        failed = "" if difference < tolerance else f"compiled, the model's logits differ by {difference:.1g}"
        if "_compiled_call" not in model.__dict__:
            failed = "transformers does not compile a model that is quantized in this way or partly offloaded"
    except Exception as error:
        failed = f"it does not compile ({type(error).__name__}: {first_line(error)})"
    if failed:
        settings.cache_implementation, settings.compile_config = before
        model.__dict__.pop("_compiled_call", None)
        raise ModelError(f"the model decodes as before, uncompiled: {failed}. What else optimize_ does is done.")
    return difference


def _decoded(model: Any, ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """New tokens [N] and their logits [N, V], greedily."""
    out = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=_NEW,
        min_new_tokens=_NEW,
        do_sample=False,
        num_beams=1,
        use_cache=True,
        return_dict_in_generate=True,
        output_logits=True,
    )
    return out.sequences[0, ids.shape[1] :], torch.cat(out.logits)


def _difference(found: tuple[torch.Tensor, torch.Tensor], wanted: tuple[torch.Tensor, torch.Tensor]) -> float:
    """Of the logits up to where another token was taken: from there on they are of other texts."""
    same = int((found[0] == wanted[0]).int().cumprod(0).sum()) + 1
    a, b = found[1][:same].double(), wanted[1][:same].double()
    return float((a - b).norm() / b.norm().clamp_min(1e-30))
