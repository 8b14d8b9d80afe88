"""Runs the Triton kernels: the same two functions as `formula`, for contiguous or row-strided tensors of one device.

Sizes of grids and buffers follow from shapes alone, and nothing waits for the device, so a CUDA graph can capture both.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton
from torch import Tensor

from unnorm.norms.kernels.device_code import backward_kernel, finish_kernel, forward_kernel
from unnorm.norms.kernels.formula import Gradients

_FEWEST_COLUMNS, _MOST_COLUMNS = 128, 1024
_FORWARD_TILE, _BACKWARD_TILE, _SMALLEST_TILE = 4096, 2048, 1024
"""Elements of a tile; the backward pass holds more values an element."""
_PROGRAMS = 512
"""As many as fill a device, if each has its largest tile; in the backward pass no more, so that few sums are left."""
_FINISH_COLUMNS = 32
_WARPS = 4
_ALIGNED = 16
"""Bytes that a pointer is a multiple of, for the widest loads."""

_compiled: dict[tuple[Any, ...], Any] = {}


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
    elements = y.numel()
    if elements == 0:
        return h, y
    x, x_stride = _rows(x)
    residual, residual_stride = (None, 0) if residual is None else _rows(residual)
    width = y.shape[-1]
    rows = elements // width
    tall, wide = _tile(rows, width, _FORWARD_TILE)
    _run(
        forward_kernel,
        -(-rows // tall) * -(-width // wide),
        (x, residual, _contiguous(alpha), shift, _contiguous(weight), _contiguous(bias), h, y),
        (rows,),
        (x_stride, residual_stride, width, tall, wide, curve == "erf", alpha.numel() > 1),
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
    elements, width = dx.numel(), dx.shape[-1]
    if elements == 0:
        return dx, *(h.new_empty(0) if p is None else torch.zeros_like(p) for p in wanted)  # type: ignore[return-value]
    (h, h_stride), (dy, dy_stride) = _rows(h), _rows(dy)
    dh, dh_stride = (None, 0) if dh is None else _rows(dh)
    rows = elements // width
    tall, wide = _tile(rows, width, _BACKWARD_TILE)
    column_blocks = -(-width // wide)
    tiles = -(-rows // (tall * max(1, _PROGRAMS // column_blocks)))
    groups = -(-rows // (tall * tiles))
    per_channel = alpha.numel() > 1
    lengths = (
        groups * (width if per_channel else column_blocks),
        groups * column_blocks,
        groups * width,
        groups * width,
    )
    sums = [
        None if p is None else torch.empty(length, dtype=torch.float32, device=h.device)
        for p, length in zip(wanted, lengths, strict=True)
    ]
    _run(
        backward_kernel,
        groups * column_blocks,
        (dy, dh, h, _contiguous(alpha), shift, _contiguous(weight), dx, *sums),
        (rows, tiles),
        (dy_stride, dh_stride, h_stride, width, tall, wide, curve == "erf", per_channel),
    )
    if not parameters:
        return dx, *(h.new_empty(0) for _ in wanted)  # type: ignore[return-value]
    found = [None if p is None else torch.empty(p.shape, dtype=p.dtype, device=p.device) for p in wanted]
    _run(
        finish_kernel,
        -(-width // _FINISH_COLUMNS),
        (*sums, *found),
        (groups, groups * column_blocks),
        (width, _FINISH_COLUMNS, _power_of_two(groups), _power_of_two(groups * column_blocks), per_channel),
    )
    return dx, *(h.new_empty(0) if p is None else p for p in found)  # type: ignore[return-value]


def _run(
    kernel: Any, programs: int, tensors: tuple[Tensor | None, ...], numbers: tuple[int, ...], constants: tuple[Any, ...]
) -> None:
    """Launch `programs` of `kernel`, past Triton's own look at each argument where that was taken before: it takes
    longer than the rest of a launch, and small models wait for launches."""
    device = tensors[0].device if tensors[0] is not None else next(t.device for t in tensors if t is not None)
    places, dtypes = 0, []
    for tensor in tensors:
        if tensor is None:
            dtypes.append(None)
        else:
            places |= tensor.data_ptr()
            dtypes.append(tensor.dtype)
    key = (id(kernel), constants, *dtypes, device)
    found = _compiled.get(key) if places % _ALIGNED == 0 else None
    grid = (programs, 1, 1)
    with _on(device):
        if found is not None:
            found[grid](*tensors, *numbers, *constants)
            return
        found = kernel[grid](*tensors, *numbers, *constants, num_warps=_WARPS)
    if places % _ALIGNED == 0 and found is not None and max(numbers) < 2**31:  # the interpreter compiles nothing
        _compiled[key] = found


def _tile(rows: int, width: int, elements: int) -> tuple[int, int]:
    """Rows and columns of a tile, powers of two. Smaller tiles where there is little to do, so that all of a device
    does it; columns that the width is a multiple of, if they are not too few."""
    elements = min(elements, max(_SMALLEST_TILE, _power_of_two(rows * width // _PROGRAMS)))
    columns = min(_MOST_COLUMNS, elements, width & -width)
    if columns < _FEWEST_COLUMNS:
        columns = min(_MOST_COLUMNS, elements, _power_of_two(width))
    return min(max(1, elements // columns), _power_of_two(rows)), columns


def _power_of_two(number: int) -> int:
    """The smallest that is not below `number`."""
    return 1 << max(0, number - 1).bit_length()


def _rows(tensor: Tensor) -> tuple[Tensor, int]:
    """tensor [..., C] seen as [rows, C] whose channels lie side by side, without a copy where its layout allows it, and
    the distance of its rows."""
    width = tensor.shape[-1]
    if tensor.is_contiguous():
        return tensor, width
    rows = tensor.reshape(-1, width)
    rows = rows if rows.stride(1) == 1 or width == 1 else rows.contiguous()
    return rows, rows.stride(0)


def _contiguous(parameter: Tensor | None) -> Tensor | None:
    return None if parameter is None else parameter.contiguous()


def _on(device: torch.device) -> AbstractContextManager[object]:
    """Triton launches on the current device, which need not be the tensors'."""
    if device.type != "cuda" or torch.cuda.current_device() == device.index:
        return nullcontext()
    return torch.cuda.device(device)
