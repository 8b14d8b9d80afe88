"""Options as people mistype them: one message in plain words, exit 2, nothing begun; and what a text must not hide."""

import json
import re
import time

import pytest

from evaluation.preference.made import MadeJudge, answer, write_answers
from unnorm.cli.main import run
from unnorm.evaluation.preference.compare import compare
from unnorm.evaluation.preference.wording import sentences
from unnorm.evaluation.questions import read_questions
from unnorm.foundation.errors import DataError, SettingsError
from unnorm.foundation.nearest import did_you_mean
from unnorm.study.after import judge as judge_stage
from unnorm.study.sections import JudgeStage


def refused(capsys, *arguments: object) -> str:
    started = time.perf_counter()
    assert run([str(each) for each in arguments]) == 2
    err = " ".join(re.sub(r"[│╭╮╰╯─]", " ", capsys.readouterr().err).split())
    for foreign in ("Input should", "Value error", "Traceback", "unexpected"):
        assert foreign not in err
    assert time.perf_counter() - started < 30
    return err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--to", "dty-bare"), "there is no arm 'dty-bare'. Did you mean 'dyt-bare'?"),
        (
            ("--to", "dyt", "--alpha", "chanel"),
            "setting 'alpha': must be one of scalar, channel, not 'chanel'.",
        ),
        (
            ("--strategy", "selectiv"),
            "--strategy: must be one of frozen, selective, full, not 'selectiv'.",
        ),
        (
            ("--schedule", "cos"),
            "--schedule: must be one of cosine, linear, constant, not 'cos'.",
        ),
        (("--precision", "bf61"), "--precision: must be one of"),
        (("--learning-rate", "0"), "--learning-rate: must be above 0, not 0.0"),
        (("--learning-rate", "inf"), "--learning-rate: must be a finite number, not inf"),
        (("--learning-rate", "nan"), "--learning-rate: must be a finite number, not nan"),
        (("--learning-rate", "fast"), "'--learning-rate': must be a number, not 'fast'"),
        (
            ("--too-long", "spilt"),
            "--too-long: must be one of drop, keep-start, keep-end, split, not 'spilt'.",
        ),
        (("--policy", "htlm=keep"), "--policy htlm: there is no such key. Did you mean 'html'?"),
        (("--policy", "html=kept"), "--policy html: must be one of markdown, keep, not 'kept'. Did you mean 'keep'?"),
        (("--loss-on", "answr"), "--loss-on is answer, last, all, or roles of"),
        (("--batch-tokens", "100"), "batch_tokens (100) must be a multiple of max_length (256)"),
        (("--max-length", "1"), "'--max-length': must be 2 or more, not '1'"),
        (("--max-length", "1.5"), "'--max-length': must be a whole number, not '1.5'"),
        (("--seed", str(2**32)), "--seed: must be below 4294967296, not 4294967296"),
        (("--lora-rank", "0"), "'--lora-rank': must be 1 or more, not '0'"),
    ],
)
def test_an_option_of_finetune(capsys, tmp_path, options, message):
    out = tmp_path / "run"
    assert message in refused(capsys, "finetune", "no/model", "--data", "no-data", "--out", out, *options)
    assert not out.exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("latency", "a", "--mode", "egaer"),
            "--mode is one of eager, compile, cuda-graphs, compiled-cuda-graphs, not",
        ),
        (
            ("latency", "a", "--dtype", "float23"),
            "not 'float23'. Did you mean 'float32'?",
        ),
        (("latency", "a", "--half-width", "nan"), "'--half-width': must be 0 or more, not 'nan'"),
        (("latency", "a", "--budget", "inf"), "'--budget': inf is not a finite number"),
        (("judge", "a", "b", "--judge", "reward", "--margin", "inf"), "'--margin': inf is not a finite number"),
        (("judge", "a", "b", "--judge", "openai", "--price", "nan/1"), "--price is IN/OUT"),
        (("judge", "a", "b", "--judge", "openai", "--price", "-1/1"), "--price is IN/OUT"),
        (("evaluate", "a", "--data", "b", "--by", "langage"), "not 'langage'. Did you mean 'language'?"),
        (("report", "a", "--format", "cvs"), "--format is one of"),
        (("study", "export", "a", "--format", "cvs"), "not 'cvs'. Did you mean 'csv'?"),
        (
            ("swap", "no/model", "--bare", "--to", "dty", "--out", "o"),
            "no norm named 'dty'. Did you mean 'dyt'?",
        ),
        (("swap", "no/model", "--bare", "--set", "alfa_init=1", "--out", "o"), "Did you mean 'alpha_init'?"),
    ],
)
def test_an_option_of_another_verb(capsys, arguments, message):
    assert message in refused(capsys, *arguments)


