"""A study with everything that comes before and after its cells: the search of the learning rate, judge, latency."""

import json
from pathlib import Path

import pytest

from study.small_study import run_text, study_text
from unnorm.cli.main import run
from unnorm.evaluation.scores import read_sums
from unnorm.study import view
from unnorm.study.after import judge as judge_stage
from unnorm.study.after import latency as latency_stage
from unnorm.study.after import stages
from unnorm.study.after.stage import Stage
from unnorm.study.card import card_numbers
from unnorm.study.compare import compare_arms
from unnorm.study.view import read_study


@pytest.fixture(scope="module")
def whole(bases, data_file, tmp_path_factory):
    """(study text, ledger) of two arms with a search, completions, a judge and latency."""
    ledger = tmp_path_factory.mktemp("ledger")
    prompts = Path(data_file).parent / "three.jsonl"
    rows = [{"prompt_id": str(i), "category": "c", "instruction": f"Join red and {i}"} for i in range(3)]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = study_text(
        bases["gpt2"],
        data_file,
        strategies=["frozen"],
        seeds=[0, 1],
        tune={"learning_rate": [1e-3, 1e-2], "tokens": 300},
        after={
            "completions": {"prompts": str(prompts), "max_new_tokens": 3, "temperature": "1.0"},
            "judge": {"kind": "likelihood", "model": bases["gpt2"]},
            "latency": {"budget_seconds": 1.0, "length": 8, "new_tokens": 2},
        },
    )
    run_text(text, ledger)
    return text, ledger


def test_the_search_is_in_the_ledger_and_decides(whole):
    study = read_study(whole[1] / "small")
    assert len(study.search) == 2 * 2
    assert all(cell.done for cell in [*study.search, *study.cells])
    for choice in study.choices:
        best = min(choice["tries"], key=lambda one: one["loss"])
        assert choice["learning_rate"] == best["learning_rate"]
        for cell in study.cells:
            settings = json.loads((cell.folder / "cell.json").read_text())["settings"]
            if cell.arm == choice["arm"]:
                assert settings["training"]["learning_rate"] == choice["learning_rate"]
            assert "for_search" not in settings["data"]
    search = json.loads((study.search[0].folder / "cell.json").read_text())["settings"]
    assert search["data"]["for_search"] is True
    assert study.audit["matched"] is True


def test_scores_of_conversations_add_up_to_the_loss(whole):
    for cell in read_study(whole[1] / "small").cells:
        sums = read_sums(cell.folder / "scores.parquet")
        assert sums.nats.sum() / sums.tokens.sum() == pytest.approx(cell.result["eval_loss"], rel=1e-5)
        assert sums.tokens.sum() == cell.result["eval_tokens"]
        assert sums.correct.sum() / sums.tokens.sum() == pytest.approx(cell.result["eval_token_accuracy"])


def test_pairs_are_judged_and_timed_within_their_seed(whole):
    study = read_study(whole[1] / "small")
    assert [(p.arm, p.against, p.seed) for p in study.pairs] == [("dyt", "original", 0), ("dyt", "original", 1)]
    for pair in study.pairs:
        assert pair.judge["parts"]["whole"]["questions"] == 3
        assert {v["prompt_id"] for v in pair.verdicts} == {"0", "1", "2"}
        assert {(c["model"], c["reference"]) for c in pair.latency["comparisons"]} >= {("dyt", "original")}
    rows = {row.metric: row for row in compare_arms(study)}
    assert set(rows) == {"loss", "accuracy", "preference", "latency"}
    assert all(row.seeds == (0, 1) and row.matched and row.complete for row in rows.values())


def test_the_model_card_has_the_win_rate(whole):
    study = read_study(whole[1] / "small")
    cells = {(cell.arm, cell.seed): cell.folder / "model" for cell in study.cells}
    (said,) = [v for k, v in card_numbers(cells["dyt", 0]).items() if k.startswith("win rate against the original")]
    rate = study.pairs[0].judge["parts"]["whole"]["win_rate"]["value"]
    assert said.startswith(f"{rate:.1%} (95 % interval ")
    assert not any(key.startswith("win rate") for key in card_numbers(cells["original", 0]))


