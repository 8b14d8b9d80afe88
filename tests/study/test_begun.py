"""Cells that begin from a model that a user saved: a swapped one, recovered or not."""

import json
import shutil

import pytest

import unnorm
from cli.test_main import call
from conftest import tokens
from study.small_study import run_text, study_text
from unnorm.artefacts.manifest import read_manifest
from unnorm.foundation.errors import UnnormError
from unnorm.report.figures import figures
from unnorm.report.summary import summary
from unnorm.study.begun import identity_of
from unnorm.study.view import read_study
from unnorm.surgery.base import load_base, load_tokenizer

TRAINING = {"tokens": 256, "max_length": 64, "batch_tokens": 128, "precision": "fp32"}
RECOVER = {"tokens": 600, "batch_tokens": 128, "held_out_tokens": 200, "precision": "fp32", "learning_rate": 4e-4}
LEARNT = {"id": "dyt-learnt", "norm": "dyt", "start": {"calibrate": {"tokens": 256}, "recover": RECOVER}}


def text_of(base: str, data: str, **changes) -> str:
    return study_text(base, data, **{"strategies": ["frozen", "full"], "training": TRAINING, **changes})


@pytest.fixture(scope="module")
def recovered(bases, data_file, tmp_path_factory):
    """(the saved model of a recovered start, the ledger of a study that made it)."""
    ledger = tmp_path_factory.mktemp("ledger")
    run_text(text_of(bases["gpt2"], data_file, arms=["original", LEARNT]), ledger)
    (start,) = (ledger / "starts").iterdir()
    return start / "model", ledger


def test_a_saved_model_is_gone_on_with_as_the_start_that_it_was(recovered, bases, data_file, tmp_path):
    saved, ledger = recovered
    mine = tmp_path / "mine"
    shutil.copytree(saved, mine)
    arms = ["original", {"id": "mine", "artefact": str(mine)}]
    (tmp_path / "prompts.jsonl").write_text('{"prompt_id": 1, "category": "words", "turns": ["Say a word."]}\n')
    after = {"completions": {"prompts": str(tmp_path / "prompts.jsonl"), "max_new_tokens": 2}}
    run_text(text_of(bases["gpt2"], data_file, arms=arms, after=after), tmp_path / "ledger")
    view = read_study(tmp_path / "ledger" / "small")
    there = {(c.arm, c.strategy): c.result for c in read_study(ledger / "small").cells}
    here = {(c.arm, c.strategy): c.result for c in view.cells}
    for strategy in ("frozen", "full"):
        for number in ("start_eval_loss", "eval_loss", "start_tokens"):
            assert here["mine", strategy][number] == there["dyt-learnt", strategy][number]
        assert here["mine", strategy]["start_tokens"] > 0
    assert all(cell.completions for cell in view.cells)
    gap = read_manifest(mine).measured["gap"]
    noted = {line for comparison in view.audit["comparisons"] for line in comparison["noted"]}
    assert len(noted) == 1
    assert f"(rows; all; held-out gap {gap:+.1%}) against 0" in noted.pop()
    assert view.audit["matched"]
    assert "mine" in json.dumps(summary(view))
    assert "recovery" not in {figure.name for figure in figures(view)}, "a saved model does not say how it got there"


def test_it_counts_as_what_it_holds_and_not_by_where_it_lies(recovered, bases, data_file, tmp_path):
    saved, _ = recovered
    found = []
    for place in ("here", "there"):
        shutil.copytree(saved, tmp_path / place)
        arms = [{"id": "mine", "artefact": str(tmp_path / place)}]
        ledger = tmp_path / "ledger"
        run_text(text_of(bases["gpt2"], data_file, arms=arms, strategies=["frozen"]), ledger)
        found.append(sorted(path.name for path in (ledger / "cells").iterdir()))
    assert found[0] == found[1]
    assert len(found[0]) == 1
    (cell,) = (tmp_path / "ledger" / "cells").iterdir()
    settings = json.loads((cell / "cell.json").read_text())["settings"]
    assert settings["arm"]["artefact"] == identity_of(read_manifest(saved))


def test_another_norm_with_the_same_weights_is_another_model(recovered):
    manifest = read_manifest(recovered[0])
    sites = [site.model_copy(update={"spec": {**site.spec, "norm": "derf"}}) for site in manifest.sites]
    assert identity_of(manifest.model_copy(update={"sites": sites})) != identity_of(manifest)


