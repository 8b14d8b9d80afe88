import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from unnorm import Derf, DyT
from unnorm.foundation.errors import SettingsError
from unnorm.norms import curve, kernels
from unnorm.norms.curve import saturation
from unnorm.norms.dyisru import DyISRU
from unnorm.norms.identity import Identity
from unnorm.norms.spec import fused, spec_from


@given(
    width=st.integers(1, 17),
    rows=st.integers(1, 5),
    alpha=st.sampled_from(["scalar", "channel"]),
    affine=st.booleans(),
    bias=st.booleans(),
    seed=st.integers(0, 10**6),
)
@settings(max_examples=40, deadline=None)
def test_forward_is_the_papers_formula(width, rows, alpha, affine, bias, seed):
    torch.manual_seed(seed)
    norm = DyT(alpha=alpha, affine=affine, bias=bias).build(width)
    for parameter in norm.parameters():
        parameter.data.normal_()
    x = torch.randn(2, rows, width)
    gamma = norm.weight.double() if affine else 1.0
    beta = norm.bias.double() if affine and bias else 0.0
    expected = gamma * torch.tanh(norm.alpha.double() * x.double()) + beta
    torch.testing.assert_close(norm(x).double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", ["scalar", "channel"])
@pytest.mark.parametrize(("affine", "bias"), [(True, True), (True, False), (False, False)])
@pytest.mark.parametrize("rows", [2, 200])
def test_gradients_are_the_papers_formulas(alpha, affine, bias, rows):
    torch.manual_seed(0)
    norm = DyT(alpha=alpha, affine=affine, bias=bias).build(33)
    for parameter in norm.parameters():
        parameter.data.normal_()
    x, dy = torch.randn(rows, 33, requires_grad=True), torch.randn(rows, 33)
    found = torch.autograd.grad((norm(x) * dy).sum(), [x, *norm.parameters()])
    exact = {name: p.detach().double().requires_grad_() for name, p in norm.named_parameters()}
    x64 = x.detach().double().requires_grad_()
    y = exact.get("weight", 1.0) * torch.tanh(exact["alpha"] * x64) + exact.get("bias", 0.0)
    expected = torch.autograd.grad((y * dy).sum(), [x64, *exact.values()])
    for gradient, other in zip(found, expected, strict=True):
        torch.testing.assert_close(gradient.double(), other, rtol=1e-5, atol=1e-5 * rows**0.5)


def test_second_derivatives_of_many_activations():
    torch.manual_seed(0)
    norm, x = DyT().build(8), torch.randn(512, 8, requires_grad=True)
    (first,) = torch.autograd.grad(norm(x).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), x)
    t = torch.tanh(0.5 * x.detach().double())
    torch.testing.assert_close(second.double(), -0.5 * t * (1 - t * t), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [4, 512])
def test_forward_mode(rows):
    torch.manual_seed(0)
    x = torch.randn(rows, 8)
    _, found = torch.func.jvp(DyT().build(8), (x,), (torch.ones_like(x),))
    t = torch.tanh(0.5 * x.double())
    torch.testing.assert_close(found.double(), 0.5 * (1 - t * t), rtol=1e-5, atol=1e-6)


def test_many_activations_are_as_exact_as_few():
    torch.manual_seed(0)
    norm, x = DyT().build(8), 6 * torch.randn(512, 8)
    exact = torch.tanh(0.5 * x.double())
    for out in (norm(x), torch.no_grad()(norm)(x), torch.cat([norm(row) for row in x.split(1)])):
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=3e-7)


