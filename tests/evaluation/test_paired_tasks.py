"""Two models on the same questions: made scores, known differences."""

import json

import numpy as np
import pytest

from conftest import tiny_model, tokens
from evaluation.made_tasks import QUESTIONS, write_tasks
from unnorm import DyT, save, swap_
from unnorm.cli.main import run
from unnorm.evaluation.lm_eval import TaskScore
from unnorm.evaluation.paired_tasks import difference_of, in_tables, pair_tasks


def of(values, metric="acc", task="choice"):
    return [TaskScore(task, metric, question, value) for question, value in values.items()]


def test_only_questions_that_both_answered_count_and_one_metric_a_task():
    first = in_tables([*of({"a": 1, "b": 0, "c": 1}), *of({"a": 0, "b": 0, "c": 0}, "acc_norm")])
    second = in_tables([*of({"b": 1, "c": 1, "d": 1}), *of({"b": 1, "c": 0, "d": 0}, "acc_norm")])
    (found,) = pair_tasks(first, second)
    assert (found.metric, found.first, found.second, found.difference) == ("acc_norm", 0, 0.5, -0.5)
    assert found.questions == 2
    assert found.is_share
    assert found.low is not None
    assert found.low < -0.5 < found.high
    assert pair_tasks(first, in_tables(of({"a": 1}, task="another"))) == []


def test_numbers_that_are_no_shares_are_not_taken_for_shares():
    names = [str(i) for i in range(40)]
    first, second = ({name: shift + i % 7 for i, name in enumerate(names)} for shift in (3.0, 5.0))
    (found,) = pair_tasks(in_tables(of(first, "score")), in_tables(of(second, "score")))
    assert not found.is_share
    assert found.difference == -2


def test_the_seed_draws_the_resamples():
    drawn = np.random.default_rng(0).integers(0, 2, (2, 40))
    first, second = ({str(n): float(value) for n, value in enumerate(values)} for values in drawn)
    one, again, other = (pair_tasks(in_tables(of(first)), in_tables(of(second)), seed=seed) for seed in (1, 1, 2))
    assert one == again
    assert one[0].difference == other[0].difference
    assert (one[0].low, one[0].high) != (other[0].low, other[0].high)


def test_arms_that_answered_a_few_questions_alike_are_not_shown_to_be_the_same():
    same = np.array([[1.0, 0, 1, 1]])
    value, low, high = difference_of(same, same, is_share=True)
    assert value == 0
    assert low < -0.2
    assert high > 0.2


def test_the_interval_covers_the_difference_of_accuracies():
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(100):
        hard = generator.uniform(size=100)
        a, b = (generator.uniform(size=(1, 100)) < np.clip(hard + shift, 0, 1) for shift in (-0.1, 0.0))
        truth = float((np.clip(hard - 0.1, 0, 1) - hard).mean())
        _, low, high = difference_of(a.astype(float), b.astype(float), is_share=True)
        covered += low <= truth <= high
    assert covered >= 88


def test_evaluate_pairs_two_models_on_tasks_of_a_folder(tokenizer, bases, tmp_path, capsys):
    pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed: pip install 'unnorm[lm-eval]'")
    model = tiny_model("gpt2")
    swap_(model, DyT(), calibrate_on=tokens())
    save(model, tmp_path / "swapped", tokenizer)
    folder = write_tasks(tmp_path / "tasks")
    asked = ["evaluate", str(tmp_path / "swapped"), "--tasks", "tiny_choice", "--tasks-folder", str(folder)]
    assert run([*asked, "--against", bases["gpt2"], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (paired,) = found["tasks_paired"]
    assert paired["questions"] == len(QUESTIONS)
    assert paired["first"] == found["tasks"]["tiny_choice"]["acc_norm,none"]
    assert paired["second"] == found["tasks_against"]["tiny_choice"]["acc_norm,none"]
    assert run([*asked, "--against", bases["gpt2"]]) == 0
    assert "points" in capsys.readouterr().out
    assert run(["evaluate", bases["gpt2"], "--tasks", "tiny_choise", "--tasks-folder", str(folder)]) == 2
    assert "Did you mean 'tiny_choice'?" in capsys.readouterr().err
    assert run(["evaluate", bases["gpt2"], "--data", "alpaca", "--tasks-folder", str(folder)]) == 2
    assert "give --tasks TASKS" in capsys.readouterr().err
