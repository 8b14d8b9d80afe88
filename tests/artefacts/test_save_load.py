"""What was saved comes back: whole models and adapters, every norm and architecture, dtypes, shards, devices."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model

import unnorm
import warm
from conftest import FAMILIES, tiny_model, tokens
from surgery.architectures import CONFIGS, architecture, architecture_tokens
from unnorm import DyT
from unnorm.artefacts.loading import check
from unnorm.foundation.errors import ArtefactError
from unnorm.norms.spec import known_norms, spec_from
from unnorm.surgery.base import load_base

EXACT = {"rtol": 0, "atol": 0}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def shaken(model):
    """Trainable parameters moved off their start, as training would."""
    torch.manual_seed(5)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data.add_(0.05 * torch.randn_like(parameter))
    return model.eval()


def adapter(base: str, selective: bool):
    model = load_base(base)
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    sites = [site.path for site in unnorm.find_sites(model)] if selective else None
    return shaken(get_peft_model(model, LoraConfig(target_modules="all-linear", modules_to_save=sites)))


def logits(model, ids=None):
    with torch.no_grad():
        return model(input_ids=tokens() if ids is None else ids).logits


def saved(tmp_path, **options):
    model = tiny_model("gpt2")
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "m", **options)
    return tmp_path / "m"


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_a_swapped_model_survives_the_disk(family, dtype, bases, tmp_path, tokenizer):
    model = load_base(bases[family], dtype)
    unnorm.swap_(model, {"attention": DyT(alpha="channel"), "*": DyT()}, calibrate_on=tokens())
    unnorm.save(model, tmp_path / "m", tokenizer)
    loaded = unnorm.load(tmp_path / "m")
    torch.testing.assert_close(logits(loaded), logits(model), **EXACT)
    assert loaded.dtype == dtype
    assert {n: p.dtype for n, p in loaded.named_parameters()} == {n: p.dtype for n, p in model.named_parameters()}
    assert loaded.generation_config.to_dict() == model.generation_config.to_dict()
    assert (tmp_path / "m" / "tokenizer.json").is_file()
    assert not [f.name for f in (tmp_path / "m").iterdir() if f.suffix in (".bin", ".pt", ".pkl", ".pth")]
    unnorm.save(loaded, tmp_path / "again")  # a loaded model can be saved again
    assert check(tmp_path / "again").difference == 0


@pytest.mark.parametrize("name", list(CONFIGS))
def test_every_architecture(name, tmp_path):
    model, ids = architecture(name), architecture_tokens()
    unnorm.swap_(model, DyT(alpha="channel"), calibrate_on=None)
    unnorm.save(model, tmp_path / "m")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "m"), ids), logits(model, ids), **EXACT)


@pytest.mark.parametrize("norm", known_norms())
def test_every_norm(norm, tmp_path):
    model = tiny_model("llama")
    unnorm.swap_(model, spec_from({"norm": norm}), calibrate_on=tokens(), correct="readers")
    unnorm.save(model, tmp_path / "m")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "m")), logits(model), **EXACT)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("selective", [False, True])
def test_an_adapter_survives_the_disk(family, selective, bases, tmp_path):
    model = adapter(bases[family], selective)
    unnorm.save(model, tmp_path / "a")
    loaded = unnorm.load(tmp_path / "a")
    torch.testing.assert_close(logits(loaded), logits(model), **EXACT)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(logits(merged), logits(model), **CLOSE)
    unnorm.save(merged, tmp_path / "merged")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "merged")), logits(merged), **EXACT)


def test_an_adapter_can_be_trained_on_and_saved_again(bases, tmp_path):
    unnorm.save(adapter(bases["llama"], True), tmp_path / "a")
    loaded = unnorm.load(tmp_path / "a")
    with torch.no_grad():
        for parameter in loaded.parameters():
            if parameter.shape == (2, 2):
                parameter.add_(1)
    unnorm.save(loaded, tmp_path / "b")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "b")), logits(loaded), **EXACT)


def test_an_adapter_on_a_sharded_base(bases, tmp_path):
    load_base(bases["gpt_neox"]).save_pretrained(tmp_path / "base", max_shard_size="40KB")
    assert len(list((tmp_path / "base").glob("model-*.safetensors"))) > 2
    model = adapter(str(tmp_path / "base"), True)
    unnorm.save(model, tmp_path / "a")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "a")), logits(model), **EXACT)


def test_several_adapters_on_one_base(bases, tmp_path):
    model = adapter(bases["gpt2"], True)
    model.add_adapter("second", LoraConfig(target_modules=["c_attn"], fan_in_fan_out=True))
    model.set_adapter("second")
    shaken(model)
    unnorm.save(model, tmp_path / "a")
    loaded = unnorm.load(tmp_path / "a")
    assert set(loaded.peft_config) == {"default", "second"}
    assert loaded.active_adapter == "default"
    found = {}
    for name in ("default", "second"):
        for each in (model, loaded):
            each.set_adapter(name)
        found[name] = logits(loaded)
        torch.testing.assert_close(found[name], logits(model), **EXACT)
    assert not torch.allclose(found["default"], found["second"])
    assert set(check(tmp_path / "a").adapters) == {"default", "second"}


def test_a_save_leaves_which_adapters_are_active_and_what_trains(bases, tmp_path):
    model = adapter(bases["llama"], False)
    model.add_adapter("second", LoraConfig(target_modules=["q_proj"]))
    model.set_adapter("second")
    shaken(model)
    model.base_model.set_adapter(["default", "second"])
    for name, parameter in model.named_parameters():
        if ".layers.0." in name:
            parameter.requires_grad_(False)
    before, trains = logits(model), [p.requires_grad for p in model.parameters()]
    unnorm.save(model, tmp_path / "a")
    assert model.active_adapters == ["default", "second"]
    assert [p.requires_grad for p in model.parameters()] == trains
    torch.testing.assert_close(logits(model), before, **EXACT)


def test_an_adapter_without_a_default_name(bases, tmp_path):
    model = load_base(bases["llama"])
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    model = shaken(get_peft_model(model, LoraConfig(target_modules="all-linear"), adapter_name="mine"))
    unnorm.save(model, tmp_path / "a")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "a")), logits(model), **EXACT)


@pytest.mark.parametrize("name", ["mlp", "weight", "model"])
def test_an_adapter_of_the_name_of_a_part_of_the_model(name, bases, tmp_path):
    model = load_base(bases["llama"])
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    model = shaken(get_peft_model(model, LoraConfig(target_modules="all-linear"), adapter_name=name))
    unnorm.save(model, tmp_path / "a")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "a")), logits(model), **EXACT)


@pytest.mark.parametrize("swapped", [True, False])
def test_an_adapter_that_is_no_lora(swapped, bases, tmp_path):
    model = load_base(bases["llama"])
    if swapped:
        unnorm.swap_(model, DyT(), calibrate_on=tokens())
    config = IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"])
    model = shaken(get_peft_model(model, config))
    unnorm.save(model, tmp_path / "a")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "a")), logits(model), **EXACT)


def test_an_adapter_on_a_swapped_and_merged_base(bases, tmp_path):
    first = adapter(bases["llama"], True).merge_and_unload()
    unnorm.save(first, tmp_path / "merged")
    model = unnorm.load(tmp_path / "merged")
    model = shaken(get_peft_model(model, LoraConfig(target_modules="all-linear")))
    unnorm.save(model, tmp_path / "a")
    assert not (tmp_path / "a" / "norms.safetensors").exists()  # its base has them
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "a")), logits(model), **EXACT)
    (tmp_path / "merged").rename(tmp_path / "moved")
    loaded = unnorm.load(tmp_path / "a", base=str(tmp_path / "moved"))
    torch.testing.assert_close(logits(loaded), logits(model), **EXACT)
    config = json.loads((tmp_path / "a" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "merged")


def test_a_swap_of_an_artefact_in_which_nothing_was_swapped(tmp_path):
    """As after fine-tuning the original in full: the adapter brings its norms, the artefact is its base."""
    unnorm.save(tiny_model("llama"), tmp_path / "tuned")
    model = unnorm.load(tmp_path / "tuned")
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    with pytest.raises(unnorm.UnnormError, match="swapped already"):
        unnorm.swap_(model, DyT(), calibrate_on=None)
    unnorm.unswap_(model)
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    model = shaken(get_peft_model(model, LoraConfig(target_modules="all-linear")))
    unnorm.save(model, tmp_path / "a")
    torch.testing.assert_close(logits(unnorm.load(tmp_path / "a")), logits(model), **EXACT)


def test_a_base_that_changed_under_its_adapter_is_not_lost_in_silence(bases, tmp_path):
    model = adapter(bases["gpt2"], False)
    with torch.no_grad():
        model.get_base_model().transformer.wpe.weight[3] += 1
    with pytest.raises(ArtefactError, match=r"1 weights under the adapter .*transformer\.wpe\.weight"):
        unnorm.save(model, tmp_path / "a")


@pytest.mark.parametrize("name", ["qwen2", "starcoder2"])
def test_rotary_frequencies_that_were_rounded_do_not_make_an_artefact_that_cannot_be_loaded(name, tmp_path):
    model = architecture(name).bfloat16()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    unnorm.swap_(model, DyT(), calibrate_on=None)
    unnorm.save(model, tmp_path / "m")
    assert check(tmp_path / "m").difference < 1e-5
    assert all(torch.equal(buffer, before[name]) for name, buffer in model.named_buffers())


def test_shards_and_tied_embeddings(tmp_path):
    folder = saved(tmp_path, shard="40KB")
    files = sorted(path.name for path in folder.glob("weights-*.safetensors"))
    assert len(files) > 2
    index = json.loads((folder / "weights.safetensors.index.json").read_text())
    assert sorted(set(index["weight_map"].values())) == files
    loaded = unnorm.load(folder)
    assert loaded.lm_head.weight is loaded.transformer.wte.weight
    one = saved(tmp_path)
    assert [path.name for path in one.glob("weights*")] == ["weights.safetensors"]
    torch.testing.assert_close(logits(loaded), logits(unnorm.load(one)), **EXACT)


@pytest.mark.parametrize("device_map", ["auto", "cpu", {"": "cpu"}])
def test_device_maps(device_map, bases, tmp_path):
    folder = saved(tmp_path)
    torch.testing.assert_close(logits(unnorm.load(folder, device_map=device_map)), logits(unnorm.load(folder)), **EXACT)
    unnorm.save(adapter(bases["llama"], True), tmp_path / "a")
    loaded = unnorm.load(tmp_path / "a", device_map=device_map)
    torch.testing.assert_close(logits(loaded), logits(unnorm.load(tmp_path / "a")), **EXACT)


def test_a_loaded_model_trains(tmp_path):
    model = unnorm.load(saved(tmp_path))
    before = model.transformer.ln_f.alpha.item()
    model.train()(input_ids=tokens(), labels=tokens()).loss.backward()
    torch.optim.SGD(model.parameters(), 0.1).step()
    assert model.transformer.ln_f.alpha.item() != before
    assert unnorm.load(tmp_path / "m").transformer.ln_f.alpha.item() == before  # the files did not change


def test_transformers_does_not_take_a_swapped_model_for_the_original(tmp_path, bases):
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    folder = saved(tmp_path)
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(folder)
    unnorm.save(adapter(bases["llama"], True), tmp_path / "a")
    with pytest.raises(Exception, match=r"is-a-swapped-model/see-README"):
        AutoPeftModelForCausalLM.from_pretrained(tmp_path / "a")
    readme = (tmp_path / "a" / "README.md").read_text()
    assert "Do not put it on the plain base" in readme
    assert "5 sites: dyt" in readme


def test_saving_replaces_an_artefact_but_nothing_else(tmp_path):
    folder = saved(tmp_path)
    model = unnorm.load(folder)
    unnorm.save(model, folder)  # also the one that its weights are mapped from
    torch.testing.assert_close(logits(unnorm.load(folder)), logits(model), **EXACT)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(ArtefactError, match="not replaced"):
        unnorm.save(model, tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "precious"


def test_a_saved_swap_cannot_be_undone(tmp_path):
    model = tiny_model("gpt2")
    unnorm.swap_(model, DyT(), calibrate_on=None)
    unnorm.save(model, tmp_path / "m")
    with pytest.raises(unnorm.UnnormError, match="saved"):
        unnorm.unswap_(model)


def program(text: str) -> list[str]:
    path = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r})\n"
    return [sys.executable, "-c", path + text]


def test_a_fresh_process_loads_it(tmp_path):
    folder = saved(tmp_path)
    expected = float(unnorm.load(folder)(tokens()).logits.detach().sum())
    text = f"""
