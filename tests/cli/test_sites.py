"""`unnorm sites --data`: the verdict, its JSON and its figure, with a planted sink and without one."""

import json

import pytest

from cli.test_main import call
from sinks import sink_model


@pytest.fixture(scope="module")
def with_sink(tmp_path_factory, tokenizer) -> str:
    folder = tmp_path_factory.mktemp("sink") / "tiny-sink"
    sink_model().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def options(data_file):
    return ("--data", data_file, "--template", "alpaca-short", "--tokens", 500)


def test_a_sink_is_told_in_words_and_drawn(capsys, with_sink, data_file, tmp_path):
    figure = tmp_path / "sizes.svg"
    code, out, err = call(capsys, "sites", with_sink, *options(data_file), "--figure", figure)
    assert code == 0, err
    row = next(line for line in out.splitlines() if line.startswith("2.input_layernorm")).split()
    assert float(row[6].replace(",", "")) > 100 * float(row[1])  # position 0 against the median token
    assert "A path that begins with a number is in model.layers." in out
    assert any(line.startswith("model.norm ") for line in out.splitlines())
    assert "Position 0 is an attention sink from layer 2 on" in out
    assert "Swap with `--alpha channel --correct all`, then distil the original with `unnorm recover`" in out
    assert figure.read_text().startswith("<svg")
    assert "largest other token" in figure.read_text()
    assert f"wrote {figure}" in err


def test_json(capsys, with_sink, data_file):
    code, out, err = call(capsys, "sites", with_sink, *options(data_file), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["tokens"] >= 500
    assert found["sequences"] > 3
    assert len(found["sites"]) == 9
    (sink,) = [finding for finding in found["verdict"]["findings"] if finding["what"] == "sink"]
    assert sink["sites"][0] == "model.layers.2.input_layernorm"
    assert found["sites"][4]["first"] / found["sites"][4]["median"] <= sink["times"] * 1.01


@pytest.mark.parametrize("family", ["gpt2", "gpt_neox", "llama"])
def test_no_alarm_where_there_is_no_sink(capsys, bases, data_file, family):
    code, out, err = call(capsys, "sites", bases[family], *options(data_file))
    assert code == 0, err
    assert "attention sink" not in out


def test_a_model_whose_packed_rows_leak_gets_padded_ones(capsys, tmp_path, tokenizer, data_file):
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        "opt", hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=64, word_embed_proj_dim=32,
        max_position_embeddings=64, vocab_size=len(tokenizer), pad_token_id=0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "opt")
    tokenizer.save_pretrained(tmp_path / "opt")
    code, out, err = call(capsys, "sites", tmp_path / "opt", *options(data_file), "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["tokens"] < 600  # padding is not counted
    assert found["sequences"] > 3


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--figure", "sizes.svg"), "give both"),
        (("--data", "absent.json"), "there is no file"),
        (("--data", "alpaca", "--figure", "sizes.jpeg"), "an .svg, a .png or a .pdf file"),
    ],
)
def test_options_that_cannot_be(capsys, bases, tmp_path, monkeypatch, more, message):
    monkeypatch.chdir(tmp_path)
    code, _, err = call(capsys, "sites", bases["llama"], *more)
    assert code == 2
    assert message in " ".join(err.split())
    assert list(tmp_path.iterdir()) == []


def test_a_swapped_model_is_refused(capsys, bases, data_file, tmp_path):
    assert call(capsys, "swap", bases["gpt2"], "--bare", "--out", tmp_path / "swapped")[0] == 0
    code, _, err = call(capsys, "sites", tmp_path / "swapped", *options(data_file))
    assert code == 2
    assert "look at the original" in err
