"""The Triton kernels against float64: on a GPU, or in Triton's interpreter (`test_interpreter` starts that)."""

import os

import pytest
import torch

from norms.kernels.norm_cases import assert_close, case, exact, exact_gradients

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not (INTERPRETED or torch.cuda.is_available()):
    pytest.skip("neither a GPU nor Triton's interpreter", allow_module_level=True)

from unnorm.norms.kernels import launch, ops  # noqa: E402

DEVICE = "cpu" if INTERPRETED else "cuda"
DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SHAPES = [(5, 37), (2, 3, 1), (3, 1030), (64,), (2, 1, 8)]
# The interpreter cuts bf16 off where a GPU rounds to the nearest.
CAST = {"ulps": 1.0 if INTERPRETED else 0.5}


@pytest.fixture(autouse=True)
def poisoned():
    """Whatever is allocated starts as NaN, so that what no kernel writes shows."""
    torch.manual_seed(0)
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3, device=DEVICE).isnan().all()
    yield
    torch.use_deterministic_algorithms(False)


def check(given, dh=None):
    """Forward and backward of one case."""
    _, y, _ = launch.norms(given.x, None, None, given.parameters, None, given.curve)
    assert y.dtype == given.x.dtype
    assert y.shape == given.x.shape
    assert_close(y, exact(*given), **CAST)
    dy = given.like_x()
    found = launch.backward(dy, dh, given.x, given.parameters, given.curve, True)
    wanted = exact_gradients(given, dy, dh)
    tokens = given.x.numel() // given.x.shape[-1]
    for gradient, truth, terms in zip(found, wanted, (1, *4 * [tokens * given.x.shape[-1]]), strict=True):
        if truth is None:
            assert gradient.numel() == 0
        else:
            assert_close(gradient, truth, terms=terms, **CAST)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("per_channel", [False, True], ids=["scalar", "channel"])
@pytest.mark.parametrize("curve", ["tanh", "erf"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_forward_and_backward_are_float64s(shape, curve, per_channel, dtype):
    check(case(shape, curve, per_channel=per_channel, dtype=dtype, device=DEVICE))


@pytest.mark.parametrize("curve", ["tanh", "erf"])
def test_sums_over_several_tiles_groups_and_blocks_of_columns(curve, monkeypatch):
    check(case((16500, 13), curve, per_channel=curve == "erf", device=DEVICE))
    monkeypatch.setattr(launch, "_BACKWARD_PROGRAMS", 4)
    check(case((9, 1030), curve, per_channel=curve == "tanh", device=DEVICE))


@pytest.mark.parametrize("curve", ["tanh", "erf"])
@pytest.mark.parametrize("shift", [False, True])
@pytest.mark.parametrize(("weight", "bias"), [(False, False), (True, False)])
def test_parts_may_be_absent(curve, shift, weight, bias):
    given = case((4, 19), curve, shift=shift, weight=weight, bias=bias, device=DEVICE)
    check(given, given.like_x())


@pytest.mark.parametrize("layout", ["transposed", "every other channel", "every other row", "expanded", "empty rows"])
def test_any_layout(layout):
    given = case((6, 5, 8), device=DEVICE)
    x = torch.randn(6, 8, 10, device=DEVICE)
    views = {
        "transposed": lambda: x[:, :, :5].mT,
        "every other channel": lambda: torch.randn(6, 5, 16, device=DEVICE)[..., ::2],
        "every other row": lambda: torch.randn(6, 10, 8, device=DEVICE)[:, ::2],
        "expanded": lambda: torch.randn(8, device=DEVICE).expand(6, 5, 8),
        "empty rows": lambda: torch.randn(6, 0, 8, device=DEVICE),
    }
    check(given._replace(x=views[layout]()))
    dy = torch.ones((), device=DEVICE).expand(6, 5, 8)  # as the gradient of a sum is
    found = launch.backward(dy, None, given.x, given.parameters, given.curve, True)
    for gradient, truth in zip(found, exact_gradients(given, dy), strict=True):
        if truth is not None:
            assert_close(gradient, truth, terms=240)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_residual_add_and_norm_in_one(dtype):
    given = case((7, 33), dtype=dtype, device=DEVICE)
    residual = given.like_x()
    h, y, _ = launch.norms(given.x, residual, None, given.parameters, None, given.curve)
    assert_close(h, given.x.double() + residual.double(), **CAST)
    assert_close(y, exact(h, *given.parameters, given.curve), **CAST)
    dy, dh = given.like_x(), given.like_x()
    dx = launch.backward(dy, dh, h, given.parameters, given.curve, False)[0]
    assert_close(dx, exact_gradients(given._replace(x=h), dy, dh)[0], **CAST)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(5, 37), (3, 1030), (0, 8)], ids=str)
