"""Runs the Triton kernels: the same functions as `formula`, for contiguous or row-strided tensors of one device.

Parameters are contiguous. Sizes of grids and buffers follow from shapes alone, and nothing waits for the device, so a
CUDA graph can capture all of it.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unnorm.norms.kernels.device_code import backward_kernel, finish_kernel, forward_kernel
from unnorm.norms.kernels.formula import Gradients, Parts

_FORWARD_TILE, _FORWARD_COLUMNS = 2048, 256
_BACKWARD_TILE, _BACKWARD_COLUMNS = 2048, 1024
_SMALLEST_TILE, _FEWEST_COLUMNS = 1024, 128
"""Elements of a tile, and of a row of it. On an H200 these came nearest to a copy's speed."""
_PROGRAMS = 528
"""Four for each processor of a large GPU: in the backward pass, and before a tile is larger than the smallest."""
_STAGES = 3
_FINISH_COLUMNS = 32
_WARPS = 4
_ALIGNED = 16
"""Bytes that every pointer is a multiple of, for the widest loads."""
_MOST_KNOWN = 10_000
_NO_PARTS = (None, None, None, None)


class _Known(NamedTuple):
    """A compiled kernel, and what it is run with for inputs of some shape."""

    run: Callable[..., Any]
    function: Any
    metadata: Any
    programs: int
    numbers: tuple[Any, ...]


_known: dict[tuple[Any, ...], _Known] = {}


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
    h, y, _ = norms(x, residual, None, (alpha, shift, weight, bias), None, curve)
    return h, y


