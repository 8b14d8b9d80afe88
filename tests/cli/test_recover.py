"""`unnorm swap` measures what it made; `unnorm recover` goes on from there, resumes, and says what cannot be."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import unnorm
from cli.test_main import call
from conftest import tiny_model
from sinks import sink_model, toy_text
from unnorm.artefacts.manifest import read_manifest
from unnorm.cli.options import share, token_count
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.precision import default_device
from unnorm.study import blocks_first
from unnorm.study.recovery import bends_too_early, held_out_for, parse_data
from unnorm.surgery.swap import record_of
from unnorm.tuning import recover_meter
from unnorm.tuning.blockwise import BlockRecovery, BlockwiseReport
from unnorm.tuning.recover_settings import recover_settings
from unnorm.tuning.trainer import TokenTrainer

TEMPLATE = ("--template", "alpaca-short")


@pytest.fixture(scope="module")
def swapped(bases, data_file, tmp_path_factory):
    """A swapped base's folder, bare, so that there is a gap to close; and what the command said."""
    from unnorm.cli.main import run

    out = tmp_path_factory.mktemp("swapped") / "model"
    assert run(["swap", bases["llama"], "--bare", "--measure", data_file, *TEMPLATE, "--out", str(out)]) == 0
    return out


def recovery(swapped, data, out, *more):
    return (
        "recover", swapped, "--data", data, *TEMPLATE, "--max-length", 64, "--tokens", 2560, "--batch-tokens", 256,
        "--held-out-tokens", 200, "--precision", "fp32", "--out", out, *more,
    )  # fmt: skip


def test_swap_prints_the_gap_and_says_when_a_model_is_not_usable(capsys, tokenizer, data_file, tmp_path):
    base = sink_model(steps=60)
    base.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    options = ("--calibrate", data_file, *TEMPLATE, "--tokens", 500, "--out", tmp_path / "out")
    code, out, err = call(capsys, "swap", tmp_path / "base", *options)
    assert code == 0, err
    assert "gap" in out
    manifest = json.loads((tmp_path / "out" / "unnorm.json").read_text())
    measured = manifest["measured"]
    assert measured["gap"] == pytest.approx(measured["loss"] / measured["original_loss"] - 1)
    assert ("not usable yet" in err) == (measured["gap"] > 0.1)
    assert ("unnorm recover" in err) == (measured["gap"] > 0.1)
    if default_device().type == "cpu":
        assert ("--tokens 100k --train lora" in err) == (measured["gap"] > 0.1), "10M would take days"


def test_rows_are_no_longer_than_the_model_takes(capsys, swapped, bases, data_file, tmp_path):
    context = json.loads((swapped / "config.json").read_text())["max_position_embeddings"]
    assert context < 512
    options = ("--data", data_file, *TEMPLATE, "--tokens", 600, "--held-out-tokens", 200, "--precision", "fp32")
    code, _, err = call(capsys, "recover", swapped, *options, "--out", tmp_path / "run")
    assert code == 0, err


def test_a_configuration_that_makes_no_sense_is_said_without_a_traceback(capsys, swapped, data_file, tmp_path):
    shutil.copytree(swapped, tmp_path / "swapped")
    (tmp_path / "swapped" / "config.json").write_text("[1]")
    code, _, err = call(capsys, "recover", tmp_path / "swapped", "--data", data_file, "--out", tmp_path / "run")
    assert code == 2, err
    assert "config.json" in err, err