def test_a_judge_that_there_is_not(capsys, tmp_path):
    a, b = (write_answers(tmp_path / f"{name}.jsonl", [answer(1, 20)]) for name in "ab")
    message = "there is no judge 'likelyhood'. Did you mean 'likelihood'?"
    assert message in refused(capsys, "judge", a, b, "--judge", "likelyhood")


def test_did_you_mean():
    assert did_you_mean("Dyt-Bare", ["original", "dyt-bare"]) == " Did you mean 'dyt-bare'?"
    assert did_you_mean("dytt", ["original", "dyt"]) == " Did you mean 'dyt'?"
    assert did_you_mean("xyz", ["original", "dyt"]) == ""
    assert did_you_mean(5, ["5"]) == ""
    assert did_you_mean("a" * 10**6, ["a"]) == ""


def test_a_line_of_json_is_named_once(tmp_path):
    """Its parser calls every line the first."""
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt_id": 1, "category": "a", "instruction": "b"}\n' * 10 + '{"prompt_id": 1, "category": }\n')
    with pytest.raises(DataError) as caught:
        read_questions(str(file))
    assert f"{file}, line 11: not valid JSON (unexpected character, expected a JSON value at character 30)." in str(
        caught.value
    )
    assert "line 1 " not in str(caught.value)


def test_one_model_alone_is_timed_against_itself_and_that_is_said(capsys, bases):
    command = ["latency", bases["gpt2"], "--budget", "1", "--workloads", "prefill", "--lengths", "8"]
    assert run(command) == 0
    out, err = capsys.readouterr()
    assert "one model: it is timed against itself, and against a copy without norms" in err
    assert "the same again" in out
    assert "no norms" in out
    assert run([*command, "--no-bound", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "one model: it is timed against itself. Name a second model" in err
    assert [found["model"] for found in json.loads(out)["comparisons"]] == ["the same again"]


class Alone(MadeJudge):
    """Scores each answer alone, as the likelihood and reward judges do."""

    sees_order = False


def test_questions_without_a_verdict_are_said_whatever_the_judge(tmp_path):
    a = write_answers(tmp_path / "a.jsonl", [answer(quality, 20) for quality in (1, 2, 3, 4)])
    b = write_answers(tmp_path / "b.jsonl", [answer(0, 20)] * 4)
    by = Alone(lambda first, second, pair: None if "question 0" in pair.questions[0] else 1.0)
    text = "\n".join(sentences(compare(a, b, by, out=tmp_path / "out", quiet=True)))
    assert "NO VERDICT on 1 of 4 questions; these count nowhere." in text
    both = MadeJudge(lambda first, second, pair: None if "question 0" in pair.questions[0] else 1.0, "both")
    text = "\n".join(sentences(compare(a, b, both, out=tmp_path / "both", quiet=True)))
    assert "NO VERDICT on 1 of 4 questions, and on 1 of the null run; these count nowhere." in text


def test_a_studys_line_about_a_judge_says_it_too(tmp_path, monkeypatch):
    arm, against = (
        write_answers(tmp_path / f"{name}.jsonl", [answer(quality, 20)] * 4)
        for name, quality in (("arm", 1), ("against", 0))
    )
    by = Alone(lambda first, second, pair: None if "question 0" in pair.questions[0] else 1.0)
    monkeypatch.setattr(judge_stage, "_loaded", lambda *how: by)
    line = judge_stage.judge(arm, against, JudgeStage(kind="likelihood"), tmp_path / "out", quiet=True)
    assert line == "3 won, 0 tied, 0 lost, 1 without a verdict"


def test_a_margin_that_is_no_number(tmp_path):
    for margin in (float("nan"), float("inf"), -1.0):
        with pytest.raises(SettingsError, match="margin"):
            compare(tmp_path / "a", tmp_path / "b", MadeJudge(lambda *_: 1.0), margin=margin)
