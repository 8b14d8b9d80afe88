"""Runs the Triton kernels: the same functions as `formula`, for contiguous or row-strided tensors of one device.

Parameters are contiguous. Sizes of grids and buffers follow from shapes alone, and nothing waits for the device, so a
CUDA graph can capture all of it.
"""

from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from unnorm.norms.kernels.device_code import backward_kernel, finish_kernel, forward_kernel
from unnorm.norms.kernels.device_fusion import norm_add_kernel, pair_kernel
from unnorm.norms.kernels.formula import Gradients, Parts

_FORWARD_TILE, _FORWARD_COLUMNS = 2048, 256
_BACKWARD_TILE, _NARROW_BACKWARD_TILE, _BACKWARD_COLUMNS = 4096, 1024, 1024
_SMALLEST_TILE, _FEWEST_COLUMNS = 1024, 128
"""Elements of a tile, and the most and the fewest in a row of it. On an H200 these came nearest to a copy's speed, of
some hundred combinations with numbers of programs and of warps."""
_PROGRAMS, _BACKWARD_PROGRAMS = 528, 264
"""As many as keep a large GPU busy: before a tile is larger than the smallest; and in the backward pass, where each
leaves sums behind, altogether."""
_WARPS, _NARROW_BACKWARD_WARPS = 4, 8
_IN_FLIGHT, _MOST_STAGES = 2**16, 4
"""Bytes that a program of the backward pass has asked memory for beforehand, at most; and tiles."""
_FINISH_COLUMNS = 32
_ALIGNED = 16
"""Bytes that every pointer is a multiple of, for the widest loads."""
_MOST_KNOWN = 10_000
_NO_PARTS = (None, None, None, None)
_SHORT_WAY = ("3.6", "3.7")
"""Releases of Triton that start a compiled kernel as `_run` does past its launcher, which is no public interface."""


class _Known(NamedTuple):
    """A compiled kernel, as Triton runs it."""

    run: Callable[..., Any]
    function: Any
    metadata: Any


_known: dict[tuple[Any, ...], _Known] = {}


def norms(
    x: Tensor, second: Tensor | None, third: Tensor | None, parts: Parts, other: Parts | None, curve: str
) -> tuple[Tensor, Tensor, Tensor | None]:
    """As `formula.norms`: h = x + second + third, its norm, and another norm of it where there is one. x, second and
    third [..., C], fp32, bf16 or fp16; what comes out is contiguous."""
    y = _like(x)
    h = x if second is None else torch.empty_like(y)
    other_y = None if other is None else torch.empty_like(y)
    if not y.numel():
        return h, y, other_y
    x, x_stride = _rows(x)
    second, second_stride = (None, 0) if second is None else _rows(second)
    third, third_stride = (None, 0) if third is None else _rows(third)
    width = y.shape[-1]
    rows = y.numel() // width
    programs, tall, wide = _forward_tiles(rows, width)
    per_channel, other_per_channel = parts[0].numel() > 1, other is not None and other[0].numel() > 1
    strides = (x_stride, second_stride, third_stride)
    numbers = (rows, *strides, width, tall, wide, curve == "erf", per_channel, other_per_channel)
    tensors = (x, second, third, h, *parts, y, *(other or _NO_PARTS), other_y)
    _run(forward_kernel, programs, _WARPS, tensors, numbers)
    return h, y, other_y


def norm_add(x: Tensor, second: Tensor, inner: Parts, parts: Parts | None, curve: str) -> tuple[Tensor, Tensor | None]:
    """As `formula.norm_add`: h = second + the norm `inner` of x, and a norm of h where there is one."""
    h = _like(x)
    y = None if parts is None else torch.empty_like(h)
    if not h.numel():
        return h, y
    x, x_stride = _rows(x)
    second, second_stride = _rows(second)
    width = h.shape[-1]
    rows = h.numel() // width
    programs, tall, wide = _forward_tiles(rows, width)
    per_channel = parts is not None and parts[0].numel() > 1
    numbers = (rows, x_stride, second_stride, width, tall, wide, curve == "erf", inner[0].numel() > 1, per_channel)
    _run(norm_add_kernel, programs, _WARPS, (x, second, h, *inner, *(parts or _NO_PARTS), y), numbers)
    return h, y


def pair(x: Tensor, parts: Parts, other_x: Tensor, other: Parts, curve: str) -> tuple[Tensor, Tensor]:
    """As `formula.pair`: the norms of two tensors of any shapes and one dtype."""
    y, other_y = _like(x), _like(other_x)
    if not y.numel() or not other_y.numel():
        return norms(x, None, None, parts, None, curve)[1], norms(other_x, None, None, other, None, curve)[1]
    x, stride = _rows(x)
    other_x, other_stride = _rows(other_x)
    width, other_width = y.shape[-1], other_y.shape[-1]
    rows, other_rows = y.numel() // width, other_y.numel() // other_width
    programs, tall, wide = _forward_tiles(rows, width)
    more, other_tall, other_wide = _forward_tiles(other_rows, other_width)
    sizes = (stride, other_stride, width, other_width, tall, wide, other_tall, other_wide)
    numbers = (rows, other_rows, programs, *sizes, curve == "erf", parts[0].numel() > 1, other[0].numel() > 1)
    _run(pair_kernel, programs + more, _WARPS, (x, *parts, y, other_x, *other, other_y), numbers)
    return y, other_y


