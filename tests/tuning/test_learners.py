"""What learns is made ready, or the model is as it was: a failure on the way leaves no LoRA in it."""

import copy

import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from unnorm import DyT
from unnorm.foundation.errors import ModelError
from unnorm.tuning import learners, strategies

QUICK = {"tokens": 256, "batch_tokens": 256, "precision": "fp32", "quiet": True}


def fails(error):
    def fail(*args, **options):
        raise error

    return fail


def half_of_lora(monkeypatch, error):
    """From now on peft fails in the midst of putting LoRA into a model."""
    from peft.tuners.lora import LoraModel

    put, done = LoraModel._create_and_replace, []

    def put_some(self, *args, **options):
        done.append(self)
        if len(done) > 2:
            raise error
        put(self, *args, **options)

    monkeypatch.setattr(LoraModel, "_create_and_replace", put_some)


WHERE = {
    "while LoRA is put in": half_of_lora,
    "when what trains is checked": lambda patch, error: patch.setattr(strategies, "_check", fails(error)),
    "when LoRA is scaled": lambda patch, error: patch.setattr(learners, "scale_by_weights_", fails(error)),
}


@pytest.mark.parametrize("where", WHERE)
@pytest.mark.parametrize("error", [ModelError("stop"), KeyboardInterrupt("stop"), torch.OutOfMemoryError("stop")])
def test_a_failure_leaves_no_lora_and_is_what_comes_out(where, error, monkeypatch):
    original = tiny_model("llama")
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tree, flags = list(model.named_modules()), [p.requires_grad for p in model.parameters()]
    WHERE[where](monkeypatch, error)
    with pytest.raises(type(error), match="stop") as raised:
        unnorm.recover_(model, original, tokens(16), train="lora", **QUICK)
    assert raised.value is error
    assert list(model.named_modules()) == tree
    assert [p.requires_grad for p in model.parameters()] == flags
    assert model.state_dict().keys() == state.keys()
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())
    assert not hasattr(model, "peft_config")


@pytest.mark.parametrize("family", FAMILIES)
def test_after_a_failure_the_same_model_is_recovered_as_ever(family, monkeypatch):
    original = tiny_model(family)
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16))
    twin = copy.deepcopy(model)
    expected = unnorm.recover_(twin, original, tokens(16), train="lora", **QUICK)
    with monkeypatch.context() as patch:
        patch.setattr(learners, "scale_by_weights_", fails(MemoryError("stop")))
        with pytest.raises(MemoryError, match="stop"):
            unnorm.recover_(model, original, tokens(16), train="lora", **QUICK)
    assert unnorm.recover_(model, original, tokens(16), train="lora", **QUICK).losses == expected.losses
