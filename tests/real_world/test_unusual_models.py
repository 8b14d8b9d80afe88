"""Models that are more, or other, than a causal language model: with a vision tower, a decoder without its encoder,
norms called at several places, a state space, a tokenizer of more tokens than there are embeddings."""

import json

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

import unnorm
from conftest import VOCABULARY, alpaca_rows, tokens
from surgery.architectures import architecture, architecture_tokens
from unnorm import DyT
from unnorm.artefacts.loading import check
from unnorm.artefacts.package import package
from unnorm.cli.main import run
from unnorm.foundation.errors import DataError, SettingsError
from unnorm.tuning.packing_probe import packing_is_clean
from unnorm.tuning.settings import LoraSettings
from unnorm.tuning.strategies import apply_strategy, lora_targets

SPECIAL = {"bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0}
TEXT = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    **SPECIAL,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
DECODER = {
    "vocab_size": VOCABULARY,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 64,
    "decoder_start_token_id": 0,
    **SPECIAL,
}


def made(kind, **settings):
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **settings)).eval()


def composite():
    images = {"mm_tokens_per_image": 4, "image_token_index": 380, "boi_token_index": 381, "eoi_token_index": 382}
    return made("gemma3", text_config=TEXT, vision_config=VISION, **images)


def logits(model, ids=None):
    with torch.no_grad():
        return model(input_ids=tokens() if ids is None else ids).logits


def is_vision(path):
    return path.startswith("model.vision_tower.") or path.startswith("model.multi_modal_projector.")


@pytest.mark.parametrize("start", [None, tokens()], ids=["bare", "calibrated"])
def test_a_vision_tower_is_left_alone_and_named(start, tmp_path):
    model = composite()
    assert type(model).__name__ == "Gemma3ForConditionalGeneration"
    assert packing_is_clean(model)
    sites = unnorm.find_sites(model)
    outside = [site.path for site in sites if is_vision(site.path)]
    assert len(outside) == 7
    assert [site.path for site in sites if not site.is_reached] == outside
    before = {name: value.clone() for name, value in model.state_dict().items() if is_vision(name)}
    report = unnorm.swap_(model, {"*": DyT()} if start is None else DyT(), calibrate_on=start)
    assert report.unreached == tuple(outside)
    assert [site.path for site in report.sites] == [site.path for site in sites if not is_vision(site.path)]
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    unnorm.save(model, tmp_path / "m")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "m")), logits(model), rtol=0, atol=0)
    package(tmp_path / "m", tmp_path / "p")
    assert check(tmp_path / "p").difference == 0


def test_a_vision_tower_can_be_asked_for():
    model = composite()
    report = unnorm.swap_(model, {"model.vision_tower.*": DyT()}, calibrate_on=None)
    assert {site.path.split(".")[1] for site in report.sites} == {"vision_tower"}
    with pytest.raises(DataError, match=r"did not reach model\.vision_tower.*sites alone, or start them bare"):
        unnorm.swap_(composite(), {"model.vision_tower.*": DyT()}, calibrate_on=tokens())


def test_lora_goes_to_the_language_model_alone():
    model = composite()
    for targets in ("auto", ["q_proj", "v_proj"]):
        found = lora_targets(model, LoraSettings(targets=targets))
        assert found
        assert not any(is_vision(name) for name in found)
    assert lora_targets(model, LoraSettings(targets=["out_proj"])) == ["out_proj"]  # only the vision tower has one
    _, trainable = apply_strategy(
        model, "selective", site_paths=["model.language_model.norm"], lora=LoraSettings(), seed=0
    )
    assert len(trainable.names["lora"]) == 2 * 2 * 7  # two halves, two layers, seven linear layers each
    assert not any("vision" in name for name in trainable.names["lora"])


def test_a_composite_model_from_swap_to_fine_tune(tmp_path, tokenizer, capsys):
    composite().save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(alpaca_rows()))
    base, short = str(tmp_path / "base"), ["--max-length", "128"]
    assert run(["sites", base]) == 0
    assert "token ids alone do not reach the last 7" in " ".join(capsys.readouterr().err.split())
    assert run(["swap", base, "--bare", "--out", str(tmp_path / "m")]) == 0
    assert run(["evaluate", str(tmp_path / "m"), "--data", str(rows), "--tokens", "400", *short]) == 0
    out, small = str(tmp_path / "run"), ["--tokens", "512", "--batch-tokens", "256", "--evaluation-tokens", "256"]
    tune = ["finetune", base, "--data", str(rows), "--out", out, "--strategy", "selective", "--precision", "fp32"]
    assert run([*tune, *small, *short]) == 0
    assert check(tmp_path / "run" / "model").difference == 0
    held = [name for name, _ in unnorm.load(tmp_path / "run" / "model").named_parameters() if ".default." in name]
    assert held
    assert not any("vision" in name for name in held)


