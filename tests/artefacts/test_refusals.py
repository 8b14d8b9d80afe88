"""Whatever does not belong together, or is damaged, is refused by a message of its own, with exit code 2."""

import json
import shutil

import orjson
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

import unnorm
from artefacts.test_save_load import adapter, saved, shaken
from conftest import tiny_config, tiny_model, tokens
from unnorm import DyT
from unnorm.artefacts.files import inventory
from unnorm.artefacts.manifest import Manifest
from unnorm.cli.main import run
from unnorm.foundation.errors import ModelError
from unnorm.norms.derf import Derf
from unnorm.norms.dyisru import DyISRU
from unnorm.norms.fixed_scale import FixedScale


def refused(capsys, folder, *options) -> str:
    """What `unnorm check` says of the folder. The library raises the same."""
    capsys.readouterr()
    assert run(["check", str(folder), *map(str, options)]) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert "fault of unnorm" not in said
    return said


def change(folder, **changes):
    """Change entries of a manifest as someone would who knows what he does."""
    path = folder / "unnorm.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def account_again(folder):
    """Make the manifest's account of the files fit what stands there now."""
    change(folder, files={name: file.model_dump() for name, file in inventory(folder).items()})


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("whole"))


@pytest.fixture
def model(whole, tmp_path):
    return shutil.copytree(whole, tmp_path / "model")


@pytest.fixture(scope="module")
def an_adapter(tmp_path_factory, bases):
    folder = tmp_path_factory.mktemp("adapter") / "a"
    unnorm.save(adapter(bases["gpt2"], True), folder)
    return folder


@pytest.fixture
def worn(an_adapter, tmp_path):
    return shutil.copytree(an_adapter, tmp_path / "adapter")


def test_what_is_right_is_not_refused(model, worn, capsys):
    for folder in (model, worn):
        assert run(["check", str(folder), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["difference"] == 0
    assert found["adapters"] == {"default": 0}


def test_a_file_cut_short(model, capsys):
    path = model / "weights.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    said = refused(capsys, model)
    assert "weights.safetensors is cut short" in said


def test_a_flipped_byte(model, capsys):
    path = model / "weights.safetensors"
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)
    assert "weights.safetensors was changed since it was saved" in refused(capsys, model)


def test_a_missing_file(model, capsys):
    (model / "config.json").unlink()
    assert "config.json is missing" in refused(capsys, model)


def test_a_link_in_place_of_a_file(model, tmp_path, capsys):
    shutil.move(model / "config.json", tmp_path / "config.json")
    (model / "config.json").symlink_to(tmp_path / "config.json")
    assert "config.json is a link" in refused(capsys, model)


def test_no_manifest(model, capsys):
    (model / "unnorm.json").unlink()
    assert "holds no unnorm.json" in refused(capsys, model)


def test_damage_that_the_account_does_not_show_changes_the_logits(model, capsys):
    path = model / "weights.safetensors"
    tensors = load_file(path)
    tensors["transformer.h.0.ln_1.weight"] *= 1.1
    save_file(tensors, path, metadata={"format": "pt"})
    account_again(model)
    assert "its logits differ by" in refused(capsys, model)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 3}, "Install a newer unnorm"),
        ({"version": 1}, "from before the first release"),
        ({"surprise": 1}, "surprise"),
        ({"architecture": "LlamaForCausalLM"}, "saved from a LlamaForCausalLM, not a GPT2LMHeadModel"),
        ({"architecture": "os.system"}, "architecture"),
        ({"dtype": "int8"}, "dtype"),
        ({"files": {"../../etc/passwd": {"bytes": 1, "digest": "0" * 32}}}, "files"),
        ({"files": {"/etc/passwd": {"bytes": 1, "digest": "0" * 32}}}, "files"),
        ({"files": {"config.json": {"bytes": -1, "digest": "0" * 32}}}, "files"),
        ({"adapters": {"../up": {"logits": [[0.0]], "tolerance": 1.0}}}, "adapters"),
        ({"corrected": ["a/../b"]}, "corrected"),
        ({"tied": {"lm_head.weight": "transformer.wpe.weight"}}, "ties"),
        ({"fingerprint": {"logits": [[0.0]] * 65, "tolerance": 1.0}}, "fingerprint"),
        ({"fingerprint": {"logits": [[0.0]], "tolerance": 1e9}}, "fingerprint"),
    ],
)
def test_a_manifest_that_is_not_ours(changes, message, model, capsys):
    change(model, **changes)
    assert message in refused(capsys, model)