def test_norm_add_and_norm_in_one(shape, dtype):
    inner = case(shape, per_channel=True, dtype=dtype, device=DEVICE)
    outer = case(shape, weight=False, dtype=dtype, device=DEVICE)
    second = inner.like_x()
    normed = exact(*inner)
    wanted = second.double() + normed
    rounding = torch.finfo(dtype).eps * CAST["ulps"] * (normed.abs() + wanted.abs())  # of the norm, then of the sum
    for parts in (outer.parameters, None):
        h, y = launch.norm_add(inner.x, second, inner.parameters, parts, "tanh")
        assert h.dtype == dtype
        assert ((h.double() - wanted).abs() <= 1.02 * rounding + 6e-6).all()
        assert (y is None) == (parts is None)
    _, y = launch.norm_add(inner.x, second, inner.parameters, outer.parameters, "tanh")
    assert_close(y, exact(h, *outer.parameters, "tanh"), **CAST)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("curve", ["tanh", "erf"])
def test_two_norms_of_two_shapes_in_one(curve, dtype):
    one = case((2, 3, 4, 8), curve, per_channel=True, dtype=dtype, device=DEVICE)
    other = case((7, 1030), curve, bias=False, dtype=dtype, device=DEVICE)
    for a, b in ((one, other), (other, one), (one, one)):
        y, other_y = launch.pair(a.x, a.parameters, b.x, b.parameters, curve)
        assert (y.shape, other_y.shape) == (a.x.shape, b.x.shape)
        assert_close(y, exact(*a), **CAST)
        assert_close(other_y, exact(*b), **CAST)
    y, other_y = launch.pair(one.x, one.parameters, other.x[:0], other.parameters, curve)
    assert_close(y, exact(*one), **CAST)
    assert other_y.shape == (0, 1030)


def test_autograd_goes_through_the_kernels(monkeypatch):
    monkeypatch.setattr(ops, "has_kernel", lambda x: x.dtype != torch.float64)
    given = case((9, 12), device=DEVICE)
    leaves = [None if t is None else t.clone().requires_grad_() for t in given[:5]]
    residual = given.like_x().requires_grad_()
    h, y = ops.add_curve_norm(leaves[0], residual, *leaves[1:], "tanh")
    dy, dh = given.like_x(), given.like_x()
    torch.autograd.backward([h, y], [dh, dy])
    wanted = exact_gradients(given._replace(x=h.detach()), dy, dh)
    for leaf, truth in zip(leaves, wanted, strict=True):
        if truth is not None:
            assert_close(leaf.grad, truth, terms=108)
    assert torch.equal(residual.grad, leaves[0].grad)


def test_tanh_keeps_its_relative_precision_at_every_size():
    size = torch.logspace(-30, 2, 4001, device=DEVICE)
    x = torch.cat([size, -size])
    one = torch.ones(1, device=DEVICE)
    _, y, _ = launch.norms(x[:, None], None, None, (one, None, None, None), None, "tanh")
    wanted = exact(x, one, None, None, None, "tanh")
    assert ((y[:, 0].double() - wanted).abs() / wanted.abs()).max() < 3e-7
    odd = torch.tensor([[0.0, -0.0, torch.inf, -torch.inf, torch.nan, 3e38, -3e38]], device=DEVICE)
    _, y, _ = launch.norms(odd, None, None, (one, None, None, None), None, "tanh")
    torch.testing.assert_close(y, torch.tanh(odd), equal_nan=True)


def test_the_slope_keeps_its_relative_precision_where_tanh_is_flat():
    x = torch.linspace(-20, 20, 999, device=DEVICE)[:, None]
    one = torch.ones(1, device=DEVICE)
    dx = launch.backward(torch.ones_like(x), None, x, (one, None, None, None), "tanh", False)[0]
    wanted = 1 / torch.cosh(x.double()).square()
    assert ((dx.double() - wanted).abs() / wanted).max() < 4e-6  # exp of −40 is off by 40 times the rounding


def test_reductions_are_the_same_bits_every_time():
    given = case((2000, 40), "erf", per_channel=True, device=DEVICE)
    dy = given.like_x()
    first, *others = (launch.backward(dy, None, given.x, given.parameters, "erf", True) for _ in range(3))
    for again in others:
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_offsets_beyond_32_bits():
    torch.use_deterministic_algorithms(False)  # or all of it would be written
    stride = 2**30
    buffer = torch.empty(2 * stride + 8, dtype=torch.bfloat16, device=DEVICE)
    x = buffer.as_strided((3, 8), (stride, 1))
    x.copy_(torch.randn(3, 8))
    given = case((3, 8), device=DEVICE)._replace(x=x)
    check(given)


@pytest.mark.skipif(DEVICE != "cuda", reason="needs a GPU")
def test_a_module_on_a_gpu_is_captured_by_a_cuda_graph():
    from unnorm import DyT

    torch.use_deterministic_algorithms(False)
    module = DyT().build(64, device="cuda")
    x = torch.randn(8, 64, device="cuda")
    with torch.no_grad():
        module(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = module(x)
        x.normal_()
        graph.replay()
    assert_close(y, exact(x, module.alpha, None, module.weight, module.bias, "tanh"))