def norms(
    x: Tensor, second: Tensor | None, third: Tensor | None, parts: Parts, other: Parts | None, curve: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `formula.norms`: h = x + second + third, its norm, and another norm of it where there is one."""
    y = _like(x)
    h = x if second is None else torch.empty_like(y)
    other_y = None if other is None else torch.empty_like(y)
    elements, width = y.numel(), y.shape[-1]
    if elements == 0:
        return h, y, other_y
    x, x_stride = _rows(x)
    second, second_stride = (None, 0) if second is None else _rows(second)
    third, third_stride = (None, 0) if third is None else _rows(third)
    per_channel = parts[0].numel() > 1
    other_per_channel = other is not None and other[0].numel() > 1

    def how() -> tuple[int, tuple[Any, ...]]:
        rows = elements // width
        tall, wide = _tile(rows, width, _FORWARD_TILE, _FORWARD_COLUMNS)
        strides = x_stride, second_stride, third_stride
        return -(-rows // tall) * -(-width // wide), (
            *(rows, *strides, width, tall, wide, curve == "erf", per_channel, other_per_channel),
        )

    _run(
        forward_kernel,
        ("forward", elements, width, x_stride, second_stride, third_stride, curve, per_channel, other_per_channel),
        (x, second, third, h, *parts, y, *(other or _NO_PARTS), other_y),
        how,
    )
    return h, y, other_y


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
    dx = _like(h)
    elements, width = dx.numel(), dx.shape[-1]
    wanted = (alpha, shift, weight, bias) if parameters else _NO_PARTS
    if elements == 0:
        return dx, *(h.new_empty(0) if p is None else torch.zeros_like(p) for p in wanted)  # type: ignore[return-value]
    h, h_stride = _rows(h)
    dy, dy_stride = _rows(dy)
    dh, dh_stride = (None, 0) if dh is None else _rows(dh)
    rows, per_channel, has_bias = elements // width, alpha.numel() > 1, bias is not None
    tall, wide = _tile(rows, width, _BACKWARD_TILE, _BACKWARD_COLUMNS)
    column_blocks = -(-width // wide)
    tiles = -(-rows // (tall * max(1, _PROGRAMS // column_blocks)))
    groups = -(-rows // (tall * tiles))
    programs = groups * column_blocks
    sums = dx.new_empty(4 * groups * width, dtype=torch.float32) if parameters else None
    strides = dy_stride, dh_stride, h_stride
    _run(
        backward_kernel,
        ("backward", elements, width, *strides, curve, per_channel, has_bias),
        (dy, dh, h, alpha, shift, weight, dx, sums),
        lambda: (
            programs,
            (rows, tiles, groups, *strides, width, tall, wide, curve == "erf", per_channel, has_bias, _STAGES),
        ),
    )
    if not parameters:
        return dx, *(dx.new_empty(0) for _ in wanted)  # type: ignore[return-value]
    found = [None if p is None else torch.empty_like(p) for p in wanted]
    _run(
        finish_kernel,
        ("finish", groups, width, programs, per_channel),
        (sums, *found),
        lambda: (
            -(-width // _FINISH_COLUMNS),
            (groups, programs, width, _FINISH_COLUMNS, _power_of_two(groups), _power_of_two(programs), per_channel),
        ),
    )
    return dx, *(dx.new_empty(0) if p is None else p for p in found)  # type: ignore[return-value]


def _run(
    kernel: Any,
    case: tuple[Any, ...],
    tensors: tuple[Tensor | None, ...],
    how: Callable[[], tuple[int, tuple[Any, ...]]],
) -> None:
    """Launch `kernel` on `tensors`. `how` gives the number of programs, and the arguments that are no tensors; both
    follow from `case`.

    Triton looks at every argument of a launch, which takes longer than the rest of it, and small models wait for
    launches. So a kernel that was compiled for a case is called directly, with addresses.
    """
    device = tensors[0].device.index  # type: ignore[union-attr]
    places = [None if t is None else t.data_ptr() for t in tensors]
    misaligned = 0
    for place in places:
        if place:
            misaligned |= place
    key = (device, case, *[None if t is None else t.dtype for t in tensors])
    known = _known.get(key)
    if known is not None and not misaligned % _ALIGNED and torch._C._cuda_getDevice() == device:
        stream = torch._C._cuda_getCurrentRawStream(device)
        run, function, metadata, programs, numbers = known
        run(programs, 1, 1, stream, function, metadata, None, None, None, *places, *numbers)
        return
    programs, numbers = how()
    with torch.cuda.device(device) if device is not None else nullcontext():
        compiled = kernel[(programs, 1, 1)](*tensors, *numbers, num_warps=_WARPS)
    if compiled is not None and not misaligned % _ALIGNED:  # the interpreter compiles nothing
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = _Known(compiled.run, compiled.function, compiled.packed_metadata, programs, numbers)


def _tile(rows: int, width: int, elements: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a tile, powers of two. Smaller tiles where there is little to do, so that all of a device
    does it; columns that the width is a multiple of, unless they were too few."""
    elements = min(elements, max(_SMALLEST_TILE, _power_of_two(rows * width // _PROGRAMS)))
    most = min(columns, elements)
    wide = min(most, width & -width)
    if wide < _FEWEST_COLUMNS:
        wide = min(most, _power_of_two(width))
    return min(elements // wide, _power_of_two(rows)), wide


def _power_of_two(number: int) -> int:
    """The smallest that is not below `number`."""
    return 1 << max(0, number - 1).bit_length()


def _like(x: Tensor) -> Tensor:
    """A new tensor of x's shape, contiguous."""
    return torch.empty_like(x) if x.is_contiguous() else torch.empty(x.shape, dtype=x.dtype, device=x.device)


def _rows(tensor: Tensor) -> tuple[Tensor, int]:
    """tensor [..., C] as rows whose channels lie side by side, without a copy where its layout allows it, and how far
    each row is from the next."""
    width = tensor.shape[-1]
    if tensor.is_contiguous():
        return tensor, width
    rows = tensor.reshape(-1, width)
    rows = rows if rows.stride(1) == 1 or width == 1 else rows.contiguous()
    return rows, rows.stride(0)
