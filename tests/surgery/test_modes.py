"""The three modes of calibration, and outliers left out."""

import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from sinks import sink_model, toy_text
from unnorm import DyT
from unnorm.foundation.errors import SettingsError, SiteError
from unnorm.norms.fixed_scale import FixedScale
from unnorm.norms.spec import NormSpec
from unnorm.surgery.outliers import without_outliers


def state_after(family, data, **options):
    model = tiny_model(family)
    report = unnorm.swap_(model, DyT(), calibrate_on=data, **options)
    return model.state_dict(), report.calibration


@pytest.mark.parametrize("family", FAMILIES)
def test_sequential_is_one_pass_over_the_same_tokens(family):
    ids = tokens(12)
    whole, one = state_after(family, ids)
    parts, many = state_after(family, ids.split(5), mode="sequential")
    assert many.mode == "sequential"
    assert many.tokens == one.tokens
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-3, atol=1e-4)


def test_sequential_leaves_padding_out():
    ids = tokens(8, 24)
    mask = torch.ones_like(ids)
    padded = {
        "input_ids": torch.nn.functional.pad(ids, (0, 8)),
        "attention_mask": torch.nn.functional.pad(mask, (0, 8)),
    }
    whole, _ = state_after("llama", ids)
    parts, report = state_after("llama", [padded], mode="sequential")
    assert report.tokens == ids.numel()
    for name, tensor in whole.items():
        torch.testing.assert_close(
            parts[name], tensor, rtol=5e-3, atol=5e-3
        )  # as far as a flat error lets a search stop


@pytest.mark.parametrize("family", FAMILIES)
def test_sequential_of_some_sites_alone(family):
    chosen = [unnorm.find_sites(tiny_model(family))[i].path for i in (1, 4)]
    states = []
    for mode in ("one-pass", "sequential"):
        model = tiny_model(family)
        unnorm.swap_(model, dict.fromkeys(chosen, DyT()), calibrate_on=[tokens(6), tokens(6, seed=3)], mode=mode)
        states.append(model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_parallel_does_not_depend_on_how_tokens_are_cut(family):
    ids = tokens(12)
    whole, _ = state_after(family, [ids[:4], ids[4:]], mode="parallel")
    parts, report = state_after(family, [ids[:4], *ids[4:].split(2)], mode="parallel")
    assert report.mode == "parallel"
    assert report.tokens == ids.numel()
    assert all(0 <= site.r2 <= 1 and site.seconds > 0 for site in report.sites)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=1e-4, atol=1e-5)


def test_parallel_fits_the_first_site_as_one_pass_does():
    """There the original's activations and the converted model's are the same; the grid is coarser than a search."""
    ids = tokens(12)
    _, one = state_after("gpt2", ids)
    _, sums = state_after("gpt2", ids, mode="parallel")
    assert sums.sites[0].path == one.sites[0].path
    assert sums.sites[0].r2 == pytest.approx(one.sites[0].r2, abs=2e-3)


def test_parallel_refuses_a_norm_it_has_no_sums_for():
    class Foreign(NormSpec):
        norm = "foreign"

    with pytest.raises(SettingsError, match="'foreign' is not of the form"):
        unnorm.swap_(tiny_model("gpt2"), Foreign(), calibrate_on=tokens(4), mode="parallel")


def test_outliers_are_the_largest_tokens():
    x = torch.arange(1.0, 101.0)[:, None].repeat(1, 3)
    kept, y = without_outliers(x, x + 1, 0.05)
    assert kept[:, 0].tolist() == list(range(1, 96))
    assert torch.equal(y, kept + 1)
    assert without_outliers(x, x, 0.0)[0] is x


def with_a_loud_first_position(model):
    """GPT-2's habit: the first position's activations are a hundred times the rest, in a few channels."""
    with torch.no_grad():
        model.transformer.wpe.weight[0, :3] += 100 * model.transformer.wte.weight.std()
    return model


@pytest.mark.parametrize("mode", ["one-pass", "sequential", "parallel"])
def test_robust_fit_serves_the_tokens_that_are_no_outliers(mode):
    """With 1 of 32 tokens a hundred times as large, a fit without the largest 4 % is closer on all other tokens."""
    errors = {}
    for share in (0.0, 0.04):
        model = with_a_loud_first_position(tiny_model("gpt2"))
        site = model.transformer.h[0].ln_1
        seen = {}
        site.register_forward_hook(lambda m, a, out, seen=seen: seen.update(x=a[0], y=out))
        with torch.no_grad():
            model(tokens(16, seed=5))
        x, y = seen["x"].clone(), seen["y"].clone()
        report = unnorm.swap_(model, FixedScale(), calibrate_on=[tokens(16)], mode=mode, outliers=share)
        assert report.calibration.outliers == share
        with torch.no_grad():
            difference = (model.transformer.h[0].ln_1(x) - y).square().mean(-1)
        errors[share] = float(difference[:, 1:].mean())
    assert errors[0.04] < errors[0.0]


