"""Decoding with a cache of fixed size and a compiled step: the tokens of eager, and a reason where it cannot be."""

import copy

import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from surgery.architectures import architecture
from unnorm import DyT
from unnorm.foundation.compilers import missing_compiler
from unnorm.foundation.errors import ModelError, SettingsError
from unnorm.surgery import compiled_decoding


def swapped(family):
    model = tiny_model(family)
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    return model


def greedy(model, ids, new=8):
    return model.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=new, do_sample=False)


@pytest.fixture
def traced(monkeypatch):
    """The step is captured and run as it is, without a compiler."""
    monkeypatch.setattr(compiled_decoding, "_BACKEND", "eager")


@pytest.mark.parametrize("family", FAMILIES)
def test_the_tokens_of_eager(family, traced):
    model, ids = swapped(family), tokens(2, 8)
    wanted = greedy(model, ids)
    report = unnorm.optimize_(model, compile=True)
    assert report.compiled_difference < 1e-5
    model.__dict__.pop("_compiled_call")
    assert torch.equal(greedy(model, ids), wanted)
    assert "_compiled_call" in model.__dict__  # generate went through it, by the model's own settings
    assert torch.equal(greedy(model, ids[:1], 4), wanted[:1, :12])
    model.generation_config.cache_implementation = None
    model.__dict__.pop("_compiled_call")
    assert torch.equal(greedy(model, ids), wanted)
    assert "_compiled_call" not in model.__dict__
    model.generation_config.to_json_string()


@pytest.mark.skipif(bool(missing_compiler("cpu")), reason="no C++ compiler")
def test_with_a_compiler():
    model, ids = swapped("llama"), tokens(2, 8)
    wanted = greedy(model, ids)
    assert unnorm.optimize_(model, compile=True).compiled_difference < 1e-5
    assert torch.equal(greedy(model, ids), wanted)


def test_without_a_compiler_nothing_is_done(monkeypatch):
    model = swapped("gpt2")
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(SettingsError, match=r"C\+\+ compiler"):
        unnorm.optimize_(model, compile=True)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.generation_config.cache_implementation is None


def test_a_model_without_a_cache_of_fixed_size_is_refused():
    with pytest.raises(ModelError, match="cache of fixed size"):
        unnorm.optimize_(architecture("mamba"), compile=True)


def test_what_differs_or_fails_stays_eager(monkeypatch, traced):
    model, ids = swapped("gpt2"), tokens(1, 8)
    wanted = greedy(copy.deepcopy(model), ids)
    for wrong, message in ((lambda *_: 1.0, "differ by 1"), (lambda *_: 1 / 0, "ZeroDivisionError")):
        monkeypatch.setattr(compiled_decoding, "_difference", wrong)
        with pytest.raises(ModelError, match=message):
            unnorm.optimize_(model, compile=True)
        assert model.generation_config.cache_implementation is None
        assert model.generation_config.compile_config is None
        assert torch.equal(greedy(model, ids), wanted)
