"""Tasks of lm-evaluation-harness: run on a model in memory where it is installed, named as missing where it is not."""

import json
import sys

import pytest
import torch

import unnorm
from conftest import tiny_model, tokens
from evaluation.made_tasks import QUESTIONS, write_tasks
from unnorm.cli.main import run
from unnorm.evaluation.lm_eval import answer
from unnorm.evaluation.lm_eval_tasks import digest_folder, load_tasks
from unnorm.foundation.errors import DataError, SettingsError


def needs_harness() -> None:
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'unnorm[lm-eval]'")


def test_without_the_harness_the_error_says_what_to_install(monkeypatch, bases, capsys):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(SettingsError, match=r"pip install 'unnorm\[lm-eval\]'"):
        load_tasks(["arc_easy"])
    assert run(["evaluate", bases["gpt2"], "--tasks", "arc_easy"]) == 2
    assert run(["evaluate", bases["gpt2"]]) == 2
    assert "--data DATA, --tasks TASKS" in capsys.readouterr().err


def test_a_swapped_model_in_memory_is_what_is_measured(tokenizer, tmp_path, capsys):
    needs_harness()
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
    before = answer(model, tokenizer, load_tasks([task]), resamples=20).metrics
    assert capsys.readouterr().out == "", "what the harness prints would stand before --json"
    unnorm.swap_(model, unnorm.DyT(), calibrate_on=tokens())
    after = answer(model, tokenizer, load_tasks([task]))
    assert after.metrics["tiny"]["perplexity,none"] != before["tiny"]["perplexity,none"]
    assert after.scores == []  # a perplexity is no mean of its questions' numbers


def test_scores_are_those_of_the_model_itself(tokenizer, tmp_path):
    """The choice that the harness counts right is the one to which the model's own forward gives the most nats."""
    needs_harness()
    model = tiny_model("gpt2").train()
    found = answer(model, tokenizer, load_tasks(["tiny_choice"], write_tasks(tmp_path)), batch_size=3)
    assert model.training
    model.eval()

    def nats(question: str, choice: str) -> float:
        before = tokenizer(question)["input_ids"]
        whole = torch.tensor([tokenizer(f"{question} {choice}")["input_ids"]])
        with torch.no_grad():
            log_p = model(whole).logits.log_softmax(-1)[0, :-1]
        return float(log_p[torch.arange(whole.shape[1] - 1), whole[0, 1:]][len(before) - 1 :].sum())

    accuracy = [score.value for score in found.scores if score.metric == "acc"]
    expected = []
    for row in QUESTIONS:
        each = [nats(row["question"], choice) for choice in row["choices"]]
        expected.append(float(each.index(max(each)) == row["answer"]))
    assert accuracy == expected
    assert {score.metric for score in found.scores} == {"acc", "acc_norm"}
    assert len({score.question for score in found.scores}) == len(QUESTIONS)
    assert found.metrics["tiny_choice"]["acc,none"] == sum(expected) / len(expected)
    limited = answer(model, tokenizer, load_tasks(["tiny_choice"], tmp_path), limit=2)
    assert [s for s in limited.scores if s.metric == "acc"] == [s for s in found.scores if s.metric == "acc"][:2]


def test_a_folder_counts_by_what_is_in_it(tmp_path):
    one, other = write_tasks(tmp_path / "a"), write_tasks(tmp_path / "b")
    assert digest_folder(one) == digest_folder(other)
    write_tasks(other, QUESTIONS[:3])
    assert digest_folder(one) != digest_folder(other)
    with pytest.raises(SettingsError, match="there is no folder"):
        digest_folder(tmp_path / "c")


def test_what_cannot_be_loaded_is_said(tmp_path):
    needs_harness()
    folder = write_tasks(tmp_path)
    with pytest.raises(SettingsError, match=r"no task 'tiny_choise'.* Did you mean 'tiny_choice'\?"):
        load_tasks(["tiny_choise"], folder)
    (folder / "data" / "questions.json").unlink()
    with pytest.raises(DataError, match=r"the task 'tiny_choice' cannot be loaded: .*questions\.json"):
        load_tasks(["tiny_choice"], folder)
