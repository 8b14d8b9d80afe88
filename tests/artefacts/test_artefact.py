import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model

import unnorm
from conftest import FAMILIES, tiny_model, tokens
from unnorm import DyT
from unnorm.foundation.errors import ArtefactError
from unnorm.surgery.base import load_base


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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_swapped_model_survives_the_disk(family, dtype, bases, tmp_path, tokenizer):
    model = load_base(bases[family], dtype)
    unnorm.swap_(model, {"attention": DyT(alpha="channel"), "*": DyT()}, calibrate_on=tokens())
    unnorm.save(model, tmp_path / "m", tokenizer)
    loaded = unnorm.load(tmp_path / "m")
    torch.testing.assert_close(loaded(tokens()).logits, model(tokens()).logits, rtol=0, atol=0)
    assert loaded.dtype == dtype
    assert (tmp_path / "m" / "tokenizer.json").is_file()
    assert (tmp_path / "m" / "generation_config.json").is_file()
    assert not [f.name for f in (tmp_path / "m").iterdir() if f.suffix in (".bin", ".pt", ".pkl", ".pth")]
    unnorm.save(loaded, tmp_path / "again")  # a loaded model can be saved again
    unnorm.load(tmp_path / "again")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("selective", [False, True])
def test_an_adapter_survives_the_disk(family, selective, bases, tmp_path):
    model = adapter(bases[family], selective)
    unnorm.save(model, tmp_path / "a")
    loaded = unnorm.load(tmp_path / "a")
    torch.testing.assert_close(loaded(tokens()).logits, model(tokens()).logits, rtol=0, atol=0)
    merged = loaded.merge_and_unload()
    torch.testing.assert_close(merged(tokens()).logits, model(tokens()).logits, rtol=1e-4, atol=1e-4)


def test_transformers_does_not_take_a_swapped_model_for_the_original(tmp_path):
    from transformers import AutoModelForCausalLM

    model = tiny_model("gpt2")
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "m")
    with pytest.raises(OSError, match="no file named"):
        AutoModelForCausalLM.from_pretrained(tmp_path / "m")


def test_rule_05_a_wrong_base_is_refused(bases, tmp_path):
    unnorm.save(adapter(bases["gpt2"], True), tmp_path / "a")
    with pytest.raises(ArtefactError, match="GPT2LMHeadModel"):
        unnorm.load(tmp_path / "a", base=bases["llama"])
    other = tmp_path / "other"
    tiny_model("gpt2", seed=9).save_pretrained(other)
    with pytest.raises(ArtefactError, match="another base"):
        unnorm.load(tmp_path / "a", base=str(other))


def saved(tmp_path):
    model = tiny_model("gpt2")
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "m")
    return tmp_path / "m"


def rewrite(folder, **changes):
    path = folder / "unnorm.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_damage_is_named(tmp_path):
    folder = saved(tmp_path)
    weights = folder / "weights.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ArtefactError, match=r"weights\.safetensors"):
        unnorm.load(folder)
    damaged = bytearray(whole)
    damaged[-2001:-1] = bytes(2000)
    weights.write_bytes(damaged)
    with pytest.raises(ArtefactError, match="logits differ"):
        unnorm.load(folder)
    weights.write_bytes(whole)
    unnorm.load(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "newer unnorm"),
        ({"surprise": 1}, "surprise"),
        ({"architecture": "LlamaForCausalLM"}, "saved from"),
    ],
)
def test_a_manifest_that_is_not_ours_is_refused(changes, message, tmp_path):
    folder = saved(tmp_path)
    rewrite(folder, **changes)
    with pytest.raises(ArtefactError, match=message):
        unnorm.load(folder)


def test_a_folder_without_a_manifest_is_refused(tmp_path):
    tmp_path.joinpath("config.json").write_text("{}")
    with pytest.raises(ArtefactError, match="holds no"):
        unnorm.load(tmp_path)


def test_saving_replaces_an_artefact_but_nothing_else(tmp_path):
    folder = saved(tmp_path)
    model = unnorm.load(folder)
    unnorm.save(model, folder)
    unnorm.load(folder)
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


def test_a_fresh_process_loads_it(tmp_path):
    folder = saved(tmp_path)
    expected = float(unnorm.load(folder)(tokens()).logits.detach().sum())
    program = f"""
import sys, unnorm
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from conftest import tokens
print(float(unnorm.load({str(folder)!r})(tokens()).logits.detach().sum()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) == pytest.approx(expected, rel=1e-4)
