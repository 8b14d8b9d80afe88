"""The Triton kernels. Each computes what `formula` does, in fp32, on a tile [ROWS, COLS] of h [rows, WIDTH].

The parameters' gradients are summed in two stages without atomics. Offsets are 64-bit: a tensor may hold more than 2³¹
elements. What a model fixes (widths, strides between rows, tiles) is compiled in; the number of rows is not. Importing
this imports Triton, so only `launch` does.
"""

import triton
import triton.language as tl


@triton.jit
def _decay(u):
    """(e, q) = (exp(−2|u|), 1 / (1 + e)): neither overflows. A root squared is two instructions, a division is six."""
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


@triton.jit
def norm_of(
    h,
    alpha_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    c,
    inside,
    ERF: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
    EXACT: tl.constexpr,
):
    """γ φ(α h + s) + β in fp32, of h in fp32 at the columns c."""
    if ALPHA_PER_CHANNEL:
        u = h * tl.load(alpha_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    else:
        u = h * tl.load(alpha_ptr).to(tl.float32)
    if shift_ptr is not None:
        u += tl.load(shift_ptr).to(tl.float32)
    if ERF:
        y = tl.erf(u)
    else:
        e, q = _decay(u)
        y = _tanh(u, e, q, EXACT)
    if weight_ptr is not None:
        y *= tl.load(weight_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    if bias_ptr is not None:
        y += tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)[None, :]
    return y


@triton.jit(do_not_specialize=["rows"])
def forward_kernel(
    x_ptr,
    second_ptr,
    third_ptr,
    h_ptr,
    alpha_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    other_alpha_ptr,
    other_shift_ptr,
    other_weight_ptr,
    other_bias_ptr,
    other_y_ptr,
    rows,
    X_STRIDE: tl.constexpr,
    SECOND_STRIDE: tl.constexpr,
    THIRD_STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ERF: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
    OTHER_ALPHA_PER_CHANNEL: tl.constexpr,
):
    """One tile of h = x + second + third, rounded after each sum as PyTorch does, and of one or two norms of it. h and
    the norms' outputs are contiguous; a pointer is None for what there is not."""
    column_blocks: tl.constexpr = (WIDTH + COLS - 1) // COLS
    c = (tl.program_id(0) % column_blocks) * COLS + tl.arange(0, COLS)
    r = (tl.program_id(0) // column_blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = c < WIDTH
    mask = (r < rows)[:, None] & inside[None, :]
    h = tl.load(x_ptr + r[:, None] * X_STRIDE + c[None, :], mask=mask, other=0.0)
    place = r[:, None] * WIDTH + c[None, :]
    if second_ptr is not None:
        second = tl.load(second_ptr + r[:, None] * SECOND_STRIDE + c[None, :], mask=mask, other=0.0)
        h = (h.to(tl.float32) + second.to(tl.float32)).to(h_ptr.dtype.element_ty)
        if third_ptr is not None:
            third = tl.load(third_ptr + r[:, None] * THIRD_STRIDE + c[None, :], mask=mask, other=0.0)
            h = (h.to(tl.float32) + third.to(tl.float32)).to(h_ptr.dtype.element_ty)
        tl.store(h_ptr + place, h, mask=mask)
    h = h.to(tl.float32)
    exact: tl.constexpr = y_ptr.dtype.element_ty == tl.float32
    y = norm_of(h, alpha_ptr, shift_ptr, weight_ptr, bias_ptr, c, inside, ERF, ALPHA_PER_CHANNEL, exact)
    tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=mask)
    if other_y_ptr is not None:
        y = norm_of(
            h,
            other_alpha_ptr,
            other_shift_ptr,
            other_weight_ptr,
            other_bias_ptr,
            c,
            inside,
            ERF,
            OTHER_ALPHA_PER_CHANNEL,
            exact,
        )
        tl.store(other_y_ptr + place, y.to(other_y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "tiles", "groups"])
def backward_kernel(
    dy_ptr,
    dh_ptr,
    h_ptr,
    alpha_ptr,
    shift_ptr,
    weight_ptr,
    dx_ptr,
    sums_ptr,
    rows,
    tiles,
    groups,
    DY_STRIDE: tl.constexpr,
    DH_STRIDE: tl.constexpr,
    H_STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ERF: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    STAGES: tl.constexpr,
):
    """`tiles` tiles below one another, a group: their dx, and their sums for the parameters where those are asked for.

    STAGES: how many tiles are on their way from memory at once. Sums: [4, groups, WIDTH], those of γ, β, α and s; of
    what is one number, one a program.
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
    for tile in tl.range(0, tiles, num_stages=STAGES):
        r = (group.to(tl.int64) * tiles + tile) * ROWS + tl.arange(0, ROWS)
        mask = (r < rows)[:, None] & inside[None, :]
        h = tl.load(h_ptr + r[:, None] * H_STRIDE + c[None, :], mask=mask, other=0.0).to(tl.float32)
        dy = tl.load(dy_ptr + r[:, None] * DY_STRIDE + c[None, :], mask=mask, other=0.0).to(tl.float32)
        u = h * alpha
        if shift_ptr is not None:
            u += tl.load(shift_ptr).to(tl.float32)
        if ERF:
            slope = dy * tl.exp(-u * u)
            if sums_ptr is not None:
                if weight_ptr is not None:
                    weight_sum += dy * tl.erf(u)
        else:
            e, q = _decay(u)
            slope = dy * (e * q) * q  # 1 − tanh² = 4 e q², without the cancellation where tanh is near 1
            if sums_ptr is not None:
                if weight_ptr is not None:
                    weight_sum += dy * _tanh(u, e, q, dx_ptr.dtype.element_ty == tl.float32)
        if sums_ptr is not None:
            if HAS_BIAS:
                bias_sum += dy
            alpha_sum += slope * h
            if shift_ptr is not None:
                shift_sum += slope
        dx = slope * dx_scale
        if dh_ptr is not None:
            dx += tl.load(dh_ptr + r[:, None] * DH_STRIDE + c[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(dx_ptr + r[:, None] * WIDTH + c[None, :], dx.to(dx_ptr.dtype.element_ty), mask=mask)
    if sums_ptr is not None:
        size = groups * WIDTH
        place = sums_ptr + group * WIDTH + c
        if weight_ptr is not None:
            tl.store(place, tl.sum(weight_sum, axis=0), mask=inside)
        if HAS_BIAS:
            tl.store(place + size, tl.sum(bias_sum, axis=0), mask=inside)
        if ALPHA_PER_CHANNEL:
            tl.store(place + 2 * size, tl.sum(alpha_sum * scale, axis=0), mask=inside)
        else:
            tl.store(sums_ptr + 2 * size + tl.program_id(0), tl.sum(alpha_sum * scale))
        if shift_ptr is not None:
            tl.store(sums_ptr + 3 * size + tl.program_id(0), tl.sum(shift_sum * scale))


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
    sums_ptr,
    dalpha_ptr,
    dshift_ptr,
    dweight_ptr,
    dbias_ptr,
    groups,
    programs,
    WIDTH: tl.constexpr,
    COLS: tl.constexpr,
    GROUPS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
):
    """The parameters' gradients from `backward_kernel`'s sums: a block of channels a program, the first one also what
    is one number. GROUPS and PROGRAMS: powers of two that hold `groups` and `programs`."""
    c = tl.program_id(0) * COLS + tl.arange(0, COLS)
    size = groups * WIDTH
    if dweight_ptr is not None:
        _column_sums(sums_ptr, dweight_ptr, groups, c, WIDTH, GROUPS)
    if dbias_ptr is not None:
        _column_sums(sums_ptr + size, dbias_ptr, groups, c, WIDTH, GROUPS)
    if ALPHA_PER_CHANNEL:
        _column_sums(sums_ptr + 2 * size, dalpha_ptr, groups, c, WIDTH, GROUPS)
    elif tl.program_id(0) == 0:
        _whole_sum(sums_ptr + 2 * size, dalpha_ptr, programs, PROGRAMS)
    if dshift_ptr is not None:  # a pointer's presence is known to the compiler, and goes into no `and`
        if tl.program_id(0) == 0:
            _whole_sum(sums_ptr + 3 * size, dshift_ptr, programs, PROGRAMS)
