"""From two files to a report: pairing, what is settled without the judge, resuming."""

from dataclasses import astuple

import orjson
import pytest

from evaluation.preference.made import MadeJudge, always_first, answer, better_wins, write_answers
from unnorm.evaluation.judges.interface import Verdict
from unnorm.evaluation.preference.answers import pair_answers
from unnorm.evaluation.preference.compare import compare
from unnorm.evaluation.preference.wording import sentences
from unnorm.foundation.errors import DataError, SettingsError


@pytest.fixture
def files(tmp_path):
    """Six questions of two turns; A is better in the first turn and worse in the second, by more."""
    a = write_answers(tmp_path / "a.jsonl", [answer(q, 20) for q in (1, -3) * 6], turns=2, categories=("x", "y"))
    b = write_answers(tmp_path / "b.jsonl", [answer(0, 40)] * 12, turns=2, categories=("x", "y"), finish={0: "length"})
    return a, b


def by_sum(first, second, pair):
    return sum(float(text[:7]) for text in pair.first) - sum(float(text[:7]) for text in pair.second)


def test_wholes_and_turns(files, tmp_path):
    found = compare(*files, MadeJudge(by_sum), out=tmp_path / "out", quiet=True)
    assert {part: (p.wins, p.losses) for part, p in found.parts.items()} == {
        "whole": (0, 6),
        "turn 1": (6, 0),
        "turn 2": (0, 6),  # what was said before is shown: −2 in all
    }
    whole = found.parts["whole"]
    assert {name: (c.questions, c.exploratory) for name, c in whole.categories.items()} == {
        "x": (3, True),
        "y": (3, True),
    }
    assert whole.length_ratio.value == pytest.approx(0.5)
    assert found.parts["turn 1"].length_ratio.value == pytest.approx(0.5)
    assert (found.counts.answers, found.counts.truncated_a, found.counts.truncated_b) == (12, 0, 1)
    assert orjson.loads((tmp_path / "out" / "report.json").read_bytes())["parts"]["whole"]["losses"] == 6


def test_rule_14_empty_answers_lose_and_are_counted(tmp_path):
    a = write_answers(tmp_path / "a.jsonl", ["", " \n", "same", "", "said"])
    b = write_answers(tmp_path / "b.jsonl", ["said", "said", "same", "\t", ""])
    judge = MadeJudge(lambda first, second, pair: 1.0 if not first.strip() else -1.0)  # it likes them empty
    found = compare(a, b, judge, out=tmp_path / "out", quiet=True)
    whole = found.parts["whole"]
    assert (whole.wins, whole.ties, whole.losses, whole.settled_without_judge) == (1, 2, 2, 5)
    assert (found.counts.empty_a, found.counts.empty_b, found.counts.identical) == (3, 2, 1)
    assert judge.asked == 4  # only A against itself, where A said something
    assert found.null.questions == 2


def test_one_question(tmp_path):
    a, b = (write_answers(tmp_path / f"{name}.jsonl", [answer(q, 20)]) for name, q in (("a", 1), ("b", 0)))
    whole = compare(a, b, MadeJudge(better_wins), out=tmp_path / "out", quiet=True).parts["whole"]
    assert (whole.wins, whole.sign_test_p, whole.permutation_p) == (1, 1, 1)
    assert astuple(whole.win_rate) == pytest.approx((1, 0.025, 1))
    assert whole.length_ratio is whole.length_controlled is None


def test_a_killed_run_goes_on_and_judges_nothing_twice(files, tmp_path):
    reference = compare(*files, MadeJudge(by_sum), out=tmp_path / "whole", quiet=True)
    total = len((tmp_path / "whole" / "verdicts.jsonl").read_bytes().splitlines())
    asked = 0
    for limit in (0, 8, 16):  # killed after so many verdicts
        judge = MadeJudge(by_sum)

        def until(first, second, pair, judge=judge, limit=limit):
            if judge.asked > limit:
                raise KeyboardInterrupt
            return by_sum(first, second, pair)

        judge.prefers = until
        with pytest.raises(KeyboardInterrupt):
            compare(*files, judge, out=tmp_path / "cut", quiet=True)
        log = tmp_path / "cut" / "verdicts.jsonl"
        if log.is_file():
            asked = len(log.read_bytes().splitlines())
            with open(log, "ab") as file:
                file.write(b'{"prompt_id": "q3", "par')  # a line that a kill cut short
    last = MadeJudge(by_sum)
    found = compare(*files, last, out=tmp_path / "cut", quiet=True)
    assert 0 < asked < total
    assert last.asked == total - asked
    assert found == reference
    assert (tmp_path / "cut" / "verdicts.jsonl").read_bytes() == (tmp_path / "whole" / "verdicts.jsonl").read_bytes()
    again = MadeJudge(by_sum)
    assert compare(*files, again, out=tmp_path / "cut", quiet=True) == reference
    assert again.asked == 0


