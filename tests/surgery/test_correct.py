"""Linear layers around new norms, corrected in closed form."""

import pytest
import torch

import unnorm
from conftest import FAMILIES, kl, tiny_model, tokens
from surgery.architectures import architecture, architecture_tokens
from unnorm import DyT, FixedScale
from unnorm.foundation.errors import DataError


@pytest.mark.parametrize("family", FAMILIES)
def test_correction_brings_the_model_closer_and_can_be_undone(family):
    model = tiny_model(family)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    held_out, ids = tokens(8, seed=1), tokens(128)
    with torch.no_grad():
        logits = model(held_out).logits
    reference = logits.log_softmax(-1)
    found = {}
    for correct in ("none", "readers", "all"):
        report = unnorm.swap_(model, DyT(), calibrate_on=ids, correct=correct)
        found[correct] = kl(model, held_out, reference)
        fixes = report.calibration.corrections
        assert {fix.role for fix in fixes} == {"none": set(), "readers": {"reader"}, "all": {"reader", "writer"}}[
            correct
        ]
        assert all(fix.after <= fix.before * (1 + 1e-3) for fix in fixes)
        unnorm.unswap_(model)
        after = model.state_dict()
        assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    # The head of the tiny Llama is tied and stays as it is: its final norm's error is most of what there is.
    assert found["all"] < (1.0 if family == "llama" else 0.9) * found["none"]


def test_readers_and_writers_of_the_families_are_found():
    expected = {"gpt2": (["c_attn", "c_fc"], 12), "gpt_neox": (["query_key_value", "dense_h_to_4h"], 12)}
    for family, (readers, _) in expected.items():
        model = tiny_model(family)
        fixes = unnorm.swap_(model, DyT(), calibrate_on=tokens(32), correct="all").calibration.corrections
        names = {fix.path.rsplit(".", 1)[-1] for fix in fixes if fix.role == "reader"}
        assert names - {"lm_head", "embed_out"} == set(readers)
        assert sum(fix.role == "writer" for fix in fixes) == 4


def test_a_swap_that_is_refused_leaves_no_layer_corrected():
    from transformers import GPT2Config, GPT2LMHeadModel

    sizes = {"n_embd": 32, "n_layer": 1, "n_head": 4, "n_positions": 32, "vocab_size": 128}
    model = GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2, add_cross_attention=True)).eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    specs = {"*": DyT(), "*.ln_cross_attn": DyT()}  # the second is reached with an encoder alone
    with pytest.raises(DataError, match="did not reach"):
        unnorm.swap_(model, specs, calibrate_on=architecture_tokens(8), correct="readers")
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("norm", [DyT(alpha="channel"), FixedScale()], ids=["dyt", "fixedscale"])
@pytest.mark.parametrize("name", ["gemma2", "gemma3_text", "olmo2", "glm4"])
def test_layers_that_write_through_a_norm_are_corrected(name, norm):
    model = architecture(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    held_out, ids = architecture_tokens(16), architecture_tokens(128)
    with torch.no_grad():
        reference = model(held_out).logits.log_softmax(-1)
    found = {}
    for correct in ("readers", "all"):
        report = unnorm.swap_(model, norm, calibrate_on=ids, correct=correct).calibration
        found[correct] = kl(model, held_out, reference)
        writers = [fix for fix in report.corrections if fix.role == "writer"]
        assert len(writers) == (4 if correct == "all" else 0)
        assert all(fix.after < fix.before for fix in writers)
        assert not report.leaves_writers
        unnorm.unswap_(model)
        assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())
    assert found["all"] < 0.99 * found["readers"]


