"""The Triton kernels. Each computes what `formula` does, in fp32, on a tile [ROWS, COLS] of h [rows, width].

Offsets are 64-bit: a tensor may hold more than 2³¹ elements. Importing this imports Triton, so only `launch` does.
"""

import triton
import triton.language as tl


@triton.jit
def _tanh(u):
    """tanh(u) to a few units in the last place. By exp of a negative number, which cannot overflow; near 0, where that
    would cancel, by a polynomial (S. Moshier's Cephes, tanhf.c)."""
    size = tl.abs(u)
    e = tl.exp(-2.0 * size)
    far = 1.0 - 2.0 * e / (1.0 + e)
    square = u * u
    series = -5.70498872745e-3
    series = series * square + 2.06390887954e-2
    series = series * square - 5.37397155531e-2
    series = series * square + 1.33314422036e-1
    series = series * square - 3.33332819422e-1
    return tl.where(size < 0.625, series * square * u + u, tl.where(u < 0, -far, far))


@triton.jit
def _tanh_slope(u):
    """1 − tanh(u)², without the cancellation where tanh is near 1."""
    e = tl.exp(-2.0 * tl.abs(u))
    return 4.0 * e / ((1.0 + e) * (1.0 + e))


@triton.jit
def _erf_slope(u):
    return 1.1283791670955126 * tl.exp(-u * u)


@triton.jit
def forward_kernel(
    x_ptr,
    residual_ptr,
    alpha_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    h_ptr,
    y_ptr,
    rows,
    width,
    x_stride,
    residual_stride,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ERF: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
):
    """One tile. h and y are contiguous; a pointer is None where the norm has no such part."""
    column_blocks = tl.cdiv(width, COLS)
    c = (tl.program_id(0) % column_blocks) * COLS + tl.arange(0, COLS)
    r = (tl.program_id(0) // column_blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = c < width
    mask = (r < rows)[:, None] & inside[None, :]
    h = tl.load(x_ptr + r[:, None] * x_stride + c[None, :], mask=mask, other=0.0)
    place = r[:, None] * width + c[None, :]
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + r[:, None] * residual_stride + c[None, :], mask=mask, other=0.0)
        h = (h.to(tl.float32) + residual.to(tl.float32)).to(h_ptr.dtype.element_ty)
        tl.store(h_ptr + place, h, mask=mask)
    if ALPHA_PER_CHANNEL:
        u = h.to(tl.float32) * tl.load(alpha_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    else:
        u = h.to(tl.float32) * tl.load(alpha_ptr).to(tl.float32)
    if shift_ptr is not None:
        u += tl.load(shift_ptr).to(tl.float32)
    if ERF:
        y = tl.erf(u)
    else:
        y = _tanh(u)
    if weight_ptr is not None:
        y *= tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def backward_kernel(
    dy_ptr,
    dh_ptr,
    h_ptr,
    alpha_ptr,
    shift_ptr,
    weight_ptr,
    dx_ptr,
    alpha_sums_ptr,
    shift_sums_ptr,
    weight_sums_ptr,
    bias_sums_ptr,
    rows,
    width,
    tiles,
    dy_stride,
    dh_stride,
    h_stride,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ERF: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
):
    """`tiles` tiles below one another: their dx, and their sums for the parameters.

    Sums a channel lie as [groups, width], a group being such a column of tiles; those of one number as [programs]. What
    is left is one sum over the first dimension, in an order that does not depend on which program ends first.
    """
    column_blocks = tl.cdiv(width, COLS)
    group = tl.program_id(0) // column_blocks
    c = (tl.program_id(0) % column_blocks) * COLS + tl.arange(0, COLS)
    inside = c < width
    alpha_sum = tl.zeros([COLS], dtype=tl.float32)
    shift_sum = tl.zeros([COLS], dtype=tl.float32)
    weight_sum = tl.zeros([COLS], dtype=tl.float32)
    bias_sum = tl.zeros([COLS], dtype=tl.float32)
    if ALPHA_PER_CHANNEL:
        alpha = tl.load(alpha_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    else:
        alpha = tl.load(alpha_ptr).to(tl.float32)
    for tile in range(0, tiles):
        r = (group.to(tl.int64) * tiles + tile) * ROWS + tl.arange(0, ROWS)
        mask = (r < rows)[:, None] & inside[None, :]
        h = tl.load(h_ptr + r[:, None] * h_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + r[:, None] * dy_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
        u = h * alpha
        if shift_ptr is not None:
            u += tl.load(shift_ptr).to(tl.float32)
        if ERF:
            du = dy * _erf_slope(u)
        else:
            du = dy * _tanh_slope(u)
        if weight_ptr is not None:
            du *= tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
        if weight_sums_ptr is not None:
            if ERF:
                weight_sum += tl.sum(dy * tl.erf(u), axis=0)
            else:
                weight_sum += tl.sum(dy * _tanh(u), axis=0)
        if bias_sums_ptr is not None:
            bias_sum += tl.sum(dy, axis=0)
        if alpha_sums_ptr is not None:
            alpha_sum += tl.sum(du * h, axis=0)
        if shift_sums_ptr is not None:
            shift_sum += tl.sum(du, axis=0)
        dx = du * alpha
        if dh_ptr is not None:
            dx += tl.load(dh_ptr + r[:, None] * dh_stride + c[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(dx_ptr + r[:, None] * width + c[None, :], dx.to(dx_ptr.dtype.element_ty), mask=mask)
    place = group * width + c
    if weight_sums_ptr is not None:
        tl.store(weight_sums_ptr + place, weight_sum, mask=inside)
    if bias_sums_ptr is not None:
        tl.store(bias_sums_ptr + place, bias_sum, mask=inside)
    if alpha_sums_ptr is not None:
        if ALPHA_PER_CHANNEL:
            tl.store(alpha_sums_ptr + place, alpha_sum, mask=inside)
        else:
            tl.store(alpha_sums_ptr + tl.program_id(0), tl.sum(alpha_sum, axis=0))
    if shift_sums_ptr is not None:
        tl.store(shift_sums_ptr + tl.program_id(0), tl.sum(shift_sum, axis=0))