def site(folder, **changes):
    entries = json.loads((folder / "unnorm.json").read_text())["sites"]
    entries[0] |= changes
    change(folder, sites=entries)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "transformer.h.9.ln_1"}, "names a site 'transformer.h.9.ln_1' that GPT2LMHeadModel lacks"),
        ({"path": "transformer..ln"}, "sites.0.path"),
        ({"width": 2**40}, "sites.0.width"),
        ({"width": 2**23}, "transformer.h.0.ln_1.bias is [32], not [8388608]"),
        ({"spec": {"norm": "derf"}}, "1 missing, transformer.h.0.ln_1.shift first"),
        ({"spec": {"norm": "nobody"}}, "no norm named 'nobody'"),
        ({"spec": {"norm": "dyt", "surprise": 1}}, "surprise"),
    ],
)
def test_a_site_that_does_not_fit(changes, message, model, capsys):
    site(model, **changes)
    assert message in refused(capsys, model)


def test_a_manifest_of_absurd_size_is_not_read(model, monkeypatch, capsys):
    monkeypatch.setattr("unnorm.artefacts.manifest._MAX_BYTES", 1000)
    assert "larger than any manifest can be" in refused(capsys, model)


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b'{"version": "2"}', b"\xff\xfe", b"{" * 100_000])
def test_a_manifest_of_nonsense(content, model, capsys):
    (model / "unnorm.json").write_bytes(content)
    assert "unnorm.json" in refused(capsys, model)


@pytest.mark.parametrize("field", ["n_embd", "vocab_size"])
def test_a_configuration_of_absurd_size_takes_no_memory(field, model, capsys):
    path = model / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), field: 2**22}))
    account_again(model)
    assert "do not fit" in refused(capsys, model)


def test_remote_code_is_not_run(model, capsys):
    path = model / "config.json"
    content = json.loads(path.read_text())
    content |= {"model_type": "mine", "auto_map": {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model"}}
    path.write_text(json.dumps(content))
    (model / "evil.py").write_text("raise SystemExit('ran')")
    account_again(model)
    assert "config.json cannot be used" in refused(capsys, model)


def test_rule_05_an_adapter_on_another_base_is_refused(worn, tmp_path, tokenizer, capsys):
    other = tmp_path / "other"
    tiny_model("gpt2", seed=9).save_pretrained(other)
    said = refused(capsys, worn, "--base", other)
    assert "was trained on another base" in said
    assert "21 of 29 weights differ (lm_head.weight first)" in said


def test_a_base_of_another_architecture(worn, bases, capsys):
    assert "saved from a GPT2LMHeadModel, not a LlamaForCausalLM" in refused(capsys, worn, "--base", bases["llama"])


def test_a_base_of_another_width(worn, tmp_path, capsys):
    from transformers import GPT2LMHeadModel

    config = tiny_config("gpt2")
    config.n_embd = 64
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "wide")
    assert "weights differ" in refused(capsys, worn, "--base", tmp_path / "wide")


def test_a_base_of_another_depth(worn, tmp_path, capsys):
    from transformers import GPT2LMHeadModel

    config = tiny_config("gpt2")
    config.n_layer = 1
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "shallow")
    said = refused(capsys, worn, "--base", tmp_path / "shallow")
    assert "weights are missing (transformer.h.1.attn.c_attn.bias first)" in said


def test_a_base_that_is_gone(worn, tmp_path, capsys):
    change(worn, base={"name": str(tmp_path / "gone"), "hash": "", "artefact": False})
    assert "there is no folder" in refused(capsys, worn)


def test_an_artefact_where_a_plain_base_belongs(worn, model, capsys):
    assert "stands on a plain base" in refused(capsys, worn, "--base", model)