def test_a_damaged_line_is_named(files, tmp_path):
    compare(*files, MadeJudge(by_sum), out=tmp_path / "out", quiet=True)
    log = tmp_path / "out" / "verdicts.jsonl"
    for damage in (b'{"prompt_id": 1}', b"[]", b'"x', log.read_bytes().splitlines()[1][:20]):
        lines = log.read_bytes().splitlines()
        lines[1] = damage
        log.write_bytes(b"\n".join(lines) + b"\n")
        with pytest.raises(DataError, match=r"verdicts\.jsonl, line 2 is damaged"):
            compare(*files, MadeJudge(by_sum), out=tmp_path / "out", quiet=True)
    log.write_bytes(b"\n".join([*lines[:1], *lines[2:]]) + b"\n")
    judge = MadeJudge(by_sum)
    compare(*files, judge, out=tmp_path / "out", quiet=True)
    assert judge.asked == 1


def test_without_out_the_cache_keeps_the_verdicts(files, tmp_path, monkeypatch):
    monkeypatch.setenv("UNNORM_CACHE", str(tmp_path / "cache"))
    compare(*files, MadeJudge(by_sum), quiet=True)
    again, other = MadeJudge(by_sum), MadeJudge(by_sum, "other")
    compare(*files, again, margin=1.0, quiet=True)
    compare(*files, other, quiet=True)
    assert (again.asked, other.asked > 0) == (0, True)


def test_a_folder_of_something_else_is_refused(files, tmp_path):
    compare(*files, MadeJudge(by_sum), out=tmp_path / "out", quiet=True)
    with pytest.raises(SettingsError, match="another judge or on other answers"):
        compare(*files, MadeJudge(by_sum, "other"), out=tmp_path / "out", quiet=True)
    with pytest.raises(SettingsError, match="another judge or on other answers"):
        compare(files[1], files[0], MadeJudge(by_sum), out=tmp_path / "out", quiet=True)
    with pytest.raises(SettingsError, match="holds no verdicts"):
        compare(*files, MadeJudge(by_sum), out=tmp_path, quiet=True)
    with pytest.raises(SettingsError, match="holds no verdicts"):
        compare(*files, MadeJudge(by_sum), out=files[0], quiet=True)


def test_no_verdict_is_no_tie(files, tmp_path):
    judge = MadeJudge(lambda first, second, pair: None if "question 0" in pair.questions[0] else 1.0)
    found = compare(*files, judge, out=tmp_path / "out", quiet=True)
    assert (found.parts["whole"].questions, found.parts["whole"].without_verdict) == (5, 1)
    assert "NO VERDICT on 1" in "\n".join(sentences(found))
    nothing = compare(*files, MadeJudge(lambda *_: None, "silent"), out=tmp_path / "silent", quiet=True)
    assert nothing.parts["whole"].win_rate is None
    assert "nothing is known" in sentences(nothing)[0]
    assert nothing.to_dict()["parts"]["whole"]["win_rate"] is None


def test_a_judge_that_does_not_see_the_order_is_asked_once(files, tmp_path):
    both, once = MadeJudge(better_wins), MadeJudge(better_wins, "pointwise")
    once.sees_order = False
    two, one = (compare(*files, judge, out=tmp_path / judge.identity["kind"], quiet=True) for judge in (both, once))
    assert once.asked * 2 == both.asked
    assert one.parts["whole"].order_flip_rate is None
    assert one.parts["whole"].win_rate == two.parts["whole"].win_rate
    assert "by construction" in "\n".join(sentences(one))


def test_tokens_and_cost(files, tmp_path):
    judge = MadeJudge(always_first)
    judge.judge = lambda pairs: [Verdict(1.0, prompt_tokens=1000, reply_tokens=10) for _ in pairs]
    found = compare(*files, judge, out=tmp_path / "out", price=(2.0, 10.0), quiet=True)
    verdicts = 6 * 3 * 2 + 6 * 2
    assert (found.usage.prompt_tokens, found.usage.reply_tokens) == (1000 * verdicts, 10 * verdicts)
    assert found.usage.cost == pytest.approx(verdicts * (1000 * 2 + 10 * 10) / 1e6)
    assert compare(*files, judge, out=tmp_path / "out", quiet=True).usage.cost is None


def test_pairing(tmp_path, files):
    rows = [orjson.loads(line) for line in files[1].read_bytes().splitlines()]

    def pair(changed):
        (tmp_path / "c.jsonl").write_bytes(b"".join(orjson.dumps(row) + b"\n" for row in changed))
        return pair_answers(files[0], tmp_path / "c.jsonl")

    assert pair(rows[::-1]).questions == pair(rows).questions  # order in a file says nothing
    assert pair(rows[1:]).unpaired == ["q0"]  # a turn is missing
    assert pair([*rows, {**rows[0], "prompt_id": "more"}]).unpaired == ["more"]
    for changed, message in [
        ([*rows, rows[0]], "line 13: turn 0 of prompt_id 'q0' a second time"),
        ([{**rows[0], "prompt": "else"}, *rows[1:]], "something else under prompt_id 'q0', turn 0"),
        ([{**row, "prompt_id": "z" + row["prompt_id"]} for row in rows], "no question in common"),
        ([{**rows[0], "text": None}], "line 1: a completion needs"),
        ([[]], "line 1: a completion needs"),
    ]:
        with pytest.raises(DataError, match=message):
            pair(changed)
    (tmp_path / "d.jsonl").write_text('{"prompt_id"\n')
    with pytest.raises(DataError, match="line 1: not valid JSON"):
        pair_answers(files[0], tmp_path / "d.jsonl")
    with pytest.raises(DataError, match="there is no file"):
        pair_answers(files[0], tmp_path / "absent.jsonl")
