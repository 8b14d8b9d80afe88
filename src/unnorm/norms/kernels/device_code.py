"""The Triton kernels. Each computes what `formula` does, in fp32, on a tile [ROWS, COLS] of h [rows, WIDTH].

The parameters' gradients are summed in two stages without atomics. Offsets are 64-bit: a tensor may hold more than 2³¹
elements. What a model fixes (widths, strides between rows, tiles) is compiled in; the number of rows is not. Importing
this imports Triton, so only `launch` does.
"""

import triton
import triton.language as tl


@triton.jit
def _decay(u):
    """(e, q) = (exp(−2|u|), 1 / (1 + e)): neither overflows. The square of a root is two instructions, a division six."""
    e = tl.exp2(-2.8853900817779268 * tl.abs(u))
    root = tl.rsqrt(1.0 + e)
    return e, root * root


@triton.jit
def _tanh(u, e, q, EXACT: tl.constexpr):
    """tanh(u) = ±(1 − 2 e q); near 0, where that cancels, by a polynomial (EXACT: S. Moshier's Cephes, tanhf.c), so
    that it is right to a few units in the last place of fp32 (EXACT) or to 4e-6."""
    far = 1.0 - 2.0 * (e * q)
    square = u * u
    if EXACT:
        series = -5.70498872745e-3
        series = series * square + 2.06390887954e-2
        series = series * square - 5.37397155531e-2
        series = series * square + 1.33314422036e-1
        series = series * square - 3.33332819422e-1
        near = tl.abs(u) < 0.625
    else:
        series = -0.333333333
        near = tl.abs(u) < 0.05
    return tl.where(near, series * square * u + u, tl.where(u < 0, -far, far))


