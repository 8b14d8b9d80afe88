"""Models that compute NaN or infinity: refused before anything is computed or saved, by every verb and function."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

import unnorm
from conftest import alpaca_rows, tiny_model, tokens
from unnorm import DyT
from unnorm.cli.main import run
from unnorm.data.templates import template_of
from unnorm.evaluation.generate import generate
from unnorm.evaluation.judges.likelihood import load_likelihood
from unnorm.evaluation.latency import Workload
from unnorm.evaluation.questions import read_questions
from unnorm.evaluation.scores import score_batches
from unnorm.foundation.errors import ModelError, NonFiniteError
from unnorm.surgery.finite import check_finite, check_logits

NAMED = r"the logits are not finite: .*1 of the \d+(,\d+)* numbers in (model|transformer|gpt_neox)\.layers\.1\.mlp"


@pytest.fixture
def base(bases, tmp_path):
    """A base with one NaN weight, deep inside."""
    from shutil import copytree

    folder = copytree(bases["llama"], tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][3, 4] = float("nan")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return str(folder)


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(alpaca_rows()))
    return str(path)


def test_every_verb_refuses_such_a_base_and_writes_nothing(base, bases, rows, tmp_path, capsys):
    out = tmp_path / "out"
    answers = tmp_path / "answers.jsonl"
    answers.write_text("")
    for verb in (
        ["sites", base],
        ["swap", base, "--bare", "--out", str(out)],
        ["generate", base, "--out", str(out)],
        ["evaluate", base, "--data", rows],
        ["evaluate", bases["llama"], "--against", base, "--data", rows],
        ["latency", bases["gpt2"], base],
        ["finetune", base, "--data", rows, "--out", str(out), "--precision", "fp32"],
    ):
        assert run(verb) == 2, verb
        said = " ".join(capsys.readouterr().err.split())
        assert "the logits are not finite" in said, verb
        assert "numbers in model.layers.1.mlp.up_proj.weight are NaN" in said, verb
        assert not any(path.exists() for path in (out / "model", out / "unnorm.json")), verb
        assert not out.is_file(), verb
    with pytest.raises(ModelError, match=NAMED):
        load_likelihood(base)


def broken(value=float("nan"), **options):
    model = tiny_model("llama", **options)
    with torch.no_grad():
        model.model.layers[1].mlp.up_proj.weight[3, 4] = value
    return model


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_every_function_refuses_such_a_model(value, tmp_path, tokenizer):
    model = broken(value)
    labelled = [{"input_ids": tokens(), "labels": tokens()}]
    asked = {"render": template_of("alpaca", tokenizer).prompt, "template": "alpaca"}
    for call in (
        lambda: unnorm.swap_(model, DyT(), calibrate_on=tokens()),
        lambda: unnorm.swap_(model, DyT(), calibrate_on=None),
        lambda: unnorm.save(model, tmp_path / "m"),
        lambda: unnorm.evaluate(model, labelled),
        lambda: generate(model, tokenizer, read_questions("builtin"), tmp_path / "a.jsonl", **asked),
        lambda: unnorm.compare_latency({"fine": tiny_model("llama"), "broken": model}, Workload(length=8)),
    ):
        with pytest.raises(ModelError, match=NAMED):
            call()
    assert list(tmp_path.iterdir()) == []
    assert [type(m).__name__ for m in model.modules()].count("LlamaRMSNorm") == 5  # nothing was swapped


def test_an_embedding_that_no_probe_looks_at_is_seen_too():
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.wte.weight[-1, 0] = float("nan")
    with pytest.raises(ModelError, match=r"1 of the 12,288 numbers in transformer\.wte\.weight"):
        unnorm.swap_(model, DyT(), calibrate_on=tokens())


def overflowing():
    """Every weight is finite, but fp16 has no room for what they compute."""
    model = tiny_model("llama").half()
    with torch.no_grad():
        model.model.layers[0].mlp.gate_proj.weight.mul_(300)
        model.model.layers[0].mlp.up_proj.weight.mul_(300)
        model.model.layers[0].mlp.down_proj.weight.mul_(300)
    return model


def test_a_model_that_overflows_is_refused_before_the_swap():
    with pytest.raises(ModelError, match=r"computes NaN or infinity in torch.float16, though.*Load it in fp32"):
        unnorm.swap_(overflowing(), DyT(), calibrate_on=tokens())
    check_finite(overflowing().float())


def test_what_becomes_nan_in_training_is_not_saved(tmp_path):
    unnorm.save(tiny_model("llama"), tmp_path / "m")
    before = (tmp_path / "m" / "unnorm.json").read_bytes()
    model = tiny_model("llama")
    unnorm.swap_(model, DyT(), calibrate_on=tokens())
    with torch.no_grad():
        model.model.norm.alpha.fill_(float("nan"))
    with pytest.raises(ModelError, match=r"1 of the 1 numbers in model.norm.alpha"):
        unnorm.save(model, tmp_path / "m")
    assert (tmp_path / "m" / "unnorm.json").read_bytes() == before


def test_a_loss_that_is_not_finite_is_no_result():
    with pytest.raises(NonFiniteError, match="not finite on the held-out tokens"):
        score_batches(broken(), [{"input_ids": tokens(), "labels": tokens()}])


def test_tokens_that_a_model_rules_out_are_no_fault():
    logits = torch.zeros(2, 5)
    logits[:, 3] = float("-inf")
    check_logits(logits, tiny_model("gpt2"))
    for bad in (float("nan"), float("inf")):
        logits[1, 0] = bad
        with pytest.raises(ModelError, match="the logits are not finite"):
            check_logits(logits, tiny_model("gpt2"))
    with pytest.raises(ModelError, match="the logits are not finite"):
        check_logits(torch.full((1, 5), float("-inf")), tiny_model("gpt2"))