def test_recover_closes_in_saves_and_is_not_done_twice(capsys, swapped, bases, data_file, tmp_path):
    out = tmp_path / "run"
    code, stdout, err = call(capsys, *recovery(swapped, data_file, out, "--json"))
    assert code == 0, err
    found = json.loads(stdout)
    assert found["kept"]
    assert found["kl_after"] < found["kl_before"]
    assert found["data"][0]["tokens"] >= 2560
    assert "tokens to learn from" in err
    assert "training computes in" in err
    assert "computing on" in err
    assert json.loads((out / "recover.json").read_text())["threads"] == torch.get_num_threads()
    manifest = json.loads((out / "model" / "unnorm.json").read_text())
    assert manifest["recovered"]["train"] == "all"
    assert manifest["measured"]["gap"] == found["gap_after"]
    unnorm.check(out / "model")
    before = (out / "result.json").read_bytes()
    code, stdout, err = call(capsys, *recovery(swapped, data_file, out, "--json"))
    assert (code, "finished already" in err) == (0, True)
    assert json.loads(stdout) == found
    assert (out / "result.json").read_bytes() == before
    code, _, err = call(capsys, *recovery(swapped, data_file, out, "--seed", 1))
    assert (code, "holds another recovery" in err) == (2, True)
    code, _, err = call(capsys, "package", out / "model", "--out", tmp_path / "package")
    assert code == 0, err


