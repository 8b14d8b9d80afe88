"""`unnorm package` and `unnorm check`, as a user meets them."""

import json

import pytest
from transformers import AutoModelForCausalLM

from cli.test_main import call, finetune_options
from unnorm.foundation import atomic


@pytest.fixture(scope="module")
def runs(tmp_path_factory, bases, data_file):
    """Two cells of one ledger that differ in their arm alone."""
    from unnorm.cli.main import run

    cells = tmp_path_factory.mktemp("ledger") / "cells"
    for arm in ("original", "dyt"):
        options = finetune_options(bases["llama"], data_file, cells / arm, "--to", arm)
        assert run([str(option) for option in options]) == 0
    return cells


def test_package_quotes_the_run_that_made_it(capsys, runs, tmp_path):
    code, out, err = call(capsys, "package", runs / "dyt" / "model", "--out", tmp_path / "p", "--json")
    assert code == 0
    printed = json.loads(out)
    ours, original = (atomic.read_json(runs / arm / "result.json") for arm in ("dyt", "original"))
    assert printed["numbers"]["held-out loss (nats a token)"] == ours["eval_loss"]
    assert printed["numbers"]["held-out loss of the original, fine-tuned alike"] == original["eval_loss"]
    gap = ours["eval_loss"] / original["eval_loss"] - 1
    assert printed["numbers"]["gap to the original"] == f"{gap:+.2%} (one seed)"
    assert "packaged 5 swapped sites of a LlamaForCausalLM" in err
    card = (tmp_path / "p" / "README.md").read_text()
    assert f"| held-out loss (nats a token) | {ours['eval_loss']:.4g} |" in card
    AutoModelForCausalLM.from_pretrained(tmp_path / "p", trust_remote_code=True)


def test_a_run_with_other_settings_is_no_comparison(capsys, runs, bases, data_file, tmp_path):
    cells = tmp_path / "cells"
    for arm, rate in (("original", "1e-3"), ("dyt", "2e-3")):
        options = finetune_options(bases["llama"], data_file, cells / arm, "--to", arm, "--learning-rate", rate)
        assert call(capsys, *options)[0] == 0
    code, out, _ = call(capsys, "package", cells / "dyt" / "model", "--out", tmp_path / "p", "--json")
    assert code == 0
    assert "gap to the original" not in json.loads(out)["numbers"]


def test_check(capsys, runs):
    code, out, _ = call(capsys, "check", runs / "dyt" / "model")
    assert code == 0
    assert "files as they were saved" in out
    assert "with adapter default" in out
    code, out, _ = call(capsys, "check", runs / "dyt" / "model", "--json")
    assert json.loads(out)["difference"] <= json.loads(out)["tolerance"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("check", "/nowhere"), "there is no folder /nowhere"),
        (("check", "DIR/.."), "is the folder of a run; its model is"),
        (("package", "/nowhere", "--out", "OUT"), "there is no folder /nowhere"),
        (("package", "DIR", "--out", "OUT", "--adapter", "x", "--keep-adapters"), "Give one of them"),
        (("package", "DIR", "--out", "OUT", "--public"), "--public goes with --push"),
        (("package", "DIR", "--out", "OUT", "--adapter", "third"), "no adapter 'third'"),
        (("package", "DIR", "--out", "DIR/.."), "not replaced"),
        (("package", "ORIGINAL", "--out", "OUT"), "nothing is swapped"),
    ],
)
def test_bad_input(capsys, runs, tmp_path, arguments, message):
    places = {"DIR": runs / "dyt" / "model", "OUT": tmp_path / "out", "ORIGINAL": runs / "original" / "model"}
    places["DIR/.."] = runs / "dyt"
    code, _, err = call(capsys, *(places.get(argument, argument) for argument in arguments))
    assert code == 2
    assert message in err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()
