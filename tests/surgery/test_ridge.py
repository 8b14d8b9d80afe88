"""Ridge regression whose penalty is chosen on tokens that are left out."""

import torch

from unnorm.surgery.ridge import ridge, set_apart


def _data(tokens: int, noise: float, channels: int = 64) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    true = torch.randn(8, channels)
    t = torch.randn(tokens, channels)
    return t, t @ true.T + noise * torch.randn(tokens, 8), true


def _fixed(t: torch.Tensor, y: torch.Tensor, share: float) -> torch.Tensor:
    own = (t.T @ t).double()
    eye = share * own.diagonal().mean() * torch.eye(t.shape[1]).double()
    return torch.linalg.solve(own + eye, (t.T @ y).double()).T


def test_with_many_tokens_and_little_noise_the_usual_penalty_is_kept():
    t, y, _ = _data(4096, 0.1)
    slope, offset = ridge(t, y, intercept=False)
    torch.testing.assert_close(slope, _fixed(t, y, 0.01), rtol=1e-4, atol=1e-4)
    assert offset.abs().max() == 0


def test_where_tokens_are_few_and_noisy_it_is_nearer_to_the_truth_than_the_usual_penalty():
    t, y, true = _data(80, 30.0)
    slope, _ = ridge(t, y, intercept=False)
    assert (slope - true).square().mean() < 0.5 * (_fixed(t, y, 0.01) - true).square().mean()


def test_towards_the_identity_a_map_that_noise_decides_stays_there():
    torch.manual_seed(0)
    t = torch.randn(96, 48)
    slope, _ = ridge(t, t + 5 * torch.randn(96, 48), intercept=True, towards_identity=True)
    assert (slope - torch.eye(48)).square().mean() < 0.05


def test_too_few_tokens_are_fitted_all_the_same():
    for tokens in (1, 2, 7, 63):
        t = torch.randn(tokens, 16)
        slope, offset = ridge(t, t, intercept=True, towards_identity=True)
        torch.testing.assert_close(slope, torch.eye(16).double(), rtol=1e-4, atol=1e-4)
        assert torch.isfinite(offset).all()


def test_every_fourth_block_is_set_apart():
    apart = set_apart(16384)
    assert apart.sum() == 4096
    assert apart[1536:2048].all()
    assert not apart[:1536].any()
    assert set_apart(3).sum() < 3
