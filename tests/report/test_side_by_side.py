"""Everything that was measured of two arms, in one table."""

import pytest

from report.views import study
from study.test_task_differences import made
from unnorm.report.side_by_side import side_by_side
from unnorm.study.compare import compare_arms
from unnorm.study.task_differences import task_rows


def table_of(view):
    head, *lines = side_by_side(view, compare_arms(view), task_rows(view), view.reference)
    return head, [dict(zip(head, line, strict=True)) for line in lines]


@pytest.fixture(scope="module")
def view(tmp_path_factory):
    """Two seeds, judged and timed; under `frozen`, 60 questions that dyt answers worse and dyt-bare alike."""
    right = {str(number): 1 for number in range(60)}
    worse = {**right, **{str(number): 0 for number in range(20)}}
    both = {arm: dict.fromkeys((0, 1), scores) for arm, scores in (("original", right), ("dyt", worse))}
    return made(tmp_path_factory.mktemp("tasks"), both, seeds=(0, 1), pairs=True)


def test_tasks_stand_beside_loss_accuracy_win_rate_and_time(view):
    head, lines = table_of(view)
    assert head == ["strategy", "arm", "measure", "arm's", "original's", "difference", "could show", "verdict", "seeds"]
    start = next(number for number, line in enumerate(lines) if (line["strategy"], line["arm"]) == ("frozen", "dyt"))
    block = lines[start : start + 5]
    measures = ["loss (nats)", "token accuracy", "win rate", "time per token", "choice (acc_norm)"]
    assert [line["measure"] for line in block] == measures
    assert all((line["strategy"], line["arm"]) == ("", "") for line in block[1:])
    loss, accuracy, _, latency, task = block
    assert (loss["arm's"], loss["original's"]) == ("3.8800", "3.6200")
    assert loss["verdict"] == "behind by 7.2%"
    assert accuracy["arm's"] == "48.0%"
    assert latency["verdict"] == "faster [INCOMPLETE]"  # one seed of the two was timed
    assert (task["arm's"], task["original's"], task["seeds"]) == ("66.7%", "100.0%", "2")
    assert task["difference"].startswith("−33.3 (−")
    assert task["difference"].endswith(" points")
    assert task["verdict"] == "behind by 33.3 points"


def test_arms_that_answer_alike_are_undecided(tmp_path):
    alike = {arm: {0: {str(number): number % 2 for number in range(60)}} for arm in ("original", "dyt")}
    _, lines = table_of(made(tmp_path, alike))
    (task,) = [line for line in lines if line["measure"].startswith("choice")]
    assert task["verdict"] == "undecided"
    assert task["could show"].startswith("± ")


def test_what_is_in_doubt_is_said():
    _, lines = table_of(study(seeds=(0, 1), matched=False, broken={("dyt", "full", 1): "failed"}))
    assert sum(line["verdict"].endswith("[NOT MATCHED]") for line in lines) == 2
    assert sum("INCOMPLETE" in line["verdict"] for line in lines) == 2
    assert not any("INCOMPLETE" in line["verdict"] for line in table_of(study(seeds=(0, 1)))[1])


def test_a_judge_and_a_clock_have_words_of_their_own(view):
    _, lines = table_of(view)
    said = {line["measure"]: line for line in lines}
    assert said["win rate"]["verdict"] in ("undecided", "original is preferred", "dyt is preferred")
    assert said["win rate"]["difference"].endswith("%)")