@pytest.mark.parametrize("kind", ["bart", "marian", "pegasus", "mbart", "blenderbot", "trocr"])
def test_cross_attention_of_a_decoder_alone_is_left_alone_and_named(kind, tmp_path):
    settings = {name: value for name, value in DECODER.items() if kind != "trocr" or not name.startswith("encoder")}
    model = made(kind, **settings)
    before = logits(model)
    report = unnorm.swap_(model, DyT(), calibrate_on=tokens())
    assert report.unreached == tuple(f"model.decoder.layers.{layer}.encoder_attn_layer_norm" for layer in range(2))
    assert len(report.sites) >= 4
    assert ((logits(model) - before).square().mean() / before.var()) < 0.4
    unnorm.save(model, tmp_path / "m")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "m")), logits(model), rtol=0, atol=0)


def llama4():
    return made("llama4_text", **TEXT, intermediate_size_mlp=64, num_local_experts=2, use_qk_norm=True)


@pytest.mark.parametrize("mode", ["one-pass", "sequential"])
def test_norms_called_at_several_places_are_fitted_to_all_of_them(mode):
    model, parallel = llama4(), llama4()
    shared = tuple(f"model.layers.{layer}.self_attn.qk_norm" for layer in range(2))
    before = logits(model)
    report = unnorm.swap_(model, DyT(), calibrate_on=tokens(), mode=mode)
    assert report.calibration.several == shared
    assert report.calibration.mode == mode
    assert [fit.path for fit in report.calibration.sites] == [site.path for site in report.sites]
    assert len(report.sites) == 7
    unnorm.swap_(parallel, DyT(), calibrate_on=tokens(), mode="parallel")
    for path in shared:  # as mode parallel fits them: to the original's queries and keys together
        fitted, wanted = model.get_submodule(path), parallel.get_submodule(path)
        torch.testing.assert_close(fitted.alpha, wanted.alpha)
        torch.testing.assert_close(fitted.weight, wanted.weight)
    error = (logits(model) - before).square().mean() / before.var()
    assert error < 0.3
    assert error <= 1.5 * (logits(parallel) - before).square().mean() / before.var()


def test_a_stack_that_is_run_several_times():
    model = made("hrm_text", **TEXT)
    before = logits(model)
    report = unnorm.swap_(model, DyT(), calibrate_on=tokens(), correct="none")
    assert set(report.calibration.several) <= {site.path for site in report.sites}
    assert any("L_module" in path for path in report.calibration.several)
    assert ((logits(model) - before).square().mean() / before.var()) < 0.4


def test_readers_are_corrected_where_a_norm_has_one_place():
    model = llama4()
    before = logits(model)
    report = unnorm.swap_(model, DyT(), calibrate_on=tokens(), correct="readers")
    assert report.calibration.corrections
    assert ((logits(model) - before).square().mean() / before.var()) < 0.3


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_lora_leaves_out_what_peft_refuses(name):
    model, ids = architecture(name), architecture_tokens()
    assert "out_proj" not in lora_targets(model, LoraSettings())
    assert "in_proj" in lora_targets(model, LoraSettings())
    with pytest.raises(SettingsError, match=r"'out_proj' cannot be used: .*incompatible with Mamba"):
        lora_targets(model, LoraSettings(targets=["in_proj", "out_proj"]))
    unnorm.swap_(model, DyT(), calibrate_on=None)
    sites = [site.path for site in unnorm.find_sites(model)]
    model, trainable = apply_strategy(model, "selective", site_paths=sites, lora=LoraSettings(), seed=0)
    model(input_ids=ids, labels=ids).loss.backward()
    by_name = dict(model.named_parameters())
    for group in ("lora", "norm"):
        assert trainable.names[group]
        assert all(by_name[name].grad is not None for name in trainable.names[group]), group
