"""Recovery: only the new norms learn, towards the original, and never to a worse end."""

import copy

import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from unnorm import DyT
from unnorm.foundation.errors import DataError, ModelError, NonFiniteError, SettingsError
from unnorm.surgery.swap import record_of

QUICK = {"steps": 20, "batch_tokens": 256, "learning_rate": 5e-3, "quiet": True}


def swapped(family="gpt2", bare=False):
    original = tiny_model(family)
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=None if bare else tokens(16))
    return model, original


@pytest.mark.parametrize("family", FAMILIES)
def test_recovery_comes_closer_and_trains_the_norms_alone(family):
    model, original = swapped(family, bare=True)
    model.transformer.h[0].requires_grad_(False) if family == "gpt2" else None
    flags = [p.requires_grad for p in model.parameters()]
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    theirs = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    report = unnorm.recover_(model, original, tokens(64), **{**QUICK, "learning_rate": 3e-2})
    assert report.kept
    assert report.kl_after < report.kl_before
    assert len(report.losses) == report.steps == 20
    sites = [site.path for site in unnorm.find_sites(model)]
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed
    assert all(any(name.startswith(path + ".") for path in sites) for name in changed)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in original.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("family", FAMILIES)
def test_corrected_layers_learn_too_where_asked_for_and_come_closer(family, dtype):
    original = tiny_model(family).to(dtype)
    ends = []
    for layers in (False, True):
        model = copy.deepcopy(original)
        unnorm.swap_(model, DyT(), calibrate_on=tokens(16), correct="all")
        record = record_of(model)
        for path in record.corrected:  # a random model is corrected too well for anything to be left
            torch.nn.init.normal_(model.get_submodule(path).weight, std=0.05)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        report = unnorm.recover_(model, original, tokens(64), layers=layers, steps=20, batch_tokens=256, quiet=True)
        assert report.layers == (len(record.corrected) if layers else 0)
        learners = [site.path for site in record.sites] + (record.corrected if layers else [])
        changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
        assert changed
        assert all(any(name.startswith(path + ".") for path in learners) for name in changed)
        assert {p.dtype for p in model.parameters()} == {dtype, torch.float32}
        assert all(p.grad is None for p in model.parameters())
        ends.append(report.kl_after)
        unnorm.unswap_(model)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), original.parameters(), strict=True))
    assert ends[1] < ends[0]


def test_corrected_layers_are_put_back_with_the_norms():
    original = tiny_model("llama")
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16), correct="all")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    options = {"steps": 3, "batch_tokens": 64, "layer_learning_rate": 3.0, "quiet": True}
    report = unnorm.recover_(model, original, tokens(64), layers=True, **options)
    assert not report.kept
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_the_same_seed_gives_the_same_end():
    ends = []
    for seed in (0, 0, 1):
        model, original = swapped()
        unnorm.recover_(model, original, tokens(64), seed=seed, **QUICK)
        ends.append(model.transformer.ln_f.weight.detach().clone())
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])


def test_what_got_worse_is_put_back_and_said():
    model, original = swapped()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    report = unnorm.recover_(model, original, tokens(64), steps=3, batch_tokens=64, learning_rate=30.0, quiet=True)
    assert not report.kept
    assert report.kl_after > report.kl_before
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_a_loss_that_is_no_number_ends_it_and_leaves_the_start():
    model, original = swapped()
    before = model.transformer.ln_f.weight.detach().clone()
    with torch.no_grad():
        original.transformer.wte.weight[5] = float("nan")
    with pytest.raises(NonFiniteError, match="step 1 of 20"):
        unnorm.recover_(model, original, torch.full((64, 32), 5), **QUICK)
    assert torch.equal(model.transformer.ln_f.weight, before)
    assert all(p.grad is None for p in model.parameters())


def test_padded_and_packed_rows_are_taken():
    model, original = swapped("llama")
    ids = tokens(32)
    mask = torch.ones_like(ids)
    mask[:, 20:] = 0
    positions = torch.cat([torch.arange(16), torch.arange(16)])[None].repeat(32, 1)
    for batch in ({"input_ids": ids, "attention_mask": mask}, {"input_ids": ids, "position_ids": positions}):
        report = unnorm.recover_(model, original, [batch, batch], **QUICK)
        assert report.kl_after <= report.kl_before
    unnorm.recover_(model, original, [ids[:, :9], ids[:, :30]], **QUICK)


def test_bad_input():
    model, original = swapped()
    with pytest.raises(ModelError, match="Swap it first"):
        unnorm.recover_(original, copy.deepcopy(original), tokens(8), quiet=True)
    with pytest.raises(ModelError, match="unswapped model"):
        unnorm.recover_(model, model, tokens(8), quiet=True)
    with pytest.raises(DataError, match="more than one row"):
        unnorm.recover_(model, original, tokens(1), quiet=True)
    with pytest.raises(SettingsError, match="precision"):
        unnorm.recover_(model, original, tokens(8), precision="fp8", quiet=True)
    with pytest.raises(ModelError, match="none were"):
        unnorm.recover_(model, original, tokens(8), layers=True, quiet=True)
    with pytest.raises(SettingsError, match="above 0"):
        unnorm.recover_(model, original, tokens(8), steps=0, quiet=True)
