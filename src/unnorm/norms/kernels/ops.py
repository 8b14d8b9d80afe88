"""DyT and Derf as operators of PyTorch: by Triton on CUDA, by the formula elsewhere; autograd and compilers know them.

`unnorm::curve_norm(x, alpha, shift, weight, bias, curve)` gives y, and `unnorm::add_curve_norm(x, residual, ...)` gives
(x + residual, its norm). x [..., C] of any float dtype; parameters as in `formula`. For the backward pass only x (or
the sum) and the parameters are kept. There is no second derivative.
"""

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from unnorm.norms.kernels import formula, has_kernel, packed


def _by(x: Tensor) -> ModuleType:
    """What computes for x: `launch` or `formula`, whose functions are the same."""
    if not has_kernel(x):
        return formula
    from unnorm.norms.kernels import launch

    return launch


@torch.library.custom_op("unnorm::curve_norm", mutates_args=())
def curve_norm(
    x: Tensor, alpha: Tensor, shift: Tensor | None, weight: Tensor | None, bias: Tensor | None, curve: str
) -> Tensor:
    """y = γ φ(α x + s) + β. curve: `tanh` or `erf`."""
    return _by(x).norms(x, None, None, packed((alpha, shift, weight, bias)), None, curve)[1].contiguous()  # type: ignore[no-any-return]


@torch.library.custom_op("unnorm::add_curve_norm", mutates_args=())
def add_curve_norm(
    x: Tensor,
    residual: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    curve: str,
) -> tuple[Tensor, Tensor]:
    """h = x + residual and the norm of h; both of one shape and dtype."""
    h, y, _ = _by(x).norms(x, residual, None, packed((alpha, shift, weight, bias)), None, curve)
    return h.contiguous(), y.contiguous()


@torch.library.custom_op("unnorm::curve_norm_backward", mutates_args=())
def curve_norm_backward(
    dy: Tensor,
    dh: Tensor | None,
    h: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    curve: str,
    parameters: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`formula.backward`."""
    dx, *others = _by(h).backward(dy, dh, h, packed((alpha, shift, weight, bias)), curve, parameters)
    return dx.contiguous(), *others  # type: ignore[return-value]


@curve_norm.register_fake
def _(x: Tensor, alpha: Tensor, shift: Any, weight: Any, bias: Any, curve: str) -> Tensor:
    return torch.empty(x.shape, dtype=x.dtype, device=x.device)


@add_curve_norm.register_fake
def _(x: Tensor, residual: Tensor, alpha: Tensor, shift: Any, weight: Any, bias: Any, curve: str) -> Any:
    return tuple(torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))


@curve_norm_backward.register_fake
def _(
    dy: Tensor, dh: Any, h: Tensor, alpha: Tensor, shift: Any, weight: Any, bias: Any, curve: str, parameters: bool
) -> Any:
    wanted = [p if parameters else None for p in (alpha, shift, weight, bias)]
    dx = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    return dx, *(h.new_empty(0) if p is None else p.new_empty(p.shape) for p in wanted)


def _keep(ctx: Any, h: Tensor, parameters: tuple[Any, ...], curve: str) -> None:
    ctx.save_for_backward(h, *parameters)
    ctx.curve = curve
    ctx.set_materialize_grads(False)


def _gradients(ctx: Any, dy: Tensor | None, dh: Tensor | None, wanted: tuple[bool, ...]) -> list[Tensor | None]:
    """Of h and of α, s, γ, β, None for what is not `wanted`."""
    h, *parameters = ctx.saved_tensors
    if dy is None:
        return [dh, None, None, None, None]
    dx, *found = curve_norm_backward(dy, dh, h, *parameters, ctx.curve, any(wanted))
    return [dx, *(gradient if want else None for gradient, want in zip(found, wanted, strict=True))]


def _setup(ctx: Any, inputs: Any, output: Any) -> None:
    x, *parameters, curve = inputs
    _keep(ctx, x, tuple(parameters), curve)


def _backward(ctx: Any, dy: Tensor | None) -> Any:
    return *_gradients(ctx, dy, None, ctx.needs_input_grad[1:5]), None


def _setup_add(ctx: Any, inputs: Any, output: Any) -> None:
    _, _, *parameters, curve = inputs
    _keep(ctx, output[0], tuple(parameters), curve)


def _backward_add(ctx: Any, dh: Tensor | None, dy: Tensor | None) -> Any:
    dx, *rest = _gradients(ctx, dy, dh, ctx.needs_input_grad[2:6])
    return dx, dx, *rest, None


curve_norm.register_autograd(_backward, setup_context=_setup)
add_curve_norm.register_autograd(_backward_add, setup_context=_setup_add)
