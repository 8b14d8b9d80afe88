"""One kernel instead of several operations for DyT and Derf, on CUDA and where Triton is installed.

    formula        the same in plain PyTorch: the reference, and the fallback
    device_code    the kernels
    launch         grids, strides and buffers
    eager          autograd around them for eager mode, past the dispatcher
    ops            operators with autograd, for compilers

Importing this imports neither Triton nor `ops`: the first CUDA tensor that a norm is given does. CPU tensors never come
here, and a compiled model keeps the formula, which the compiler fuses with what stands around it.
"""

import torch

from unnorm.norms.curve import CurveNorm
from unnorm.norms.derf import Derf
from unnorm.norms.dyt import DyT

CURVES = {DyT: "tanh", Derf: "erf"}
"""Specs that there are kernels for, and what `ops` calls their curves."""


def fused(module: CurveNorm, x: torch.Tensor) -> torch.Tensor | None:
    """module(x) for x [..., C] on CUDA, or None where there is no kernel for it."""
    from unnorm.norms.kernels import ops

    curve = CURVES.get(type(module.spec))  # type: ignore[call-overload]
    if curve is None or not ops.has_kernel(x):
        return None
    parameters = (module.alpha, module.shift, module.weight, module.bias)
    if type(x) is not torch.Tensor:
        return ops.curve_norm(x, *parameters, curve)  # type: ignore[no-any-return]
    from unnorm.norms.kernels import eager

    return eager.curve_norm(x, *parameters, curve)


CurveNorm.fused = fused