@pytest.mark.parametrize("parameters", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("spec", [DyT(), DyT(alpha="channel"), DyT(bias=False), DyT(affine=False), Derf(), DyISRU()])
def test_every_way_to_compute_it_is_the_formula(spec, parameters):
    """With and without a gradient, few activations and many, of any dtype; the input stays as it is."""
    torch.manual_seed(0)
    norm = spec.build(8).to(parameters)
    for parameter in norm.parameters():
        parameter.data.uniform_(0.3, 0.9)
    alpha, shift, weight, bias = (
        default if part is None else part.detach().double()
        for part, default in zip((norm.alpha, norm.shift, norm.weight, norm.bias), (1.0, 0.0, 1.0, 0.0), strict=True)
    )
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        for rows in (1, 512):
            x = (3 * torch.randn(rows, 8)).to(dtype)
            before = x.clone()
            exact = weight * spec.curve(alpha * x.double() + shift) + bias
            for found in (norm(x), torch.no_grad()(norm)(x), torch.no_grad()(norm)(x.T.contiguous().T)):
                assert found.dtype == dtype
                torch.testing.assert_close(found, exact.to(dtype), rtol=torch.finfo(dtype).eps, atol=1e-6)
            assert torch.equal(x, before)


def test_bare_start_is_the_papers():
    norm = DyT().build(4)
    assert norm.alpha.tolist() == [0.5]
    assert norm.weight.tolist() == [1.0] * 4
    assert norm.bias.tolist() == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_rule_17_output_has_the_inputs_dtype_and_parameters_stay_fp32(dtype):
    norm = DyT().build(8)
    x = torch.randn(3, 8).to(dtype)
    assert norm(x).dtype == dtype
    assert {parameter.dtype for parameter in norm.parameters()} == {torch.float32}
    exact = torch.tanh(0.5 * x.float()).to(dtype)
    torch.testing.assert_close(norm(x), exact, rtol=0, atol=0)


@pytest.mark.parametrize("alpha", ["scalar", "channel"])
def test_fit_recovers_a_dyt_from_its_own_outputs(alpha):
    torch.manual_seed(0)
    x = 6 * torch.randn(2000, 6)
    truth = DyT(alpha=alpha).build(6)
    truth.alpha.data.uniform_(0.2, 0.6)
    truth.weight.data.normal_()
    truth.bias.data.normal_()
    spec = DyT(alpha=alpha)
    norm = spec.build(6)
    fit = spec.fit_(norm, x, truth(x).detach())
    assert fit.r2 > 0.9999
    torch.testing.assert_close(norm.alpha, truth.alpha, rtol=0.02, atol=0)
    torch.testing.assert_close(norm.weight, truth.weight, rtol=0.03, atol=0.01)


@pytest.mark.parametrize("alpha", ["scalar", "channel"])
@pytest.mark.parametrize(("large", "least"), [(False, 0.3), (True, 1.0)])
def test_a_fit_bends_even_where_a_line_is_closer_so_that_no_token_passes_it_unbounded(alpha, large, least):
    torch.manual_seed(0)
    x = torch.randn(2000, 6)
    norm = DyT(alpha=alpha).build(6)
    spec = DyT(alpha=alpha).beside_large_tokens() if large else DyT(alpha=alpha)
    assert spec.fit_(norm, x, 0.5 * x).r2 > 0.9
    spread = x.square().mean(0).sqrt()
    torch.testing.assert_close(norm.alpha.detach() * spread, torch.full((6,), least), rtol=0.05, atol=0)
    assert norm(1e4 * x).abs().max() < (3 if large else 6) * 0.5
    with torch.no_grad():
        (straightest, *_) = spec.candidates(6, x)
    torch.testing.assert_close(
        straightest.alpha * x.square().mean(0).sqrt(), torch.full((6,), least), rtol=0.05, atol=0
    )


def test_a_site_beside_large_tokens_changes_how_a_spec_is_fitted_and_nothing_that_is_kept_of_it():
    spec = DyT(alpha="channel")
    assert spec.beside_large_tokens().to_dict() == spec.to_dict()
    assert spec.beside_large_tokens()._least > spec._least
    assert Identity().beside_large_tokens() == Identity()


@pytest.mark.parametrize("large", [False, True])
def test_a_shifted_curve_keeps_the_bound_through_its_last_search(large):
    torch.manual_seed(0)
    x = torch.randn(2000, 6)
    spec = Derf().beside_large_tokens() if large else Derf()
    norm = spec.build(6)
    spec.fit_(norm, x, 0.5 * x)
    assert float(norm.alpha.detach() * x[::4].square().mean().sqrt()) >= 0.999 * (1.0 if large else 0.3)


@given(scale=st.floats(1e-3, 1e3), seed=st.integers(0, 10**6), bias=st.booleans())
@settings(max_examples=30, deadline=None)
def test_fit_is_the_least_squares_optimum_for_its_alpha(scale, seed, bias):
    torch.manual_seed(seed)
    x = scale * torch.randn(300, 5) * torch.tensor([0.1, 1.0, 2.0, 5.0, 0.0])
    y = torch.randn(300, 5) + torch.tanh(x / scale)
    spec = DyT(bias=bias)
    norm = spec.build(5)
    spec.fit_(norm, x, y)
    with torch.no_grad():
        best = (norm(x) - y).square().sum()
        t = torch.tanh(norm.alpha * x)
        for channel in range(5):
            columns = [t[:, channel], torch.ones(300)] if bias else [t[:, channel]]
            design = torch.stack(columns, 1).double()
            solution = torch.linalg.lstsq(design, y[:, channel].double(), driver="gelsd").solution
            error = (design @ solution - y[:, channel].double()).square().sum()
            ours = (norm(x)[:, channel].double() - y[:, channel].double()).square().sum()
            assert ours <= error * (1 + 1e-4) + 1e-6
        for factor in (0.5, 0.8, 1.25, 2.0):  # and no other alpha does better by more than the grid's grain
            other = spec.build(5)
            other.alpha.copy_(norm.alpha * factor)
            t = torch.tanh(other.alpha * x)
            if bias:
                centred, target = t - t.mean(0), y - y.mean(0)
            else:
                centred, target = t, y
            explained = (centred * target).sum(0).square() / centred.square().sum(0).clamp_min(1e-12)
            assert best <= (target.square().sum(0) - explained).sum() * 1.001


def test_fit_of_a_dead_channel_is_its_mean():
    x = torch.randn(50, 2)
    x[:, 1] = 0
    y = torch.randn(50, 2)
    spec = DyT()
    norm = spec.build(2)
    spec.fit_(norm, x, y)
    assert norm.weight[1] == 0
    torch.testing.assert_close(norm.bias[1], y[:, 1].mean())


def test_saturation_counts_beyond_two():
    norm = DyT(alpha_init=1.0).build(4)
    assert saturation(norm, torch.tensor([[0.0, 1.9, 2.1, -3.0]])) == 0.5


def test_spec_round_trip_and_bad_settings():
    spec = DyT(alpha="channel", bias=False)
    assert spec_from(spec.to_dict()) == spec
    with pytest.raises(SettingsError, match="Known norms: derf, dyisru, dyt"):
        spec_from({"norm": "dynamic"})
    with pytest.raises(SettingsError, match="alhpa"):
        spec_from({"norm": "dyt", "alhpa": "scalar"})
    with pytest.raises(ValidationError):
        DyT(alpha_init=-1.0)


class OnCuda(torch.Tensor):
    """What says of itself that it is there."""

    is_cuda = True


def test_a_tensor_on_cuda_is_given_to_the_kernel_and_to_the_formula_where_there_is_none(monkeypatch):
    norm, x = DyT().build(8), torch.randn(2, 8)
    there = x.as_subclass(OnCuda)
    monkeypatch.setattr(curve, "fused", lambda: lambda module, y: y + 1 if module is norm else None)
    assert torch.equal(norm(there).as_subclass(torch.Tensor), x + 1)
    torch.testing.assert_close(DyT().build(8)(there).as_subclass(torch.Tensor), norm(x))
    assert fused() is kernels.fused, "which knows the norms that it is for, and is imported for the first such tensor"