@pytest.mark.parametrize("mode", ["one-pass", "sequential", "parallel"])
def test_curves_have_to_bend_at_the_sites_to_which_large_tokens_come_and_only_there(mode):
    """Large tokens are left out of a fit, so that what they do is nowhere in its squares: the curve bounds them."""
    least = {}
    for loud in (False, True):
        model = with_a_loud_first_position(tiny_model("gpt2")) if loud else tiny_model("gpt2")
        seen = {}
        model.transformer.h[0].ln_1.register_forward_hook(lambda m, a, out, seen=seen: seen.update(x=a[0]))
        with torch.no_grad():
            model(tokens(16))
        x = seen["x"][:, 1:] if loud else seen["x"]
        fit = unnorm.swap_(model, DyT(), calibrate_on=[tokens(16)], mode=mode).calibration.sites[0]
        assert (fit.large > 0) == loud
        least[loud] = fit.alpha * float(x.square().mean().sqrt())
    assert least[True] > 0.95
    assert 0.29 < least[False] < 0.9


def test_options_that_cannot_be():
    model = tiny_model("gpt2")
    with pytest.raises(SettingsError, match="share of tokens"):
        unnorm.swap_(model, DyT(), calibrate_on=tokens(4), outliers=0.7)
    with pytest.raises(SettingsError, match="one pass only"):
        unnorm.swap_(model, DyT(), calibrate_on=tokens(4), mode="parallel", correct="readers")
    with pytest.raises(SettingsError, match="belong to a calibration"):
        unnorm.swap_(model, DyT(), calibrate_on=None, correct="all")
    with pytest.raises(SettingsError, match="inherit goes with"):
        unnorm.swap_(model, DyT(), calibrate_on=tokens(4), inherit=True)
    assert not hasattr(model, "_unnorm_record")


@pytest.mark.parametrize("name", ["gpt2", "llama", "gemma", "nemotron"])
def test_inherit_takes_the_pretrained_gamma_and_beta(name):
    from surgery.architectures import architecture

    model = architecture(name)
    first = unnorm.find_sites(model)[0]
    old = model.get_submodule(first.path)
    x = torch.randn(4, first.width) * torch.linspace(0.1, 3, first.width)
    before = old(x)
    unnorm.swap_(model, DyT(alpha_init=1e-3), calibrate_on=None, inherit=True)
    new = model.get_submodule(first.path)
    centred = x - x.mean(-1, keepdim=True) if "layernorm" in first.kind else x
    scale = centred.square().mean(-1, keepdim=True).sqrt()
    beta = new.bias if first.kind.startswith("layernorm") else 0
    torch.testing.assert_close(new.weight * centred / scale + beta, before, rtol=2e-3, atol=2e-3)


def test_a_gamma_for_each_head_is_not_inherited():
    from surgery.architectures import architecture

    model = architecture("cohere, qk norms")
    with pytest.raises(SiteError, match=r"self_attn\.q_norm has a γ of its own for each head.*'qk': None"):
        unnorm.swap_(model, DyT(), calibrate_on=None, inherit=True)
    unnorm.swap_(model, {"qk": None, "*": DyT()}, calibrate_on=None, inherit=True)


@pytest.mark.parametrize("mode", ["one-pass", "sequential", "parallel"])
@pytest.mark.parametrize(("spec", "alone"), [(DyT(alpha="channel"), None), (FixedScale(), 0.0)])
def test_only_a_bounded_norm_is_fitted_without_large_tokens(mode, spec, alone):
    """Unless a share is asked for; what a fit leaves out, or not, is the same as if it were."""
    fit = toy_text(8)
    model, asked = sink_model(), sink_model()
    report = unnorm.swap_(model, spec, calibrate_on=fit, mode=mode)
    assert report.calibration.outliers is None
    share = max(site.large for site in report.calibration.sites)
    if alone is not None:
        assert share > 0 or mode != "parallel"  # the others fit the converted stream, where its sink comes to nothing
        unnorm.swap_(asked, spec, calibrate_on=fit, mode=mode, outliers=alone)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), asked.parameters(), strict=True))
        return
    assert share > 0
    unnorm.swap_(asked, spec, calibrate_on=fit, mode=mode, outliers=0.0)
    site = next(site.path for site in report.calibration.sites if site.large == share)
    assert not torch.equal(model.get_submodule(site).weight, asked.get_submodule(site).weight)
