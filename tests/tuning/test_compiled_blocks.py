"""Compiled blocks train as uncompiled ones do, share one code however many they are, and are as before afterwards."""

import copy
import json

import pytest
import torch
from torch._dynamo.utils import counters

import unnorm
from conftest import tiny_model, tokens
from unnorm import DyT
from unnorm.foundation.errors import ModelError, SettingsError
from unnorm.tuning import compiled_blocks
from unnorm.tuning.settings import TrainingSettings

QUICK = {"tokens": 4 * 256, "batch_tokens": 256, "precision": "fp32", "quiet": True}


def swapped(blocks=2):
    original = tiny_model("llama")
    while len(original.model.layers) < blocks:
        original.model.layers.append(copy.deepcopy(original.model.layers[-1]))
    original.config.num_hidden_layers = blocks
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(alpha="channel"), calibrate_on=tokens(16))
    return model, original


@pytest.fixture(autouse=True)
def no_code_from_before():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def codes():
    return counters["stats"]["unique_graphs"]


@pytest.fixture
def uncompiling(monkeypatch):
    """What Dynamo makes is run as it is: no C++ compiler, whose time a test of graphs need not spend."""
    compile_ = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, dynamic, options: compile_(self, dynamic=dynamic, backend="eager")
    )


def test_a_compiled_recovery_learns_what_an_uncompiled_one_learns():
    model, original = swapped()
    twin = copy.deepcopy(model)
    plain = unnorm.recover_(model, original, tokens(64), train="lora", **QUICK)
    assert codes() == 0
    compiled = unnorm.recover_(twin, original, tokens(64), train="lora", compile=True, **QUICK)
    assert codes() == 3, "blocks that learn: the first, whose input needs no gradient, and the others; the original's"
    assert compiled.losses == pytest.approx(plain.losses, rel=1e-4)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[name], tensor, rtol=1e-3, atol=1e-4, msg=name)


def test_as_many_codes_for_many_blocks_as_for_few_and_none_for_what_is_measured(uncompiling):
    found = []
    for blocks in (2, 5):
        torch._dynamo.reset()
        counters.clear()
        model, original = swapped(blocks)
        unnorm.recover_(model, original, tokens(64), held_out=tokens(7, 9), compile=True, **QUICK)
        found.append(codes())
        assert not counters["graph_break"], "a norm that is cut off from its neighbours is not fused with them"
    assert found == [2, 2]


def test_afterwards_everything_is_as_written(uncompiling):
    model, original = swapped()
    kinds = [type(module) for module in model.modules()]
    unnorm.recover_(model, original, tokens(64), compile=True, **QUICK)
    assert [type(module) for module in model.modules()] == kinds
    assert all(module._compiled_call_impl is None for each in (model, original) for module in each.modules())
    made = codes()
    model(tokens(2)), original(tokens(2))
    assert codes() == made


def test_saturation_is_logged_as_without(uncompiling, tmp_path):
    logs = []
    for compile in (False, True):
        model, original = swapped()
        unnorm.recover_(model, original, tokens(64), compile=compile, folder=tmp_path / str(compile), **QUICK)
        last = json.loads((tmp_path / str(compile) / "steps.jsonl").read_text().splitlines()[-1])
        logs.append((last["alpha"], last["saturation"]))
    sites = [site.path for site in unnorm.find_sites(model)]
    for plain, compiled in zip(*logs, strict=True):
        assert list(compiled) == sites
        assert compiled == pytest.approx(plain, rel=1e-3, abs=1e-3)


def test_a_block_that_does_not_compile_is_an_error_with_a_way_out_and_the_model_is_as_it_was(uncompiling, monkeypatch):
    model, original = swapped()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: setattr(self, "_compiled_call_impl", _raise)
    )
    with pytest.raises(ModelError, match=r"do not compile.*no such thing.*Train without compile"):
        unnorm.recover_(model, original, tokens(64), compile=True, **QUICK)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def _raise(*args, **kwargs):
    raise torch._dynamo.exc.Unsupported("no such thing")


def test_without_a_compiler_it_says_so_before_anything_learns(monkeypatch):
    monkeypatch.setattr(compiled_blocks, "missing_compiler", lambda device: "a C++ compiler, and g++ is not found")
    model, original = swapped()
    with pytest.raises(SettingsError, match=r"g\+\+ is not found.*train without compile"):
        unnorm.recover_(model, original, tokens(64), compile=True, **QUICK)


def test_it_does_not_go_with_parts_of_blocks():
    with pytest.raises(SettingsError, match="ddp"):
        compiled_blocks.check_blocks_compilable("fsdp")


def test_runs_from_before_there_was_the_setting_keep_their_names():
    assert "compile" not in TrainingSettings().model_dump(mode="json")
    assert TrainingSettings(compile=True).model_dump(mode="json")["compile"] is True


def test_dropout_draws_what_it_draws_uncompiled():
    from peft import LoraConfig, get_peft_model

    model, _ = swapped()
    torch.manual_seed(0)
    lora = LoraConfig(r=4, lora_alpha=2, target_modules="all-linear", lora_dropout=0.3, init_lora_weights=False)
    learner = get_peft_model(model, lora).train()

    def losses():
        torch.manual_seed(1)
        return [float(learner(input_ids=tokens(), labels=tokens(), use_cache=False).loss) for _ in range(3)]

    plain = losses()
    assert len(set(plain)) == 3
    with compiled_blocks.compiled_blocks([learner]):
        assert losses() == pytest.approx(plain, rel=1e-5)
