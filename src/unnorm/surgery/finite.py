"""The one check that a model computes numbers: weights or logits that are NaN or infinite make every result wrong, most
of them in silence (a NaN is the largest logit, is equal to nothing, and drops out of what is filtered)."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from unnorm.foundation.errors import ModelError
from unnorm.norms.spec import NormSpec
from unnorm.surgery.data_flow import dummy_inputs, unnoticed


def check_finite(model: Any, name: str = "") -> None:
    """Raise `ModelError` if a parameter of `model`, or a logit of one forward over a few dummy tokens, is not finite.

    name: what the message calls it; by default what its configuration says, else its class. A model that does not run
    on token ids alone is judged by its parameters. Modes are left as they were.
    """
    check_weights(model, name)
    device = next((p.device for p in model.parameters()), torch.device("meta"))
    if device.type == "meta":
        return
    try:
        with torch.no_grad(), unnoticed(model, device):
            logits = getattr(model(**dummy_inputs(model, device)), "logits", None)
    except Exception:  # it wants images, an encoder's states, anything: whoever runs it will see
        return
    if isinstance(logits, torch.Tensor):
        check_logits(logits, model, name)


def check_weights(model: nn.Module, name: str = "") -> None:
    """Raise `ModelError` if a parameter of `model` is not finite. Reads each once, without a copy."""
    for path, parameter in model.named_parameters():
        if parameter.is_meta or parameter.dtype not in _FLOATS or not parameter.numel():
            continue
        held = parameter.detach()
        if hasattr(held, "to_local"):  # of a model that is spread over several processes: each looks at its own part
            held = held.to_local()
        if held.numel() and not all(bool(end.isfinite()) for end in torch.aminmax(held)):
            bad = int((~held.isfinite()).sum())
            raise ModelError(
                f"the logits are not finite: of {name or name_of(model)}, {bad:,} of the {parameter.numel():,} numbers "
                f"in {path} are NaN or infinite. {_ADVICE}"
            )


def check_logits(logits: torch.Tensor, model: Any, name: str = "") -> None:
    """Raise `ModelError` if one of `logits`, which `model` computed, is NaN, or +inf, or all of a row are −inf."""
    # A model may rule tokens out by −inf; what no softmax survives is NaN, +inf, or a row of nothing else.
    highest = logits.detach().float().amax(-1)
    if not bool(highest.isfinite().all()):
        raise ModelError(
            f"the logits are not finite: {name or name_of(model)} computes NaN or infinity in {logits.dtype}, though "
            f"its weights are finite. Load it in fp32 if it was made for a wider range than {logits.dtype} has. "
            f"{_ADVICE}"
        )


def unbounded(specs: Iterable[NormSpec]) -> str:
    """The names of those norms among `specs` that let a large token pass as large as it is; empty if there is none."""
    return " and ".join(sorted({spec.norm for spec in specs if not spec.bounded}))


def advice_on_linear(specs: Iterable[NormSpec]) -> str:
    """What to do where new norms let a large token pass as large as it is; empty where none of `specs` does."""
    if not (norms := unbounded(specs)):
        return ""
    return (
        f"{norms} is linear, and text unlike that of the fit can grow without bound from block to block. "
        "Take a bounded norm (dyt), or swap fewer sites (--sites). Once recovered, a dyt can be bent straight "
        "(`unnorm recover --straighten 70%`)."
    )


def name_of(model: Any) -> str:
    """What a model is called in messages."""
    name = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    return repr(name) if name else f"the {type(model).__name__}"


_FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
_ADVICE = "Download or save the model again."
