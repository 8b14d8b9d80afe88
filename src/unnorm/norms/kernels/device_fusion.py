"""Triton kernels that do more than one norm: of what is added to the stream and of the sum, and of queries and keys.

As `device_code`, whose norm they use. Importing this imports Triton, so only `launch` does.
"""

import triton
import triton.language as tl

from unnorm.norms.kernels.device_code import norm_of


@triton.jit
def _tile(number, rows, WIDTH: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Rows, columns, which columns there are, and which places there are, of the tile `number`."""
    column_blocks: tl.constexpr = (WIDTH + COLS - 1) // COLS
    c = (number % column_blocks) * COLS + tl.arange(0, COLS)
    r = (number // column_blocks).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = c < WIDTH
    return r, c, inside, (r < rows)[:, None] & inside[None, :]


@triton.jit(do_not_specialize=["rows"])
def norm_add_kernel(
    x_ptr,
    second_ptr,
    h_ptr,
    inner_alpha_ptr,
    inner_shift_ptr,
    inner_weight_ptr,
    inner_bias_ptr,
    alpha_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    rows,
    X_STRIDE: tl.constexpr,
    SECOND_STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ERF: tl.constexpr,
    INNER_ALPHA_PER_CHANNEL: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
):
    """One tile of h = second + the inner norm of x, each rounded as PyTorch does, and of a norm of h where y_ptr is not
    None. h and y are contiguous."""
    r, c, inside, mask = _tile(tl.program_id(0), rows, WIDTH, ROWS, COLS)
    exact: tl.constexpr = h_ptr.dtype.element_ty == tl.float32
    x = tl.load(x_ptr + r[:, None] * X_STRIDE + c[None, :], mask=mask, other=0.0).to(tl.float32)
    second = tl.load(second_ptr + r[:, None] * SECOND_STRIDE + c[None, :], mask=mask, other=0.0)
    normed = norm_of(
        x,
        inner_alpha_ptr,
        inner_shift_ptr,
        inner_weight_ptr,
        inner_bias_ptr,
        c,
        inside,
        ERF,
        INNER_ALPHA_PER_CHANNEL,
        exact,
    ).to(h_ptr.dtype.element_ty)
    h = (second.to(tl.float32) + normed.to(tl.float32)).to(h_ptr.dtype.element_ty)
    place = r[:, None] * WIDTH + c[None, :]
    tl.store(h_ptr + place, h, mask=mask)
    if y_ptr is not None:
        y = norm_of(
            h.to(tl.float32), alpha_ptr, shift_ptr, weight_ptr, bias_ptr, c, inside, ERF, ALPHA_PER_CHANNEL, exact
        )
        tl.store(y_ptr + place, y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit
def _norm_tile(
    number,
    x_ptr,
    alpha_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    rows,
    STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    ERF: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
):
    """The tile `number` of the norm of x."""
    r, c, inside, mask = _tile(number, rows, WIDTH, ROWS, COLS)
    x = tl.load(x_ptr + r[:, None] * STRIDE + c[None, :], mask=mask, other=0.0).to(tl.float32)
    exact: tl.constexpr = y_ptr.dtype.element_ty == tl.float32
    y = norm_of(x, alpha_ptr, shift_ptr, weight_ptr, bias_ptr, c, inside, ERF, ALPHA_PER_CHANNEL, exact)
    tl.store(y_ptr + r[:, None] * WIDTH + c[None, :], y.to(y_ptr.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=["rows", "other_rows", "programs"])
def pair_kernel(
    x_ptr,
    alpha_ptr,
    shift_ptr,
    weight_ptr,
    bias_ptr,
    y_ptr,
    other_x_ptr,
    other_alpha_ptr,
    other_shift_ptr,
    other_weight_ptr,
    other_bias_ptr,
    other_y_ptr,
    rows,
    other_rows,
    programs,
    STRIDE: tl.constexpr,
    OTHER_STRIDE: tl.constexpr,
    WIDTH: tl.constexpr,
    OTHER_WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
    OTHER_ROWS: tl.constexpr,
    OTHER_COLS: tl.constexpr,
    ERF: tl.constexpr,
    ALPHA_PER_CHANNEL: tl.constexpr,
    OTHER_ALPHA_PER_CHANNEL: tl.constexpr,
):
    """The norms of two tensors, as queries and keys have them: the first `programs` programs are the first's."""
    number = tl.program_id(0)
    if number < programs:
        _norm_tile(
            number,
            x_ptr,
            alpha_ptr,
            shift_ptr,
            weight_ptr,
            bias_ptr,
            y_ptr,
            rows,
            STRIDE,
            WIDTH,
            ROWS,
            COLS,
            ERF,
            ALPHA_PER_CHANNEL,
        )
    else:
        _norm_tile(
            number - programs,
            other_x_ptr,
            other_alpha_ptr,
            other_shift_ptr,
            other_weight_ptr,
            other_bias_ptr,
            other_y_ptr,
            other_rows,
            OTHER_STRIDE,
            OTHER_WIDTH,
            OTHER_ROWS,
            OTHER_COLS,
            ERF,
            OTHER_ALPHA_PER_CHANNEL,
        )
