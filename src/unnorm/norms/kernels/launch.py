"""Runs the Triton kernels: the same two functions as `formula`, for contiguous or row-strided tensors of one device.

Sizes of grids and buffers follow from shapes alone, and nothing waits for the device, so a CUDA graph can capture both.
"""

from contextlib import AbstractContextManager, nullcontext

import torch
import triton
from torch import Tensor

from unnorm.norms.kernels.device_code import backward_kernel, forward_kernel
from unnorm.norms.kernels.formula import Gradients

_MOST_COLUMNS = 1024
_FORWARD_TILE, _BACKWARD_TILE = 4096, 2048
"""Elements of a tile; the backward pass holds more values an element."""
_MOST_GROUPS = 128
"""Of rows, each with its own sums for the parameters: enough programs to fill a device, few enough sums to add up."""


def forward(
    x: Tensor,
    residual: Tensor | None,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    curve: str,
) -> tuple[Tensor, Tensor]:
    """As `formula.forward`. x and residual [..., C], fp32, bf16 or fp16; h and y are contiguous."""
    y = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    h = x if residual is None else torch.empty_like(y)
    if x.numel() == 0:
        return h, y
    rows_of_x, rows_of_residual = _as_rows(x), None if residual is None else _as_rows(residual)
    rows, width = rows_of_x.shape
    tall, wide = _tile(width, _FORWARD_TILE)
    with _on(x.device):
        forward_kernel[(triton.cdiv(rows, tall) * triton.cdiv(width, wide),)](
            rows_of_x,
            rows_of_residual,
            alpha.contiguous(),
            shift,
            _contiguous(weight),
            _contiguous(bias),
            h,
            y,
            rows,
            width,
            rows_of_x.stride(0),
            0 if rows_of_residual is None else rows_of_residual.stride(0),
            ROWS=tall,
            COLS=wide,
            ERF=curve == "erf",
            ALPHA_PER_CHANNEL=alpha.numel() > 1,
        )
    return h, y


def backward(
    dy: Tensor,
    dh: Tensor | None,
    h: Tensor,
    alpha: Tensor,
    shift: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    curve: str,
    parameters: bool,
) -> Gradients:
    """As `formula.backward`. The gradients of the parameters are the same bits in every run."""
    dx = torch.empty(h.shape, dtype=h.dtype, device=h.device)
    wanted = [p if parameters else None for p in (alpha, shift, weight, bias)]
    if h.numel() == 0:
        return dx, *(h.new_empty(0) if p is None else torch.zeros_like(p) for p in wanted)  # type: ignore[return-value]
    rows_of_h, rows_of_dy = _as_rows(h), _as_rows(dy)
    rows_of_dh = None if dh is None else _as_rows(dh)
    rows, width = rows_of_h.shape
    tall, wide = _tile(width, _BACKWARD_TILE)
    tiles = triton.cdiv(triton.cdiv(rows, tall), _MOST_GROUPS)
    groups, column_blocks = triton.cdiv(rows, tall * tiles), triton.cdiv(width, wide)

    def sums(parameter: Tensor | None, *, per_channel: bool) -> Tensor | None:
        shape = (groups, width) if per_channel else (groups * column_blocks, 1)
        return None if parameter is None else torch.empty(shape, dtype=torch.float32, device=h.device)

    partial = [sums(p, per_channel=i > 1 or (alpha.numel() > 1 and i == 0)) for i, p in enumerate(wanted)]
    with _on(h.device):
        backward_kernel[(groups * column_blocks,)](
            rows_of_dy,
            rows_of_dh,
            rows_of_h,
            alpha.contiguous(),
            shift,
            _contiguous(weight),
            dx,
            *partial,
            rows,
            width,
            tiles,
            rows_of_dy.stride(0),
            0 if rows_of_dh is None else rows_of_dh.stride(0),
            rows_of_h.stride(0),
            ROWS=tall,
            COLS=wide,
            ERF=curve == "erf",
            ALPHA_PER_CHANNEL=alpha.numel() > 1,
        )
    found = [
        h.new_empty(0) if p is None or part is None else part.sum(0).to(p.dtype)
        for p, part in zip(wanted, partial, strict=True)
    ]
    return dx, *found  # type: ignore[return-value]


def _tile(width: int, elements: int) -> tuple[int, int]:
    """Rows and columns of a tile, powers of two."""
    columns = min(_MOST_COLUMNS, triton.next_power_of_2(width))
    return max(1, elements // columns), columns


def _as_rows(tensor: Tensor) -> Tensor:
    """tensor [..., C] as [rows, C] whose channels lie side by side, without a copy where its layout allows it."""
    rows = tensor.reshape(-1, tensor.shape[-1])
    return rows if rows.stride(1) == 1 or rows.shape[1] == 1 else rows.contiguous()


def _contiguous(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensors'."""
    return torch.cuda.device(device) if device.type == "cuda" else nullcontext()
