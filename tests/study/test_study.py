"""A small study: run, killed and resumed, shared, failed, refused."""

import csv
import json

import pyarrow.parquet as pq
import pytest

from study.small_study import run_text, study_text, table
from unnorm.cli.main import run
from unnorm.foundation.errors import ArtefactError, DiskError, Interrupted
from unnorm.foundation.memory import OthersLoad
from unnorm.study import ledger as ledger_module
from unnorm.study.tables import COLUMNS
from unnorm.study.view import read_study


def test_results_have_the_designs_columns_and_one_row_a_cell(small):
    _, ledger = small
    with open(ledger / "small" / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    assert [(row["arm"], row["strategy"]) for row in rows] == [
        ("original", "frozen"), ("original", "full"), ("dyt", "frozen"), ("dyt", "full"),
    ]  # fmt: skip
    assert {row["state"] for row in rows} == {"done"}
    for row in rows:
        drop = 1 - float(row["eval_loss"]) / float(row["start_eval_loss"])
        assert float(row["loss_drop"]) == pytest.approx(drop)
    parquet = pq.read_table(ledger / "small" / "results.parquet").to_pylist()
    assert [row["cell"] for row in parquet] == [row["cell"] for row in rows]
    assert [type(row["start_tokens"]) for row in parquet] == [int] * len(rows)
    assert [str(row["eval_loss"]) for row in parquet] == [row["eval_loss"] for row in rows]


def test_the_view_holds_logs_completions_and_a_matched_audit(small):
    _, ledger = small
    view = read_study(ledger / "small")
    assert view.arms == ["original", "dyt"]
    assert view.audit["matched"] is True
    assert [c["arm"] for c in view.audit["comparisons"]] == ["dyt", "dyt"]
    for cell in view.cells:
        assert cell.steps[-1]["step"] == cell.result["steps"]
        assert cell.evaluations[0]["step"] == 0
        (completion,) = cell.completions
        wanted = (
            "prompt_id category turn prompt text token_ids finish_reason seconds prompt_tokens cut seed "
            "temperature model_hash"
        )
        assert list(completion) == wanted.split()
        assert (cell.calibration is not None) == (cell.arm == "dyt")


def test_a_second_run_computes_nothing(small):
    text, ledger = small
    before = {path: path.stat().st_mtime_ns for path in (ledger / "cells").rglob("*") if path.is_file()}
    run_text(text, ledger)
    assert before == {path: path.stat().st_mtime_ns for path in (ledger / "cells").rglob("*") if path.is_file()}


def test_two_studies_share_a_cell(small, bases, data_file):
    _, ledger = small
    said: list[str] = []
    text = study_text(
        bases["gpt2"], data_file, name="other", arms=["original", "dyt", "dyt-bare"], strategies=["frozen"]
    )
    run_text(text, ledger, say=said.append)
    assert "3 cells: 2 finished before, 1 to run" in said


def test_a_failed_cell_is_recorded_and_does_not_stop_the_others(bases, data_file, tmp_path):
    rates = {"frozen": 3e-3, "full": 1e30}
    training = {"tokens": 600, "max_length": 64, "batch_tokens": 128, "precision": "fp32", "learning_rate": rates,
                "schedule": "constant", "warmup": 0.0}  # fmt: skip
    text = study_text(bases["gpt2"], data_file, training=training, strategies=["full", "frozen"])
    view = run_text(text, tmp_path)
    assert [(c.strategy, c.state) for c in view.cells] == [("full", "failed"), ("frozen", "done")] * 2
    assert all("non-finite at step" in c.error for c in view.cells if c.state == "failed")
    rows = table(tmp_path / "small")
    assert rows[0]["state"] == "failed"
    assert rows[0]["eval_loss"] == ""
    said: list[str] = []
    run_text(text, tmp_path, say=said.append)
    assert any(line.endswith("0 to run") for line in said)
    said.clear()
    run_text(text, tmp_path, retry_failed=True, say=said.append)
    assert any(line.endswith("2 to run") for line in said)


def test_interruption_keeps_what_was_done(bases, data_file, tmp_path, monkeypatch):
    import unnorm.study.run_cell as run_cell

    real, calls = run_cell.fine_tune, []

    def second_is_interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise Interrupted
        return real(*args, **kwargs)

    monkeypatch.setattr(run_cell, "fine_tune", second_is_interrupted)
    text = study_text(bases["gpt2"], data_file)
    with pytest.raises(Interrupted):
        run_text(text, tmp_path)
    assert [row["state"] for row in table(tmp_path / "small")] == ["done", "interrupted", "waiting", "waiting"]


def test_ledgers_that_cannot_be_used(small, bases, data_file, tmp_path, monkeypatch):
    text, _ = small
    (tmp_path / "format.json").write_text('{"format": 3}')
    with pytest.raises(ArtefactError, match="newer unnorm"):
        run_text(text, tmp_path)
    (tmp_path / "format.json").write_text('{"format": 1}')
    with pytest.raises(ArtefactError, match="before the first release"):
        run_text(text, tmp_path)
    (tmp_path / "format.json").write_text('{"format": 2}')
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "study.json").write_text('{"format": 2, "na')
    with pytest.raises(ArtefactError, match="not valid JSON"):
        read_study(tmp_path / "small")
    (tmp_path / "small" / "study.json").write_text('{"format": 2}')
    with pytest.raises(ArtefactError, match="damaged"):
        read_study(tmp_path / "small")
    with pytest.raises(ArtefactError, match=r"done but holds no result\.json"):
        ledger_module.result_of(tmp_path / "cells" / "x")
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(DiskError, match="cannot write"):
        run_text(text, blocked / "ledger")


