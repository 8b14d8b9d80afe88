"""Bases as people have them: cut, renamed, of another head, as older versions wrote them, as pointers of Git LFS."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import unnorm
from conftest import alpaca_rows, tiny_config, tiny_model, tokens
from unnorm.artefacts.loading import open_model
from unnorm.cli.main import run
from unnorm.evaluation.judges.likelihood import load_likelihood
from unnorm.evaluation.judges.reward import load_reward
from unnorm.foundation.errors import ModelError
from unnorm.surgery.base import load_base, load_tokenizer

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.fixture
def base(bases, tmp_path):
    """Copies a family's folder, with its weights changed."""

    def make(family, change=None):
        folder = tmp_path / family
        shutil.copytree(bases[family], folder)
        if change is not None:
            weights = load_file(folder / "model.safetensors")
            save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})
        return str(folder)

    return make


def without_norms(weights):
    return {name: tensor for name, tensor in weights.items() if "norm" not in name}


def prefixed(weights):
    return {f"base_model.{name}": tensor for name, tensor in weights.items()}


def without_head(weights):
    return {name: tensor for name, tensor in weights.items() if name not in ("embed_out.weight", "lm_head.weight")}


def with_another_head(weights):
    return {**weights, "score.weight": torch.zeros(1, 32)}


def cut(weights):
    return {name: tensor[:16].clone() if name == "model.norm.weight" else tensor for name, tensor in weights.items()}


@pytest.mark.parametrize(
    ("family", "change", "named"),
    [
        ("llama", without_norms, "5 are missing in its files, model.layers.0.input_layernorm.weight first"),
        ("llama", prefixed, "base_model.model.embed_tokens.weight first"),
        ("gpt_neox", without_head, r"1 are missing in its files, (embed_out|lm_head)\.weight first"),
        ("gpt_neox", without_norms, "missing in its files, gpt_neox.final_layer_norm.bias first"),
        ("gpt2", with_another_head, "1 of its files have no place in it, score.weight first"),
        ("llama", cut, r"1 are of another size, model.norm.weight first: \[16\], not \[32\]"),
    ],
)
def test_rule_23_weights_that_do_not_belong_are_refused_by_name(base, family, change, named):
    name = base(family, change)
    for load in (load_base, open_model, load_likelihood):
        with pytest.raises(ModelError, match=named):
            load(name)


@pytest.mark.parametrize("change", [without_norms, prefixed])
def test_every_verb_refuses_them_and_writes_nothing(base, bases, change, tmp_path, capsys):
    name, out = base("llama", change), tmp_path / "out"
    rows = tmp_path / "rows.json"
    rows.write_text(json.dumps(alpaca_rows()))
    for verb in (
        ["sites", name],
        ["swap", name, "--bare", "--out", str(out)],
        ["generate", name, "--out", str(out)],
        ["evaluate", name, "--data", str(rows)],
        ["latency", bases["gpt2"], name],
        ["finetune", name, "--data", str(rows), "--out", str(out), "--precision", "fp32"],
    ):
        assert run(verb) == 2, verb
        said = " ".join(capsys.readouterr().err.split())
        assert "layers.0.input_layernorm.weight" in said or "base_model.model.embed_tokens.weight" in said, verb
        assert not any(path.exists() for path in (out / "model", out / "unnorm.json")), verb
        assert not out.is_file(), verb


def older(weights):
    """What files of older versions of transformers hold beside the weights."""
    mask = torch.ones(1, 1, 64, 64, dtype=torch.uint8)
    more = {}
    for layer in range(2):
        more |= {
            f"gpt_neox.layers.{layer}.attention.bias": mask,
            f"gpt_neox.layers.{layer}.attention.masked_bias": torch.tensor(-1e9),
            f"gpt_neox.layers.{layer}.attention.rotary_emb.inv_freq": torch.ones(4),
        }
    return {**weights, **{name: tensor.clone() for name, tensor in more.items()}}


def without_prefix(weights):
    """gpt2 as it was first published: the model without its head, no prefix, masks as buffers."""
    plain = {name.removeprefix("transformer."): t for name, t in weights.items() if name != "lm_head.weight"}
    masks = {f"h.{layer}.attn.{n}": torch.ones(1, 1, 64, 64) for layer in range(2) for n in ("bias",)}
    return {**plain, **masks, "h.0.attn.masked_bias": torch.tensor(-1e4)}


def rotary_in_each_layer(weights):
    return {**weights, **{f"model.layers.{n}.self_attn.rotary_emb.inv_freq": torch.ones(8) for n in range(2)}}


@pytest.mark.parametrize(
    ("family", "change"), [("gpt_neox", older), ("gpt2", without_prefix), ("llama", rotary_in_each_layer)]
)
def test_what_an_architecture_declares_is_no_fault(base, bases, family, change):
    found, right = load_base(base(family, change)), load_base(bases[family])
    with torch.no_grad():
        assert torch.equal(found(tokens(1)).logits, right(tokens(1)).logits)


def test_a_reward_model_without_its_head_is_refused(bases, tmp_path, tokenizer):
    from transformers import AutoModelForSequenceClassification

    with pytest.raises(ModelError, match=r"1 are missing in its files, score\.weight first"):
        load_reward(bases["llama"])
    config = tiny_config("llama")
    config.num_labels = 1
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["score.weight"][0, 0] = float("nan")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"the logits are not finite: .*1 of the 32 numbers in score\.weight"):
        load_reward(str(tmp_path))


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "config.json"])
def test_git_lfs_pointers_are_named(base, file, capsys):
    name = base("llama")
    (Path(name) / file).write_text(POINTER)
    for load in (load_base, load_tokenizer):
        with pytest.raises(ModelError, match=rf"{file} is a Git LFS pointer, which .*git lfs pull"):
            load(name)
    (Path(name) / "tokenizer_config.json").write_text(POINTER)
    assert run(["sites", name]) == 2
    assert "as 1 more do" in " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize("file", ["weights.safetensors", "tokenizer.json", "unnorm.json"])
def test_git_lfs_pointers_in_an_artefact_are_named(tmp_path, tokenizer, file, capsys):
    unnorm.save(tiny_model("llama"), tmp_path / "a", tokenizer)
    (tmp_path / "a" / file).write_text(POINTER)
    for verb in (["check"], ["sites"]):
        assert run([*verb, str(tmp_path / "a")]) == 2
        assert f"{file} is a Git LFS pointer" in " ".join(capsys.readouterr().err.split())
