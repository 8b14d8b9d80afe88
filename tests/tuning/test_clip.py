import pytest
import torch
from torch import nn

from unnorm.tuning.parameter_groups import clip_gradients_


def parameters(scale: float) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(0)
    made = [nn.Parameter(torch.zeros(shape)) for shape in ((7, 5), (3,), (2,))]
    for parameter in made[:2]:  # the last one has no gradient
        parameter.grad = torch.randn(parameter.shape, generator=generator) * scale
    return made


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e4])
def test_clips_as_torch_does_where_torch_can(scale: float) -> None:
    ours, theirs = parameters(scale), parameters(scale)
    norm, expected = clip_gradients_(ours, 1.0), nn.utils.clip_grad_norm_(theirs, 1.0)
    assert torch.equal(norm, expected)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(ours[:2], theirs[:2], strict=True))
    assert ours[2].grad is None


def test_gradients_beyond_fp32s_squares_keep_their_direction() -> None:
    huge, usual = parameters(1e30), parameters(1.0)
    assert torch.isinf(nn.utils.clip_grad_norm_(parameters(1e30), 1.0)), "torch's own sum overflows here"
    norm = clip_gradients_(huge, 1.0)
    expected = clip_gradients_(usual, 1.0)
    assert float(norm) == pytest.approx(1e30 * float(expected), rel=1e-5)
    for a, b in zip(huge[:2], usual[:2], strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_gradient_that_is_not_finite_is_told(bad: float) -> None:
    broken = parameters(1.0)
    broken[1].grad[0] = bad
    assert not torch.isfinite(clip_gradients_(broken, 1.0))
