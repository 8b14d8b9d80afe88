"""A judge of the user's own, in one file."""

import math
import sys

import numpy as np
import pytest

from unnorm.evaluation.judges import judge_maker, load_judge
from unnorm.evaluation.judges.interface import AnswerPair, Judge
from unnorm.evaluation.judges.openai import OpenAIJudge
from unnorm.evaluation.preference.verdicts import Key, VerdictLog
from unnorm.foundation.errors import RunError, SettingsError

SHORTEST = """
from unnorm import Verdict

class Shortest:
    sees_order, batch, caveat = False, 8, None

    def __init__(self, model="characters"):
        self.identity = {"model": model}

    def judge(self, pairs):
        return [Verdict(len(pair.second[-1]) - len(pair.first[-1])) for pair in pairs]

class Broken(Shortest):
    def judge(self, pairs):
        return pairs[5]

class Few(Shortest):
    def judge(self, pairs):
        return []

class Odd(Shortest):
    def judge(self, pairs):
        return [Verdict(preference) for preference, _ in zip(self.odd, pairs)]

class Half:
    batch = 8

class Needy(Shortest):
    def __init__(self, model):
        pass
"""
PAIRS = [AnswerPair(("q",), ("one",), ("one two",)), AnswerPair(("q",), ("one",), ("1",))]


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SHORTEST)
    yield path
    sys.modules.pop("unnorm_judges_of_mine", None)


def test_it_judges_and_is_known_by_what_its_file_holds(mine):
    judge = load_judge(f"{mine}:Shortest", model="letters")
    assert [verdict.preference for verdict in judge.judge(PAIRS)] == [4, -2]
    assert judge.identity["kind"] == "mine.py:Shortest"
    assert judge.identity["model"] == "letters"
    mine.write_text(SHORTEST + "# another\n")
    assert load_judge(f"{mine}:Shortest").identity["code"] != judge.identity["code"]


def test_its_identity_is_what_a_file_says_of_it(mine, tmp_path):
    mine.write_text(
        SHORTEST + 'class Two(Shortest):\n    def __init__(self):\n        self.identity = {"of": (1, 2)}\n'
    )
    for _ in range(2):  # the second time it goes on
        VerdictLog(tmp_path / "out", {"judge": load_judge(f"{mine}:Two").identity})
    mine.write_text(
        SHORTEST + 'class Two(Shortest):\n    def __init__(self):\n        self.identity = {"of": {1, 2}}\n'
    )
    sys.modules.pop("unnorm_judges_of_mine", None)
    with pytest.raises(SettingsError, match=r"identity of the judge .* cannot be written as JSON"):
        load_judge(f"{mine}:Two")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("Longest", {}, "defines no 'Longest'"),
        ("Half", {}, "has no sees_order, caveat, identity, judge"),
        ("Needy", {}, "needs --model"),
        ("Shortest", {"base_url": "http://x"}, "--base-url belongs to the judge openai"),
    ],
)
def test_what_is_wrong_with_it_is_said(mine, name, settings, message):
    with pytest.raises(SettingsError, match=message):
        load_judge(f"{mine}:{name}", **settings)


@pytest.mark.parametrize(("name", "message"), [("Broken", "failed: IndexError"), ("Few", "one Verdict for each of 2")])
def test_what_goes_wrong_in_it_is_no_fault_of_ours(mine, name, message):
    judge: Judge = load_judge(f"{mine}:{name}")
    with pytest.raises(RunError, match=message):
        judge.judge(PAIRS)


@pytest.mark.parametrize("odd", [math.nan, -math.inf, "A", np.ones(2), np.float32("nan")])
def test_a_preference_that_is_no_finite_number_is_refused(odd, mine):
    """NaN is above nothing: it would be a win for the second answer."""
    judge = load_judge(f"{mine}:Odd")
    judge._judge.odd = [1.0, odd]
    with pytest.raises(RunError, match=r"gave the preference .* finite number"):
        judge.judge(PAIRS)


def test_numbers_of_other_libraries_are_taken_and_can_be_written(mine, tmp_path):
    judge = load_judge(f"{mine}:Odd")
    judge._judge.odd = [np.float64(0.5), None]
    log = VerdictLog(tmp_path / "out", {})
    for number, verdict in enumerate(judge.judge(PAIRS)):
        log.append(Key(str(number), "whole", "A B"), verdict)
    assert [verdict.preference for verdict in VerdictLog(tmp_path / "out", {}).known.values()] == [0.5, None]


def test_two_files_of_one_name_and_one_that_is_not_there(mine, tmp_path):
    judge_maker(f"{mine}:Shortest")
    other = tmp_path / "other" / "mine.py"
    with pytest.raises(SettingsError, match="not a file"):
        judge_maker(f"{other}:Shortest")
    other.parent.mkdir()
    other.write_text(SHORTEST)
    with pytest.raises(SettingsError, match="has the same name"):
        judge_maker(f"{other}:Shortest")


def test_one_of_ours_is_made_by_its_settings():
    judge = load_judge("openai", model="m", base_url="http://127.0.0.1:1/v1")
    assert isinstance(judge, OpenAIJudge)
    assert judge.identity["base_url"] == "http://127.0.0.1:1/v1"