@triton.jit(do_not_specialize=["rows"])
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
    X_STRIDE: tl.constexpr,
    RESIDUAL_STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ERF: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
):
    """One tile. h and y are contiguous; a pointer is None where the norm has no such part."""
    column_blocks: tl.constexpr = (WIDTH + COLS - 1) // COLS
    c = (tl.program_id(0) % column_blocks) * COLS + tl.arange(0, COLS)
    r = (tl.program_id(0) // column_blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = c < WIDTH
    mask = (r < rows)[:, None] & inside[None, :]
    h = tl.load(x_ptr + r[:, None] * X_STRIDE + c[None, :], mask=mask, other=0.0)
    place = r[:, None] * WIDTH + c[None, :]
    if residual_ptr is not None:
        residual = tl.load(residual_ptr + r[:, None] * RESIDUAL_STRIDE + c[None, :], mask=mask, other=0.0)
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
        e, q = _decay(u)
        y = _tanh(u, e, q, y_ptr.dtype.element_ty == tl.float32)
    if weight_ptr is not None:
        y *= tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "tiles"])
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
    tiles,
    DY_STRIDE: tl.constexpr,
    DH_STRIDE: tl.constexpr,
    H_STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ERF: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
):
    """`tiles` tiles below one another: their dx, and their sums for the parameters.

    Sums a channel lie as [groups, WIDTH], a group being such a column of tiles; those of one number as [programs].
    """
    column_blocks: tl.constexpr = (WIDTH + COLS - 1) // COLS
    group = tl.program_id(0) // column_blocks
    c = (tl.program_id(0) % column_blocks) * COLS + tl.arange(0, COLS)
    inside = c < WIDTH
    alpha_sum = tl.zeros([ROWS, COLS], dtype=tl.float32)
    shift_sum = tl.zeros([ROWS, COLS], dtype=tl.float32)
    weight_sum = tl.zeros([ROWS, COLS], dtype=tl.float32)
    bias_sum = tl.zeros([ROWS, COLS], dtype=tl.float32)
    if ALPHA_PER_CHANNEL:
        alpha = tl.load(alpha_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    else:
        alpha = tl.load(alpha_ptr).to(tl.float32)
    # what a channel's slope is multiplied by: γ, and the 4 or 2/√π that all slopes have in common
    if ERF:
        scale = 1.1283791670955126
    else:
        scale = 4.0
    if weight_ptr is not None:
        scale = scale * tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    dx_scale = scale * alpha
    for tile in range(0, tiles):
        r = (group.to(tl.int64) * tiles + tile) * ROWS + tl.arange(0, ROWS)
        mask = (r < rows)[:, None] & inside[None, :]
        h = tl.load(h_ptr + r[:, None] * H_STRIDE + c[None, :], mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + r[:, None] * DY_STRIDE + c[None, :], mask=mask, other=0.0).to(tl.float32)
        u = h * alpha
        if shift_ptr is not None:
            u += tl.load(shift_ptr).to(tl.float32)
        if ERF:
            slope = dy * tl.exp(-u * u)
            if weight_sums_ptr is not None:
                weight_sum += dy * tl.erf(u)
        else:
            e, q = _decay(u)
            slope = dy * (e * q) * q  # 1 − tanh² = 4 e q², without the cancellation where tanh is near 1
            if weight_sums_ptr is not None:
                weight_sum += dy * _tanh(u, e, q, dx_ptr.dtype.element_ty == tl.float32)
        if bias_sums_ptr is not None:
            bias_sum += dy
        if alpha_sums_ptr is not None:
            alpha_sum += slope * h
        if shift_sums_ptr is not None:
            shift_sum += slope
        dx = slope * dx_scale
        if dh_ptr is not None:
            dx += tl.load(dh_ptr + r[:, None] * DH_STRIDE + c[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(dx_ptr + r[:, None] * WIDTH + c[None, :], dx.to(dx_ptr.dtype.element_ty), mask=mask)
    place = group * WIDTH + c
    if weight_sums_ptr is not None:
        tl.store(weight_sums_ptr + place, tl.sum(weight_sum, axis=0), mask=inside)
    if bias_sums_ptr is not None:
        tl.store(bias_sums_ptr + place, tl.sum(bias_sum, axis=0), mask=inside)
    if alpha_sums_ptr is not None:
        if ALPHA_PER_CHANNEL:
            tl.store(alpha_sums_ptr + place, tl.sum(alpha_sum * scale, axis=0), mask=inside)
        else:
            tl.store(alpha_sums_ptr + tl.program_id(0), tl.sum(alpha_sum * scale))
    if shift_sums_ptr is not None:
        tl.store(shift_sums_ptr + tl.program_id(0), tl.sum(shift_sum * scale))


@triton.jit
def _column_sums(sums_ptr, out_ptr, groups, c, WIDTH: tl.constexpr, GROUPS: tl.constexpr):
    g = tl.arange(0, GROUPS)
    mask = (g < groups)[:, None] & (c < WIDTH)[None, :]
    sums = tl.load(sums_ptr + g[:, None] * WIDTH + c[None, :], mask=mask, other=0.0)
    tl.store(out_ptr + c, tl.sum(sums, axis=0).to(out_ptr.dtype.element_ty), mask=c < WIDTH)


@triton.jit
def _whole_sum(sums_ptr, out_ptr, programs, PROGRAMS: tl.constexpr):
    p = tl.arange(0, PROGRAMS)
    sums = tl.load(sums_ptr + p, mask=p < programs, other=0.0)
    tl.store(out_ptr, tl.sum(sums).to(out_ptr.dtype.element_ty))


@triton.jit(do_not_specialize=["groups", "programs"])
def finish_kernel(
    alpha_sums_ptr,
    shift_sums_ptr,
    weight_sums_ptr,
    bias_sums_ptr,
    alpha_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    groups,
    programs,
    WIDTH: tl.constexpr,
    COLS: tl.constexpr,
    GROUPS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
):
    """The gradients of α, s, γ, β from `backward_kernel`'s sums: a block of channels a program, the first one also what
    is one number. GROUPS and PROGRAMS: powers of two that hold `groups` and `programs`."""
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    if weight_sums_ptr is not None:
        _column_sums(weight_sums_ptr, weight_ptr, groups, c, WIDTH, GROUPS)
    if bias_sums_ptr is not None:
        _column_sums(bias_sums_ptr, bias_ptr, groups, c, WIDTH, GROUPS)
    if alpha_sums_ptr is not None:
        if ALPHA_PER_CHANNEL:
            _column_sums(alpha_sums_ptr, alpha_ptr, groups, c, WIDTH, GROUPS)
        elif tl.program_id(0) == 0:
            _whole_sum(alpha_sums_ptr, alpha_ptr, programs, PROGRAMS)
    if shift_sums_ptr is not None:
        if tl.program_id(0) == 0:
            _whole_sum(shift_sums_ptr, shift_ptr, programs, PROGRAMS)
