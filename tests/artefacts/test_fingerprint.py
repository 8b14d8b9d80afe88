"""The fingerprint is fp32 logits whatever holds the model, and costs little memory beside it."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import EsmConfig, EsmForMaskedLM

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from surgery.architectures import CONFIGS, architecture
from unnorm import DyT
from unnorm.artefacts.fingerprint import Fingerprint, fingerprint
from unnorm.artefacts.manifest import read_manifest


def plain_logits(model, length: int) -> torch.Tensor:
    """By a copy of the whole in fp32, without any of the means that save memory."""
    model = copy.deepcopy(model).float().eval()
    size = model.config.get_text_config().vocab_size
    ids = (torch.arange(length) * 7919 + 13) % size
    columns = (torch.arange(16) * 104_729 + 7) % size
    with torch.no_grad():
        return model(input_ids=ids[None], use_cache=False).logits[0][:, columns].float()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", [name for name in CONFIGS if not name.startswith("mamba")])
def test_it_is_what_the_whole_in_fp32_computes(name, dtype):
    model = architecture(name).to(dtype)
    unnorm.swap_(model, DyT(), calibrate_on=None)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    found = torch.tensor(fingerprint(model).logits)
    torch.testing.assert_close(found, plain_logits(model, found.shape[0]), rtol=1e-4, atol=1e-5)
    after = model.state_dict()
    assert all(
        torch.equal(after[name], tensor) and after[name].dtype == tensor.dtype for name, tensor in before.items()
    )
    assert not any("forward" in vars(module) for module in model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_head_whose_bias_is_added_outside_of_it_computes_every_column(dtype):
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    config = EsmConfig(vocab_size=99, max_position_embeddings=12, pad_token_id=1, **sizes)
    model = EsmForMaskedLM(config).to(dtype)
    nn.init.normal_(model.lm_head.bias)
    unnorm.swap_(model, DyT(), calibrate_on=None)
    found = torch.tensor(fingerprint(model).logits)
    assert found.shape[0] == 10, "its first position is after that of padding"
    torch.testing.assert_close(found, plain_logits(model, 10), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_modes_flags_and_adapters_are_put_back(family):
    model = tiny_model(family)
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    alone = fingerprint(model)
    model = get_peft_model(model, LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model.add_adapter("second", LoraConfig(target_modules="all-linear", init_lora_weights=False))
    model.train()
    next(iter(model.modules())).training = True
    modes = [module.training for module in model.modules()]
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    first, second = fingerprint(model, "default"), fingerprint(model, "second")
    assert alone.difference(fingerprint(model)) == 0
    assert len({str(each.logits) for each in (alone, first, second)}) == 3
    assert model.active_adapter == "default"
    assert [module.training for module in model.modules()] == modes
    assert {name: parameter.requires_grad for name, parameter in model.named_parameters()} == trains


def test_a_difference_that_no_device_makes_is_beyond_the_tolerance():
    """Noise of fp32 (1e-6 of the weights) is within it; a norm that is 1 % off is not."""
    model = tiny_model("llama")
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    mine = fingerprint(model)
    noisy = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in noisy.parameters():
            parameter.mul_(1 + 1e-6 * torch.randn_like(parameter))
    assert 0 < mine.difference(fingerprint(noisy)) < mine.tolerance / 10
    with torch.no_grad():
        model.model.layers[0].input_layernorm.alpha.mul_(1.01)
    assert not mine.holds_for(fingerprint(model))


def test_nothing_equals_nan_or_another_shape():
    mine = Fingerprint(logits=[[1.0, 2.0]], tolerance=0.1)
    assert mine.holds_for(Fingerprint(logits=[[1.05, 2.0]], tolerance=0.1))
    assert not mine.holds_for(Fingerprint(logits=[[float("nan"), 2.0]], tolerance=0.1))
    assert not mine.holds_for(Fingerprint(logits=[[1.0]], tolerance=0.1))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
@pytest.mark.parametrize("family", FAMILIES)
def test_a_gpu_computes_the_same_within_the_tolerance(family, tmp_path):
    model = tiny_model(family)
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "m")
    unnorm.load(tmp_path / "m", device_map="cuda")


def test_a_model_that_rounding_changes_is_saved_with_a_tolerance_that_bears_it(tmp_path):
    """A bare swap of a deep model: what one more thread does to a sum, it makes as large as its logits."""
    model = tiny_model("llama")
    calm = fingerprint(model, to_save=True)
    assert calm.tolerance == fingerprint(model).tolerance
    unnorm.swap_(model, DyT(alpha_init=1e4), calibrate_on=None)
    assert fingerprint(model, to_save=True).tolerance > 10 * fingerprint(model).tolerance
    unnorm.save(model, tmp_path / "wild")
    weight = model.model.embed_tokens.weight
    torch.manual_seed(0)
    with torch.no_grad():
        weight.mul_(1 + 1e-5 * torch.randn_like(weight))
    saved = Fingerprint(**read_manifest(tmp_path / "wild").fingerprint.model_dump())
    assert not fingerprint(model).holds_for(saved)
    assert saved.holds_for(fingerprint(model))
