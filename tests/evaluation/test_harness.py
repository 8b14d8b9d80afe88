"""Tasks of lm-evaluation-harness: run on a model in memory where it is installed, named as missing where it is not."""

import json
import sys

import pytest

import unnorm
from conftest import tiny_model, tokens
from unnorm.cli.main import run
from unnorm.evaluation.harness import run_tasks
from unnorm.foundation.errors import DataError, SettingsError


def test_without_the_harness_the_error_says_what_to_install(monkeypatch, tokenizer, bases, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SettingsError, match=r"pip install 'unnorm\[lm-eval\]'"):
        run_tasks(tiny_model("gpt2"), tokenizer, ["arc_easy"])
    assert run(["evaluate", bases["gpt2"], "--tasks", "arc_easy"]) == 2
    assert run(["evaluate", bases["gpt2"]]) == 2
    assert "--data DATA, --tasks TASKS" in capsys.readouterr().err


def test_a_swapped_model_in_memory_is_what_is_measured(tokenizer, tmp_path):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed")
    path = tmp_path / "task.json"
    path.write_text(json.dumps([{"q": "Join red and", "a": " blue"}, {"q": "lamp", "a": " stone"}]))
    task = {
        "task": "tiny",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "test_split": "test",
        "output_type": "loglikelihood",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{a}}",
        "metric_list": [{"metric": "perplexity"}],
    }
    model = tiny_model("gpt2")
    before = run_tasks(model, tokenizer, [task])
    unnorm.swap_(model, unnorm.DyT(), calibrate_on=tokens())
    assert run_tasks(model, tokenizer, [task])["tiny"]["perplexity,none"] != before["tiny"]["perplexity,none"]
    with pytest.raises(DataError, match="cannot run nobody"):
        run_tasks(model, tokenizer, ["nobody"])
