"""One kernel instead of several operations for DyT and Derf, on CUDA and where Triton is installed.

    formula        the same in plain PyTorch: the reference, and the fallback
    device_code    the kernels; device_fusion: those of several norms
    launch         grids, strides and buffers
    eager          autograd around them for eager mode, past the dispatcher
    ops            operators with autograd, for compilers

Importing this imports neither Triton nor `ops`: the first CUDA tensor that a norm is given does. CPU tensors never come
here, and a compiled model keeps the formula, which the compiler fuses with what stands around it.
"""

from importlib.util import find_spec
from typing import Any

import torch

from unnorm.norms.curve import CurveNorm
from unnorm.norms.derf import Derf
from unnorm.norms.dyt import DyT
from unnorm.norms.kernels import formula
from unnorm.norms.kernels.formula import Parts
from unnorm.norms.spec import Norm, NormSpec

CURVES: dict[type[NormSpec], str] = {DyT: "tanh", Derf: "erf"}
"""Specs that there are kernels for, and what `ops` calls their curves."""


_PARTS = ("alpha", "shift", "weight", "bias")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_eager: Any = None


def fused(module: Norm, x: torch.Tensor) -> torch.Tensor | None:
    """module(x) for x [..., C] on CUDA, or None where there is no kernel for it."""
    curve = curve_of(module)
    if curve is None or not has_kernel(x):
        return None
    parts = parts_of(module)
    if type(x) is not torch.Tensor:
        from unnorm.norms.kernels import ops

        return ops.curve_norm(x, *parts, curve)  # type: ignore[no-any-return]
    return (_eager or _import_eager()).curve_norm(x, parts, curve)  # type: ignore[no-any-return]


def add_norms(
    x: torch.Tensor,
    second: torch.Tensor,
    third: torch.Tensor | None,
    module: CurveNorm,
    other: CurveNorm | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
    """h = x + second + third, module(h), and other(h) where there is one, whose curve is the same. Without a gradient.

    All [..., C] of one dtype; sums are rounded one after another, as PyTorch's are.
    """
    run = (_eager or _import_eager()).norms if has_kernel(x) else formula.norms
    parts = None if other is None else parts_of(other)
    return run(x, second, third, parts_of(module), parts, CURVES[type(module.spec)])


def norm_add(
    x: torch.Tensor, second: torch.Tensor, inner: CurveNorm, module: CurveNorm | None = None
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """h = second + inner(x), and module(h) where there is one. Without a gradient; curves, shapes, dtypes are one."""
    run = (_eager or _import_eager()).norm_add if has_kernel(x) else formula.norm_add
    parts = None if module is None else parts_of(module)
    return run(x, second, parts_of(inner), parts, CURVES[type(inner.spec)])  # type: ignore[no-any-return]


def norm_pair(
    x: torch.Tensor, module: CurveNorm, other_x: torch.Tensor, other: CurveNorm
) -> tuple[torch.Tensor, torch.Tensor]:
    """module(x) and other(other_x). Without a gradient; curves and dtypes are one, shapes need not be."""
    run = (_eager or _import_eager()).pair if has_kernel(x) else formula.pair
    return run(x, parts_of(module), other_x, parts_of(other), CURVES[type(module.spec)])  # type: ignore[no-any-return]


def curve_of(module: Norm) -> str | None:
    """What `ops` calls the curve of a norm, where there are kernels for it."""
    return CURVES.get(type(module.spec))


def has_kernel(x: torch.Tensor) -> bool:
    """Whether there is a kernel for x: on CUDA, not for float64, and where Triton is installed."""
    return x.is_cuda and x.dtype in _DTYPES and _has_triton


def parts_of(module: Norm) -> Parts:
    """α, s, γ, β, as the kernels take them: contiguous."""
    own = module._parameters  # a module's own search for an attribute takes long
    if len(own) < len(_PARTS):  # some are parametrized, as they are in training
        return packed(tuple(getattr(module, name) for name in _PARTS))  # type: ignore[arg-type]
    return packed((own["alpha"], own["shift"], own["weight"], own["bias"]))  # type: ignore[arg-type]


def packed(parts: Parts) -> Parts:
    for part in parts:
        if part is not None and not part.is_contiguous():
            return tuple(None if p is None else p.contiguous() for p in parts)  # type: ignore[return-value]
    return parts


def _import_eager() -> Any:
    """Once: to ask for a module takes as long as a small kernel."""
    global _eager
    from unnorm.norms.kernels import eager

    _eager = eager
    return _eager


_has_triton = find_spec("triton") is not None