def test_a_whole_model_needs_no_base(model, bases, capsys):
    assert "needs no base" in refused(capsys, model, "--base", bases["gpt2"])


def on_an_artefact(tmp_path, spec):
    model = tiny_model("gpt2")
    unnorm.swap_(model, spec, calibrate_on=tokens())
    unnorm.save(model, tmp_path / "base")
    return shaken(get_peft_model(unnorm.load(tmp_path / "base"), LoraConfig(target_modules="all-linear")))


@pytest.mark.parametrize("other", [Derf(), DyISRU(), DyT(alpha="channel"), None])
def test_a_base_with_other_norms(other, tmp_path, bases, capsys):
    """DyT and DyISRU have the same parameters by name and shape: only the manifest tells them apart."""
    unnorm.save(on_an_artefact(tmp_path, DyT()), tmp_path / "a")
    model = tiny_model("gpt2")
    if other is not None:
        unnorm.swap_(model, other, calibrate_on=tokens())
    unnorm.save(model, tmp_path / "other")
    said = refused(capsys, tmp_path / "a", "--base", tmp_path / "other")
    assert "was trained on other norms" in said
    assert f"there is {other.to_dict() if other else 'none'}" in said
    assert "stands on an artefact" in refused(capsys, tmp_path / "a", "--base", bases["gpt2"])


def test_a_base_with_the_same_norms_and_other_weights(tmp_path, capsys):
    unnorm.save(on_an_artefact(tmp_path, DyT()), tmp_path / "a")
    model = tiny_model("gpt2", seed=4)
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "base")
    assert "was trained on another base" in refused(capsys, tmp_path / "a")


def test_an_adapter_of_other_shapes(worn, capsys):
    path = worn / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_A" in name)
    save_file({**tensors, name: torch.zeros(3, 3)}, path)
    account_again(worn)
    assert "does not hold an adapter for this model" in refused(capsys, worn)
    del tensors[name]
    save_file(tensors, path)
    account_again(worn)
    assert "does not fit its configuration" in refused(capsys, worn)


def test_adapter_weights_that_are_pickled_are_not_read(worn, capsys):
    (worn / "adapter_model.safetensors").rename(worn / "adapter_model.bin")
    account_again(worn)
    assert "no adapter_model.safetensors" in refused(capsys, worn)


def test_norms_that_do_not_fit(worn, capsys):
    path = worn / "norms.safetensors"
    tensors = load_file(path)
    tensors.pop("transformer.ln_f.alpha")
    save_file(tensors, path)
    account_again(worn)
    assert "norms.safetensors does not fit transformer.ln_f" in refused(capsys, worn)


def test_an_adapter_that_computes_something_else(worn, capsys):
    path = worn / "adapter_model.safetensors"
    save_file({name: tensor * 1.2 for name, tensor in load_file(path).items()}, path)
    account_again(worn)
    assert "with its adapter 'default' does not compute what was saved" in refused(capsys, worn)


def test_the_manifest_of_a_model_is_small_and_strict(model):
    content = orjson.loads((model / "unnorm.json").read_bytes())
    assert Manifest.model_validate(content).kind == "model"
    assert set(content["files"]) == {"config.json", "generation_config.json", "weights.safetensors"}
    assert (model / "unnorm.json").stat().st_size < 60_000


@pytest.mark.parametrize(("spec", "advice"), [(FixedScale(), True), (DyT(), False)], ids=["fixedscale", "dyt"])
def test_a_model_whose_logits_overflow_is_not_saved_and_linear_norms_are_named(spec, advice, tmp_path):
    model = tiny_model("llama")
    unnorm.swap_(model, spec, calibrate_on=tokens(16))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.mul_(1e30)
            layer.mlp.up_proj.weight.mul_(1e30)
    with pytest.raises(ModelError, match=r"with its new norms computes NaN or infinity.*Nothing was saved") as error:
        unnorm.save(model, tmp_path / "out")
    assert ("fixedscale is linear" in str(error.value)) == advice
    assert not (tmp_path / "out").exists()
