"""Buffers that no file holds: in fp32, whatever the weights are in."""

import pytest
import torch

import unnorm
from surgery.architectures import architecture_config, architecture_tokens
from unnorm import DyT
from unnorm.artefacts.loading import check
from unnorm.surgery.base import load_base
from unnorm.surgery.dtypes import narrow_, to_fp32_

SCALE = 40**0.5  # 6.325; in bf16 6.3125


@pytest.fixture
def gemma(tmp_path):
    """The folder of a Gemma whose scale of the embeddings loses 0.2 % in bf16."""
    from transformers import AutoModelForCausalLM

    config = architecture_config("gemma3_text")
    config.hidden_size = 40
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).bfloat16().save_pretrained(tmp_path / "gemma")
    return tmp_path / "gemma"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_base_has_the_same_scale_in_any_dtype(gemma, dtype):
    model = load_base(str(gemma), dtype)
    assert float(model.model.embed_tokens.embed_scale) == pytest.approx(SCALE, rel=1e-6)
    assert model.dtype == dtype
    assert torch.isfinite(model(architecture_tokens()).logits).all()


@pytest.mark.parametrize("narrowed", [True, False])
def test_a_model_computes_the_same_once_it_is_saved_in_bf16(gemma, narrowed, tmp_path):
    model = load_base(str(gemma), torch.float32 if narrowed else torch.bfloat16)
    unnorm.swap_(model, DyT(), calibrate_on=architecture_tokens(16))
    if narrowed:
        assert narrow_(model, torch.bfloat16)
    unnorm.save(model, tmp_path / "saved")
    assert check(tmp_path / "saved").difference < 1e-5
    loaded = unnorm.load(tmp_path / "saved")
    assert loaded.dtype == loaded.config.dtype == torch.bfloat16
    ids = architecture_tokens()
    with torch.no_grad():
        assert torch.equal(loaded(ids).logits, model(ids).logits)
        torch.testing.assert_close(to_fp32_(loaded)(ids).logits, to_fp32_(model)(ids).logits)


def test_a_model_of_transformers_own_whose_buffers_are_rounded_survives_the_disk(gemma, tmp_path):
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(gemma, dtype=torch.bfloat16)
    assert float(model.model.embed_tokens.embed_scale) == 6.3125
    unnorm.swap_(model, DyT(), calibrate_on=None)
    unnorm.save(model, tmp_path / "saved")
    assert check(tmp_path / "saved").difference < 1e-5
    assert float(model.model.embed_tokens.embed_scale) == 6.3125


def test_an_adapter_on_a_bf16_base_survives_the_disk(gemma, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = load_base(str(gemma), torch.bfloat16)
    unnorm.swap_(model, DyT(), calibrate_on=architecture_tokens(16))
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    unnorm.save(adapted, tmp_path / "adapter")
    assert check(tmp_path / "adapter").difference < 1e-5