def test_the_verbs(capsys, small, tmp_path):
    text, ledger = small
    file = tmp_path / "study.yaml"
    file.write_text(text)
    options = ["--ledger", str(ledger)]
    for verb in ("run", "status", "table", "plan"):
        assert run(["study", verb, str(file), *options]) == 0, verb
        out, _ = capsys.readouterr()
        assert "frozen" in out
        assert run(["study", verb, str(file), "--json", *options]) == 0
        content = json.loads(capsys.readouterr()[0])
        cells = content if isinstance(content, list) else content["cells"]
        assert len(cells) == 4
    assert run(["study", "schema"]) == 0
    assert "properties" in json.loads(capsys.readouterr()[0])
    assert run(["study", "status", str(file), "--ledger", str(tmp_path / "none")]) == 2
    assert "has not been run" in capsys.readouterr()[1]


def test_a_plan_whose_cells_wait_for_the_search(capsys, bases, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr(OthersLoad, "read", lambda self: 0.48)
    changes = {"strategies": ["frozen"], "tune": {"learning_rate": {"frozen": [1e-3, 2e-3]}}}
    file = tmp_path / "study.yaml"
    file.write_text(study_text(bases["gpt2"], data_file, **changes))
    assert run(["study", "plan", str(file), "--ledger", str(tmp_path / "ledger")]) == 0
    out, err = capsys.readouterr()
    assert out.count("rate 0.00") == 4
    assert "and 2 cells that wait for the search" in err
    assert "audit" not in err + out  # there is nothing to compare yet
    assert "Other processes took 48% of this machine" in err
    assert "Planning trains nothing" in err


def test_a_plan_holds_a_rate_set_by_hand_against_an_arm_beside_a_search(capsys, bases, data_file, tmp_path):
    by_hand = {"where": {"arm": "dyt", "strategy": "frozen"}, "set": {"training": {"learning_rate": 0.5}}}
    changes = {"tune": {"learning_rate": {"full": [1e-3, 2e-3]}}, "overrides": [by_hand]}
    file = tmp_path / "study.yaml"
    file.write_text(study_text(bases["gpt2"], data_file, **changes))
    assert run(["study", "plan", str(file), "--ledger", str(tmp_path / "ledger"), "--json"]) == 0
    (found,) = json.loads(capsys.readouterr()[0])["audit"]["comparisons"]
    assert (found["strategy"], found["matched"]) == ("frozen", False)
    assert found["differences"][0].startswith("training.learning_rate: 0.5 against")