def test_a_second_run_makes_nothing_again(whole, monkeypatch):
    text, ledger = whole
    files = {path: path.stat().st_mtime_ns for path in (ledger / "pairs").rglob("*") if path.is_file()}
    assert len(files) >= 2 * 6
    for module, name in ((judge_stage, "compare"), (latency_stage, "compare_latency")):
        monkeypatch.setattr(module, name, lambda *args, **options: pytest.fail("made again"))
    run_text(text, ledger)
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_stage_that_no_view_knows_is_read_all_the_same(tmp_path, monkeypatch):
    """A new stage is its record: what it has left is in the view without a change there."""
    words = Stage(
        "words",
        of_pairs=False,
        folder=lambda cell, after: "words-1",
        run=lambda cell, after, out, quiet: "",
        read=lambda folder, at, logs: {"words": (folder / at).read_text()},
    )
    monkeypatch.setattr(stages, "STAGES", (*stages.STAGES, words))
    (tmp_path / "words-1").write_text("three")
    found = view._found(view.CellView, {"stages": {"words": "words-1", "completions": "completions"}}, tmp_path, True)
    assert found == {"completions": [], "more": {"words": "three"}}


def test_compare_and_export_on_the_command_line(whole, tmp_path, capsys):
    text, ledger = whole
    path = tmp_path / "study.yaml"
    path.write_text(text)
    assert run(["study", "compare", str(path), "--ledger", str(ledger)]) == 0
    shown = capsys.readouterr().out
    assert all(measure in shown for measure in ("loss (nats)", "token accuracy", "win rate", "time per token"))
    assert "NOT MATCHED" not in shown
    assert "margin of the loss: ± 1%" in shown
    wide = ["study", "compare", str(path), "--ledger", str(ledger), "--margin", "20 %", "--json"]
    assert run(wide) == 0
    loss = next(row for row in json.loads(capsys.readouterr().out)["comparisons"] if row["metric"] == "loss")
    assert loss["margin"] == 0.2
    assert ("within ± 20%" in loss["verdict"]) is loss["equivalent"]
    assert run(["study", "compare", str(path), "dyt", "original", "--ledger", str(ledger), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {row["metric"] for row in found["comparisons"]} == {"loss", "accuracy", "preference", "latency"}
    assert run(["study", "export", str(path), "--ledger", str(ledger), "--out", str(tmp_path / "o"), "--json"]) == 0
    assert all(Path(file).is_file() for file in json.loads(capsys.readouterr().out)["files"])
    assert run(["study", "compare", str(path), "dit", "--ledger", str(ledger)]) == 2
    assert "has no arm 'dit'" in capsys.readouterr().err


def test_a_plan_shows_the_search_and_the_audit(bases, data_file, tmp_path, capsys):
    path = tmp_path / "study.yaml"
    text = study_text(
        bases["gpt2"],
        data_file,
        strategies=["full"],
        tune={"learning_rate": [1e-3, 1e-2], "tokens": 300},
        training={"epochs": 1, "max_length": 64, "batch_tokens": 128, "precision": "fp32"},
    )
    path.write_text(text)
    assert run(["study", "plan", str(path), "--ledger", str(tmp_path / "l"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (len(found["search"]), len(found["cells"]), len(found["waiting_for_search"])) == (4, 0, 2)
    assert not (tmp_path / "l").exists()


def test_a_plan_of_arms_that_differ_in_more_says_so(bases, data_file, tmp_path, capsys):
    path = tmp_path / "study.yaml"
    longer = [{"where": {"arm": "dyt"}, "set": {"training": {"tokens": 600}}}]
    path.write_text(study_text(bases["gpt2"], data_file, strategies=["full"], overrides=longer))
    assert run(["study", "plan", str(path), "--ledger", str(tmp_path / "l")]) == 0
    said = capsys.readouterr().err
    assert "NOT MATCHED" in said
    assert "training.tokens: 600 against 1000" in said