import unnorm
from conftest import tokens
print(float(unnorm.load({str(folder)!r})(tokens()).logits.detach().sum()))
"""
    done = subprocess.run(program(text), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("moment", ["write_tensors", "finish", "inventory", "replace"])
def test_killed_in_the_middle_the_old_artefact_is_whole(moment, tmp_path):
    folder = saved(tmp_path)
    before = logits(unnorm.load(folder))
    text = f"""
import os, pathlib, signal, torch, unnorm
import unnorm.artefacts.saving as saving
from conftest import tiny_model, tokens
from unnorm import DyT
def stop(*_, **__):
    pathlib.Path({str(tmp_path / "reached")!r}).touch()
    os.kill(os.getpid(), signal.SIGKILL)
if {moment!r} == "replace":
    os.replace = lambda a, b, real=os.replace: stop() if str(b) == {str(folder)!r} else real(a, b)
else:
    real = saving.{moment if moment != "replace" else "finish"}
    def halfway(*arguments, **options):
        real(*arguments, **options)
        stop()
    saving.{moment if moment != "replace" else "finish"} = halfway
model = tiny_model("gpt2", seed=1)
unnorm.swap_(model, DyT(), calibrate_on=tokens())
unnorm.save(model, {str(folder)!r})
"""
    done = warm.run(text)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert (tmp_path / "reached").exists()
    torch.testing.assert_close(logits(unnorm.load(folder)), before, **EXACT)
    saved(tmp_path)  # and what the kill left behind is in nobody's way
    unnorm.load(folder)
    assert os.listdir(tmp_path).count("m") == 1
    assert [name for name in os.listdir(tmp_path) if name.startswith(".m.")] == []