@pytest.mark.parametrize("norm", [DyT(alpha="channel"), FixedScale()], ids=["dyt", "fixedscale"])
@pytest.mark.parametrize(
    ("name", "layers", "norms"),
    [
        ("gemma3_text", 4, 4),
        ("qwen3", 4, 4),
        ("olmo2", 4, 4),  # its norms are as wide as the layers
        ("phi, qk norms", 4, 4),
        ("cohere, qk norms", 4, 4),
        ("stablelm, parallel, qk norms", 4, 12),  # a norm for each head: 4 of queries and 2 of keys
        ("deepseek_v3", 4, 4),  # the one of the keys reads a part of what the layer gives
    ],
)
def test_layers_before_norms_of_queries_and_keys_are_corrected(name, layers, norms, norm):
    model = architecture(name)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    report = unnorm.swap_(model, norm, calibrate_on=architecture_tokens(128), correct="all").calibration
    inner = [fix for fix in report.corrections if fix.role == "inner"]
    assert len(inner) == norms
    assert len({fix.path for fix in inner}) == layers
    linear = {path: module for path, module in model.named_modules() if isinstance(module, torch.nn.Linear)}
    changed = [path for path in linear if not torch.equal(linear[path].weight, before[f"{path}.weight"])]
    assert report.corrected == len(changed)
    assert all(fix.after < 0.99 * fix.before for fix in inner)
    unnorm.unswap_(model)
    assert all(torch.equal(model.state_dict()[key], tensor) for key, tensor in before.items())


def test_padding_does_not_count_before_a_norm_of_queries():
    ids, found = architecture_tokens(64), []
    mask = torch.ones_like(ids)
    mask[:, 8:] = 0
    for last in (ids, torch.where(mask.bool(), ids, 5)):
        model = architecture("qwen3")
        unnorm.swap_(model, DyT(), calibrate_on={"input_ids": last, "attention_mask": mask}, correct="all")
        found.append(model.model.layers[0].self_attn.q_proj.weight.clone())
    torch.testing.assert_close(*found, rtol=0.02, atol=2e-3)


@pytest.mark.parametrize("name", ["mixtral", "bert"])
def test_writers_of_another_make_are_left_alone_and_it_is_said(name):
    model = architecture(name)
    found = {}
    for correct in ("readers", "all"):
        report = unnorm.swap_(model, DyT(), calibrate_on=architecture_tokens(8), correct=correct).calibration
        found[correct] = report.corrections
        assert report.leaves_writers == (correct == "all")
        unnorm.unswap_(model)
    assert found["all"] == found["readers"]


def test_a_tied_head_is_left_alone_and_an_untied_one_is_a_reader():
    tied = tiny_model("llama")
    weight = tied.lm_head.weight.clone()
    fixes = unnorm.swap_(tied, DyT(), calibrate_on=tokens(32), correct="all").calibration.corrections
    assert torch.equal(tied.lm_head.weight, weight)
    assert not any(fix.path == "lm_head" for fix in fixes)
    untied = tiny_model("gpt_neox")
    fixes = unnorm.swap_(untied, DyT(), calibrate_on=tokens(32), correct="readers").calibration.corrections
    assert untied.get_output_embeddings().weight is not untied.get_input_embeddings().weight
    assert any(fix.path in ("embed_out", "lm_head") for fix in fixes)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_corrected_model_and_an_adapter_on_it_survive_the_disk(family, bases, tmp_path):
    from peft import LoraConfig, get_peft_model

    from unnorm.surgery.base import load_base

    model = load_base(bases[family])
    ids = tokens(8)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(32), correct="all")
    with torch.no_grad():
        wanted = model(ids).logits
    unnorm.save(model, tmp_path / "whole")
    with torch.no_grad():
        torch.testing.assert_close(unnorm.load(tmp_path / "whole")(ids).logits, wanted)
    adapted = get_peft_model(model, LoraConfig(r=2, target_modules="all-linear", init_lora_weights=False))
    with torch.no_grad():
        wanted = adapted(ids).logits
    unnorm.save(adapted, tmp_path / "adapter")
    with torch.no_grad():
        torch.testing.assert_close(unnorm.load(tmp_path / "adapter")(ids).logits, wanted)


def test_corrected_weights_are_what_bf16_holds():
    model = tiny_model("gpt2")
    report = unnorm.swap_(model, DyT(), calibrate_on=tokens(64), correct="all")
    for fix in report.calibration.corrections:
        for parameter in model.get_submodule(fix.path).parameters(recurse=False):
            assert torch.equal(parameter, parameter.bfloat16().float())


def test_a_norm_of_queries_may_be_the_first_site():
    """Its input is not the stream."""
    model = architecture("qwen3")
    wanted = dict.fromkeys(["*q_norm", "*post_attention_layernorm", "model.norm"], DyT())
    report = unnorm.swap_(model, wanted, calibrate_on=architecture_tokens(16), correct="all")
    assert "q_norm" in report.calibration.sites[0].path
    assert any(fix.role == "writer" for fix in report.calibration.corrections)