@lru_cache(_MOST_KNOWN)
def _forward_tiles(rows: int, width: int) -> tuple[int, int, int]:
    """Programs, one a tile; rows and columns of a tile."""
    elements = min(_FORWARD_TILE, max(_SMALLEST_TILE, _power_of_two(rows * width // _PROGRAMS)))
    wide = _columns(width, _FORWARD_COLUMNS)
    tall = min(elements // wide, _power_of_two(rows))
    return -(-rows // tall) * -(-width // wide), tall, wide


def backward(dy: Tensor, dh: Tensor | None, h: Tensor, parts: Parts, curve: str, parameters: bool) -> Gradients:
    """As `formula.backward`. The gradients of the parameters are the same bits in every run."""
    dx = _like(h)
    elements, width = dx.numel(), dx.shape[-1]
    alpha, shift, weight, bias = parts
    wanted = parts if parameters else _NO_PARTS
    if elements == 0:
        return dx, *(h.new_empty(0) if p is None else torch.zeros_like(p) for p in wanted)  # type: ignore[return-value]
    h, h_stride = _rows(h)
    dy, dy_stride = _rows(dy)
    dh, dh_stride = (None, 0) if dh is None else _rows(dh)
    per_channel = alpha.numel() > 1
    rows = elements // width
    tall, wide, tiles, groups = _backward_tiles(rows, width)
    programs = groups * -(-width // wide)
    sums = torch.empty(4 * groups * width, dtype=torch.float32, device=dx.device) if parameters else None
    in_flight = tall * wide * dx.element_size() * (2 if dh is None else 3)
    stages = max(1, min(_MOST_STAGES, _IN_FLIGHT // in_flight))
    warps = _WARPS if wide == _BACKWARD_COLUMNS else _NARROW_BACKWARD_WARPS
    sizes = (rows, tiles, groups, dy_stride, dh_stride, h_stride, width, tall, wide)
    numbers = (*sizes, curve == "erf", per_channel, bias is not None, stages)
    _run(backward_kernel, programs, warps, (dy, dh, h, alpha, shift, weight, dx, sums), numbers)
    if sums is None:
        return dx, *(dx.new_empty(0) for _ in wanted)  # type: ignore[return-value]
    found = [None if p is None else torch.empty_like(p) for p in wanted]
    powers = _power_of_two(groups), _power_of_two(programs)
    last = (groups, programs, width, _FINISH_COLUMNS, *powers, per_channel)
    _run(finish_kernel, -(-width // _FINISH_COLUMNS), _WARPS, (sums, *found), last)
    return dx, *(dx.new_empty(0) if p is None else p for p in found)  # type: ignore[return-value]


@lru_cache(_MOST_KNOWN)
def _backward_tiles(rows: int, width: int) -> tuple[int, int, int, int]:
    """Rows and columns of a tile, and how many of them make a group; groups."""
    wide = _columns(width, _BACKWARD_COLUMNS)
    elements = _BACKWARD_TILE if wide == _BACKWARD_COLUMNS else _NARROW_BACKWARD_TILE
    tall = min(elements // wide, _power_of_two(rows))
    tiles = -(-rows // (tall * max(1, _BACKWARD_PROGRAMS // -(-width // wide))))
    return tall, wide, tiles, -(-rows // (tall * tiles))


def _run(kernel: Any, programs: int, warps: int, tensors: tuple[Tensor | None, ...], numbers: tuple[int, ...]) -> None:
    """Launch `programs` of `kernel`, of `warps` warps each. numbers: its arguments that are no tensors.

    Triton looks at every argument of a launch, which takes longer than the rest of it, and small models wait for
    launches. So a kernel that was compiled for such arguments is called directly, with addresses, where Triton is of a
    release that is known to take it so; another release launches every time.
    """
    device = tensors[0].get_device()  # type: ignore[union-attr]
    places = [None if t is None else t.data_ptr() for t in tensors]
    key = (kernel.__name__, warps, numbers, device, *[None if t is None else t.dtype for t in tensors])
    misaligned = 0
    for place in places:
        if place:
            misaligned |= place
    known = _known.get(key)
    if known is not None and not misaligned % _ALIGNED and torch._C._cuda_getDevice() == device:
        run, function, metadata = known
        stream = torch._C._cuda_getCurrentRawStream(device)
        run(programs, 1, 1, stream, function, metadata, None, None, None, *places, *numbers)
        return
    with torch.cuda.device(device) if device >= 0 else nullcontext():
        compiled = kernel[(programs, 1, 1)](*tensors, *numbers, num_warps=warps)
    if compiled is not None and not misaligned % _ALIGNED and _takes_short_way():  # the interpreter compiles nothing
        if len(_known) >= _MOST_KNOWN:
            _known.clear()
        _known[key] = _Known(compiled.run, compiled.function, compiled.packed_metadata)


def _takes_short_way() -> bool:
    """Whether this release of Triton is one whose way to start a kernel is known."""
    return ".".join(triton.__version__.split(".")[:2]) in _SHORT_WAY


def _columns(width: int, most: int) -> int:
    """Of a tile: a power of two that `width` is a multiple of, unless that were too few."""
    wide = min(most, width & -width)
    return wide if wide >= _FEWEST_COLUMNS else min(most, _power_of_two(width))


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
