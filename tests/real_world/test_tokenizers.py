"""Tokenizers with tokens that were added to them and not to the model's embeddings."""

import copy
import json

import numpy as np
import pytest
import torch

import unnorm
from conftest import VOCABULARY, alpaca_rows, tiny_model, tokens
from unnorm import DyT
from unnorm.artefacts.loading import open_model
from unnorm.cli.main import run
from unnorm.evaluation.completions import Ask, complete_each
from unnorm.evaluation.latency import Workload
from unnorm.foundation.errors import DataError, ModelError
from unnorm.surgery.base import load_tokenizer
from unnorm.surgery.vocabulary import check_ids, embedding_rows, fit_tokenizer_

BEYOND = VOCABULARY  # the first id without an embedding


@pytest.fixture
def place(tmp_path, tokenizer):
    """A base beside a tokenizer to which special tokens, or a token of text, were added."""

    def make(text=(), family="llama", **special):
        own = copy.deepcopy(tokenizer)
        own.add_special_tokens(special)
        own.add_tokens(list(text))
        tiny_model(family).save_pretrained(tmp_path / "base")
        own.save_pretrained(tmp_path / "base")
        assert len(own) == VOCABULARY + 1
        return str(tmp_path / "base")

    return make


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.json"
    path.write_text(json.dumps(alpaca_rows()))
    return str(path)


def verbs(base, rows, out):
    short = ["--max-length", "64"]
    tune = ["--tokens", "512", "--batch-tokens", "256", "--evaluation-tokens", "256", "--precision", "fp32"]
    plain = ["--template", "plain"]
    return {
        "swap": ["swap", base, "--calibrate", rows, "--tokens", "1024", "--out", f"{out}/m", *plain],
        "evaluate": ["evaluate", base, "--data", rows, "--tokens", "400", *short, *plain],
        "generate": ["generate", base, "--out", f"{out}/a.jsonl", "--max-new-tokens", "2", *plain],
        "finetune": ["finetune", base, "--data", rows, "--out", f"{out}/run", *tune, *short, *plain],
    }


def test_a_pad_token_without_embedding_gives_way_to_eos(place, rows, tmp_path, capsys):
    base = place(pad_token="[PAD]")
    tokenizer = load_tokenizer(base)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (0, 0)
    for name, verb in verbs(base, rows, tmp_path).items():
        assert run(verb) == 0, (name, capsys.readouterr().err)
    model, kept = open_model(str(tmp_path / "run" / "model"))
    assert kept.pad_token_id < embedding_rows(model)


@pytest.mark.parametrize("role", ["eos", "bos"])
def test_an_eos_or_bos_token_without_embedding_is_refused_with_both_sizes(place, rows, tmp_path, role, capsys):
    base = place(**{f"{role}_token": "<new>"})
    for name, verb in verbs(base, rows, tmp_path).items():
        assert run(verb) == 2, name
        said = " ".join(capsys.readouterr().err.split())
        assert f"the {role} token '<new>' of" in said, name
        assert "has the id 384, of 385 tokens, but the model's embeddings have 384 rows" in said, name
        assert "resize_token_embeddings" in said, name


def test_text_that_holds_a_token_without_embedding_is_refused_with_both_sizes(place, rows, tmp_path, capsys):
    base = place(text=["Join "])  # every row holds it, and no builtin question does
    for name, verb in verbs(base, rows, tmp_path).items():
        code = run(verb)
        said = " ".join(capsys.readouterr().err.split())
        if name == "generate":
            assert code == 0, said
            continue
        assert code == 2, (name, said)
        assert "a token of the id 384, but the model's embeddings have 384 rows" in said, name


def test_every_function_checks_the_ids(tokenizer):
    model = tiny_model("gpt2")
    ids = tokens()
    ids[1, 3] = BEYOND
    for call in (
        lambda: unnorm.swap_(model, DyT(), calibrate_on=ids),
        lambda: unnorm.evaluate(model, [{"input_ids": ids, "labels": ids}]),
        lambda: list(complete_each(model, tokenizer, [Ask([1, 2]), Ask([3, BEYOND])], max_new_tokens=2, batch_size=2)),
        lambda: unnorm.compare_latency({"a": model}, Workload(kind="prompts"), prompts=[[1, BEYOND]]),
        lambda: check_ids(model, np.array([0, BEYOND])),
    ):
        with pytest.raises(DataError, match="a token of the id 384, but the model's embeddings have 384"):
            call()
    check_ids(model, torch.tensor([[BEYOND - 1]]))
    check_ids(model, [])


def test_tokens_that_no_text_holds_are_no_fault(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<image>"])  # as Gemma 3's text models have it
    assert fit_tokenizer_(own, VOCABULARY, "here").pad_token_id == tokenizer.pad_token_id
    own.add_special_tokens({"eos_token": "<end>"})
    with pytest.raises(ModelError, match=r"of 386 tokens, but the model's embeddings have 384 rows"):
        fit_tokenizer_(own, VOCABULARY, "here")