@pytest.mark.parametrize("train", ["lora", "norms"])
def test_an_interrupted_recovery_is_resumed_to_the_same_end(capsys, swapped, data_file, tmp_path, train, monkeypatch):
    more = ("--train", train, "--evaluate-every", 512)
    assert call(capsys, *recovery(swapped, data_file, tmp_path / "whole", *more))[0] == 0
    saved = TokenTrainer._save_checkpoint

    def stop(self, *arguments):
        saved(self, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(TokenTrainer, "_save_checkpoint", stop)
    code, _, err = call(capsys, *recovery(swapped, data_file, tmp_path / "cut", *more))
    assert (code, "goes on from there" in err) == (130, True)
    monkeypatch.undo()
    assert call(capsys, *recovery(swapped, data_file, tmp_path / "cut", *more))[0] == 0
    states = [unnorm.load(tmp_path / name / "model").state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_what_is_recovered_again_has_learnt_from_both(capsys, swapped, data_file, tmp_path, monkeypatch):
    learnt = []
    for start, number, train in ((swapped, "one", "norms"), (tmp_path / "one" / "model", "two", "all")):
        code, _, err = call(capsys, *recovery(start, data_file, tmp_path / number, "--train", train))
        assert code == 0, err
        learnt.append(read_manifest(tmp_path / number / "model").recovered)
    tokens = learnt[0]["tokens"]
    assert (learnt[1]["tokens"], learnt[1]["train"]) == (2 * tokens, "norms, then all")
    assert [part["tokens"] for part in learnt[1]["data"]] == [2 * tokens]
    # at a rate that ruins it the second is put back, and the first still counts
    options = ("--train", "all", "--learning-rate", 3.0)
    code, _, err = call(capsys, *recovery(tmp_path / "one" / "model", data_file, tmp_path / "three", *options))
    assert code == 0, err
    assert "put back" in err
    assert read_manifest(tmp_path / "three" / "model").recovered == learnt[0]


def test_straightened_a_model_is_of_fixed_scales_that_fold_away_and_can_be_gone_on_with(
    capsys, swapped, data_file, tmp_path
):
    options = ("--train", "lora", "--straighten", "60%", "--json")
    code, stdout, err = call(capsys, *recovery(swapped, data_file, tmp_path / "run", *options))
    assert code == 0, err
    assert json.loads(stdout)["straightened"] == 5
    made = tmp_path / "run" / "model"
    code, _, err = call(capsys, "package", made, "--out", tmp_path / "package")
    assert code == 0, err
    assert "5 curves were bent straight" in (tmp_path / "package" / "README.md").read_text()
    model = unnorm.load(made)
    report = unnorm.optimize_(model, head=True)
    assert {site.done for site in report.sites} == {"folded away"}
    unnorm.check(made)
    code, _, err = call(capsys, *recovery(made, data_file, tmp_path / "on", "--train", "norms"))
    assert code == 0, err
    learnt = read_manifest(tmp_path / "on" / "model").recovered
    assert (learnt["train"], learnt["straightened"]) == ("lora, then norms", 5)
    code, stdout, err = call(capsys, *recovery(made, data_file, tmp_path / "again", "--straighten", 0.5, "--json"))
    assert (code, json.loads(stdout)["straightened"]) == (0, 5), err


def test_the_curves_that_attention_reads_are_bent_first_and_all_are_counted_at_the_end(
    capsys, swapped, data_file, tmp_path
):
    counts = []
    for start, out, sites in (
        (swapped, tmp_path / "attention", ("--straighten-sites", "attention", "--straighten-sites", "final")),
        (tmp_path / "attention" / "model", tmp_path / "mlp", ("--straighten-sites", "mlp")),
    ):
        options = ("--train", "norms", "--straighten", "60%", *sites)
        code, _, err = call(capsys, *recovery(start, data_file, out, *options))
        assert code == 0, err
        counts.append(read_manifest(out / "model").recovered["straightened"])
    assert counts == [3, 5]


def test_rows_that_are_not_finite_are_said_and_stand_in_the_manifest_and_the_card(
    capsys, swapped, data_file, tmp_path, monkeypatch
):
    measured = recover_meter.distance

    def with_broken_rows(model, *rest, broken_apart=False):
        assert broken_apart, "straightened"
        return replace(measured(model, *rest, broken_apart=True), broken=2)

    monkeypatch.setattr(recover_meter, "distance", with_broken_rows)
    options = ("--train", "norms", "--straighten-after", "20%", "--straighten", "60%")
    code, _, err = call(capsys, *recovery(swapped, data_file, tmp_path / "run", *options))
    assert code == 0, err
    assert "in 2 held-out rows" in err
    made = tmp_path / "run" / "model"
    assert read_manifest(made).measured["broken"] == 2
    code, _, err = call(capsys, "package", made, "--out", tmp_path / "package")
    assert code == 0, err
    row = "| held-out rows of which nothing is left, and which no figure holds | 2 |"
    assert row in (tmp_path / "package" / "README.md").read_text()


@pytest.mark.parametrize(("gap", "after", "warns"), [(0.5, 0.0, True), (0.5, 0.4, False), (0.05, 0.0, False)])
def test_curves_of_a_model_far_from_its_original_are_not_bent_at_once_in_silence(gap, after, warns):
    model = tiny_model("llama")
    unnorm.swap_(model, unnorm.DyT(), calibrate_on=None)
    assert bends_too_early(model, recover_settings(straighten=0.8)) is None, "nobody measured it"
    record_of(model).measured = {"gap": gap}
    found = bends_too_early(model, recover_settings(straighten=0.8, straighten_after=after))
    assert (found is not None) == warns
    assert not warns or ("+50.0%" in found and "--straighten-after 40%" in found)
    assert bends_too_early(model, recover_settings()) is None
    record_of(model).specs = dict.fromkeys(record_of(model).specs, unnorm.FixedScale(center=False))
    assert bends_too_early(model, recover_settings(straighten=0.8)) is None, "nothing is left to bend"


def test_block_by_block_then_all_at_once(capsys, swapped, data_file, tmp_path):
    code, stdout, err = call(capsys, *recovery(swapped, data_file, tmp_path / "run", "--blockwise", "--json"))
    assert code == 0, err
    assert "blocks one at a time" in err
    told = json.loads((tmp_path / "run" / "blocks.json").read_text())
    assert [block["path"] for block in told["blocks"]] == ["model.layers.0", "model.layers.1"]
    assert told["kept"] == (told["kl_after"] <= told["kl_before"])
    assert not (tmp_path / "run" / "blocks" / "start.safetensors").exists()
    assert json.loads(stdout)["steps"] > 0
    unnorm.check(tmp_path / "run" / "model")


def test_without_memory_for_both_models_block_by_block_is_all(capsys, swapped, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr("unnorm.tuning.memory_need.memory_free", lambda device: 1000)
    code, _, err = call(capsys, *recovery(swapped, data_file, tmp_path / "a"))
    assert code == 2
    assert "GiB" in err
    assert "block by block" in err
    assert not (tmp_path / "a" / "recover.json").exists()
    code, _, err = call(capsys, *recovery(swapped, data_file, tmp_path / "b", "--blockwise"))
    assert code == 0, err
    assert "it ends here" in err


def test_blocks_that_make_the_model_worse_are_put_back(capsys, swapped, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr("unnorm.tuning.memory_need.memory_free", lambda device: 1000)

    def spoil(model, *given, **settings):
        with torch.no_grad():
            model.model.layers[1].mlp.down_proj.weight.mul_(-3)
        block = BlockRecovery("model.layers.1", 1.0, 0.5, True, 3, 96, 8, 0.1)
        return BlockwiseReport((block,), (), "all", 96, 4, 1, 0, 0, 0.1)

    monkeypatch.setattr(blocks_first, "recover_blockwise_", spoil)
    out = tmp_path / "run"
    code, stdout, err = call(capsys, *recovery(swapped, data_file, out, "--blockwise", "--json"))
    assert code == 0, err
    assert "got worse, so the start was put back" in err
    assert json.loads(stdout)["kept"] is False
    states = [unnorm.load(path).state_dict() for path in (out / "model", swapped)]
    assert all(torch.equal(tensor, states[1][name]) for name, tensor in states[0].items())


def test_data_that_run_out_stop_it_where_that_was_asked_for(capsys, swapped, data_file, tmp_path):
    options = recovery(swapped, data_file, tmp_path / "run", "--when-out", "stop", "--tokens", "1M", "--json")
    code, stdout, err = call(capsys, *options)
    assert code == 0, err
    assert "the data run out" in err
    assert json.loads(stdout)["tokens"] < 20_000


def test_it_says_what_of_all_its_data_was_dropped_or_changed(capsys, swapped, data_file, tmp_path):
    empty = tmp_path / "empty.json"
    rows = json.loads(Path(data_file).read_text())
    empty.write_text(json.dumps([*rows, *({**row, "output": ""} for row in rows[:7])]))
    code, _, err = call(capsys, *recovery(swapped, data_file, tmp_path / "run", "--data", empty))
    assert code == 0, err
    assert "dropped: 7 empty output; changed: none" in err


def test_bad_input(capsys, swapped, bases, data_file, tmp_path, tokenizer):
    out = tmp_path / "out"
    other = tmp_path / "other"
    tiny_model("llama", seed=5).save_pretrained(other)
    tokenizer.save_pretrained(other)
    strange = tmp_path / "strange"
    shutil.copytree(bases["llama"], strange)
    vocabulary = json.loads((strange / "tokenizer.json").read_text())
    vocabulary["model"]["merges"] = vocabulary["model"]["merges"][:-5]
    (strange / "tokenizer.json").write_text(json.dumps(vocabulary))
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "thesis.txt").write_text("precious")
    cases = {
        "not an artefact": (
            recovery(bases["llama"], data_file, out),
            "holds no unnorm.json, so unnorm did not save it. Give a folder that unnorm swap",
        ),
        "another base": (recovery(swapped, data_file, out, "--base", other), "not the model that was swapped"),
        "another tokenizer": (recovery(swapped, data_file, out, "--base", strange), "tokenizer"),
        "a target below 0": (recovery(swapped, data_file, out, "--target", "-1%"), "--target is a share above 0"),
        "tokens that are none": (recovery(swapped, data_file, out, "--tokens", "many"), "10M, 500k or 250000"),
        "what learns": (recovery(swapped, data_file, out, "--train", "some"), "train"),
        "when out": (recovery(swapped, data_file, out, "--when-out", "never"), "again, stop"),
        "a weight": (recovery(swapped, "alpaca=-1", out), "a weight above 0"),
        "corrected layers": (recovery(swapped, data_file, out, "--train", "corrected"), "none were"),
        "lora by blocks": (recovery(swapped, data_file, out, "--train", "lora", "--blockwise"), "all or norms"),
        "straight by blocks": (recovery(swapped, data_file, out, "--straighten", "50%", "--blockwise"), "first, then"),
        "straight to a target": (recovery(swapped, data_file, out, "--straighten", 1, "--target", 1), "with target"),
        "a share of nothing": (recovery(swapped, data_file, out, "--straighten", "0%"), "--straighten is a share"),
        "straight before it bends": (recovery(swapped, data_file, out, "--straighten-after", "40%"), "when it ends"),
        "bent where": (recovery(swapped, data_file, out, "--straighten-sites", "mlp"), "which curves are bent"),
        "bent nowhere": (
            recovery(swapped, data_file, out, "--straighten", "50%", "--straighten-sites", "mpl"),
            "no site matches 'mpl'",
        ),
        "more than all": (recovery(swapped, data_file, out, "--straighten", "170%"), "straighten: must be 1 or less"),
        "a folder of something else": (recovery(swapped, data_file, occupied), "holds no recovery"),
        "no data": (recovery(swapped, tmp_path / "nothing.json", out), "nothing.json"),
    }
    for name, (arguments, message) in cases.items():
        code, _, err = call(capsys, *arguments)
        assert code == 2, (name, code, err)
        assert message in " ".join(err.split()), (name, err)
        assert "Traceback" not in err
    assert (occupied / "thesis.txt").read_text() == "precious"


def test_a_loss_that_is_no_number_is_exit_code_1_and_names_the_step(capsys, swapped, data_file, tmp_path):
    code, _, err = call(capsys, *recovery(swapped, data_file, tmp_path / "run", "--learning-rate", "1e30"))
    assert (code, "non-finite at step" in err) == (1, True)


def test_a_sinks_gap_is_closed_further_than_calibration_closes_it():
    """The planted sink: what a norm alone cannot do, weights that no longer need it can."""
    original = sink_model(steps=60)
    model = sink_model(steps=60)
    unnorm.swap_(model, unnorm.DyT(alpha="channel"), calibrate_on=toy_text(16))
    options = {"tokens": 60_000, "batch_tokens": 1024, "learning_rate": 2e-3, "precision": "fp32", "quiet": True}
    report = unnorm.recover_(model, original, toy_text(256, seed=1), held_out=toy_text(16, seed=2), **options)
    assert report.kept
    assert report.gap_before > 0.1
    assert report.gap_after < report.gap_before / 2


def test_amounts_as_people_write_them():
    assert [token_count(t, "--tokens") for t in ("10M", "500k", "1.5B", "250_000", "250,000", "7")] == [
        10**7, 500_000, 1_500_000_000, 250_000, 250_000, 7,
    ]  # fmt: skip
    for wrong in ("", "0", "-3", "1.5", "10X", "NaN", "1e6", "M"):
        with pytest.raises(SettingsError, match="--tokens"):
            token_count(wrong, "--tokens")
    assert [share(t, "--target") for t in ("1%", "0.01", "2.5 %", ".5")] == [0.01, 0.01, 0.025, 0.5]
    for wrong in ("", "0", "-1%", "one", "%"):
        with pytest.raises(SettingsError, match="--target"):
            share(wrong, "--target")


def test_fewer_tokens_are_measured_on_fewer():
    assert [held_out_for(tokens) for tokens in (1_000, 100_000, 500_000, 10_000_000)] == [2048, 2048, 10_000, 20_000]


def test_data_with_weights(tmp_path):
    assert parse_data(["alpaca", "sharegpt=0.5"]) == [("alpaca", 1.0), ("sharegpt", 0.5)]
    odd = tmp_path / "a=b.json"
    odd.write_text("[]")
    assert parse_data([str(odd), f"{odd}=2"]) == [(str(odd), 1.0), (str(odd), 2.0)]