def test_finetune_begins_from_what_recover_wrote(recovered, bases, data_file, tmp_path, capsys):
    saved, _ = recovered
    options = ("--data", data_file, "--template", "alpaca-short", "--tokens", 256, "--max-length", 64)
    options += ("--batch-tokens", 128, "--evaluation-tokens", 200, "--precision", "fp32", "--out", tmp_path / "run")
    code, out, err = call(capsys, "finetune", saved, *options, "--json")
    assert code == 0, err
    result = json.loads(out)
    assert (result["arm"], result["strategy"]) == ("dyt-saved", "frozen")
    assert result["start_tokens"] > 0
    assert f"begins from the saved model {saved}" in err
    code, _, err = call(capsys, "check", tmp_path / "run" / "model")
    assert code == 0, err
    code, _, err = call(capsys, "finetune", saved, *options, "--json")
    assert "is finished already" in err


def test_a_fine_tune_stands_on_the_saved_model(recovered, bases, data_file, tmp_path, capsys):
    """Its adapter cannot be put on anything else."""
    saved, _ = recovered
    options = ("--data", data_file, "--template", "alpaca-short", "--tokens", 128, "--max-length", 64)
    options += ("--batch-tokens", 128, "--evaluation-tokens", 100, "--precision", "fp32", "--out", tmp_path / "run")
    assert call(capsys, "finetune", saved, *options)[0] == 0
    base = read_manifest(tmp_path / "run" / "model").base
    assert (base.artefact, base.name) == (True, str(saved))
    with pytest.raises(UnnormError, match="stands on an artefact"):
        unnorm.load(tmp_path / "run" / "model", base=bases["gpt2"])
    code, _, err = call(capsys, "finetune", tmp_path / "run" / "model", *options)
    assert code == 2
    assert "holds an adapter, and a fine-tune begins from a whole swapped model" in " ".join(err.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "dyt"), "is swapped already, so --to has nothing to say"),
        (("--alpha", "channel"), "is swapped already, so --alpha has nothing to say"),
        (("--base", "no/such/folder"), "was swapped from no/such/folder, which is not there"),
    ],
)
def test_what_a_saved_model_does_not_take(recovered, data_file, tmp_path, capsys, options, message):
    code, _, err = call(capsys, "finetune", recovered[0], "--data", data_file, "--out", tmp_path / "run", *options)
    assert code == 2
    assert message in " ".join(err.split())
    assert not (tmp_path / "run").exists()


def test_a_plain_base_takes_no_base(bases, data_file, tmp_path, capsys):
    options = ("--data", data_file, "--out", tmp_path / "run", "--base", bases["gpt2"])
    code, _, err = call(capsys, "finetune", bases["gpt2"], *options)
    assert code == 2
    assert "--base is for a MODEL that unnorm saved" in err


def test_the_folder_of_the_run_is_not_the_model(recovered, data_file, tmp_path, capsys):
    options = ("--data", data_file, "--out", tmp_path / "run")
    code, _, err = call(capsys, "finetune", recovered[0].parent, *options)
    assert code == 2
    assert "its model is" in err


def refused(arms, base, data_file, tmp_path) -> str:
    with pytest.raises(UnnormError) as error:
        run_text(text_of(base, data_file, arms=arms), tmp_path / "ledger")
    return str(error.value)


def test_a_study_says_which_arm_cannot_begin(recovered, bases, data_file, tmp_path):
    saved, _ = recovered
    arms = ["original", {"id": "mine", "artefact": str(saved)}]
    said = refused(arms, bases["llama"], data_file, tmp_path)
    assert "arms" in said
    assert "was swapped from another base" in said
    said = refused([{"id": "mine", "artefact": str(tmp_path / "none")}], bases["gpt2"], data_file, tmp_path)
    assert "there is no folder" in said
    model = load_base(bases["gpt2"])
    unnorm.save(model, tmp_path / "plain", load_tokenizer(bases["gpt2"]))
    said = refused([{"id": "mine", "artefact": str(tmp_path / "plain")}], bases["gpt2"], data_file, tmp_path)
    assert "holds no swapped norms" in said


def test_a_swap_that_was_not_recovered_has_read_nothing_before(bases, data_file, tmp_path):
    model = load_base(bases["gpt2"])
    unnorm.swap_(model, unnorm.DyT(), calibrate_on=tokens())
    unnorm.save(model, tmp_path / "swapped", load_tokenizer(bases["gpt2"]))
    arms = ["original", {"id": "mine", "artefact": str(tmp_path / "swapped")}]
    run_text(text_of(bases["gpt2"], data_file, arms=arms, strategies=["selective"]), tmp_path / "ledger")
    view = read_study(tmp_path / "ledger" / "small")
    assert [c.result["start_tokens"] for c in view.cells] == [0, 0]
    assert not any(comparison["noted"] for comparison in view.audit["comparisons"])
