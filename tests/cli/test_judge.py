"""`unnorm judge`, as a user meets it."""

import json

import pytest

from cli.test_main import call
from evaluation.judges.server import PROMPT_TOKENS, Server
from evaluation.preference.made import write_answers


@pytest.fixture
def answers(tmp_path):
    texts = {"a": ["good red", "blue blue", "", "same"], "b": ["stone", "river lamp", "x", "same"]}
    return [
        write_answers(tmp_path / f"{name}.jsonl", said, turns=2, categories=("c\x1b[2J", "d"), finish={1: "length"})
        for name, said in texts.items()
    ]


@pytest.fixture
def server(monkeypatch, tmp_path):
    monkeypatch.setenv("UNNORM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    running = Server()
    yield running
    running.close()


def test_help_ends_in_an_example(capsys):
    code, out, _ = call(capsys, "judge", "--help")
    assert code == 0
    assert "Example: unnorm judge" in out
    assert "--json" in out


def test_likelihood(capsys, answers, bases, tmp_path):
    options = ("judge", *answers, "--judge", "likelihood", "--model", bases["gpt2"], "--out", tmp_path / "out")
    code, out, err = call(capsys, *options)
    assert code == 0, err
    assert "weak evidence" in out
    assert "exploratory" in out
    assert "A wins" in out
    assert "\x1b[2J" not in out  # a category is untrusted text
    assert "verdicts and report" in err
    before = (tmp_path / "out" / "verdicts.jsonl").read_bytes()
    code, out, _ = call(capsys, *options, "--json")
    report = json.loads(out)
    assert report == json.loads((tmp_path / "out" / "report.json").read_bytes())
    assert (tmp_path / "out" / "verdicts.jsonl").read_bytes() == before
    assert list(report["parts"]) == ["whole", "turn 1", "turn 2"]
    assert report["counts"]["empty_a"] == 1
    assert report["counts"]["truncated_b"] == 1
    assert report["parts"]["turn 1"]["losses"] >= 1  # the empty answer
    assert report["sees_order"] is False


def test_openai(capsys, answers, server, tmp_path):
    options = ("judge", *answers, "--judge", "openai", "--model", "m", "--base-url", server.url, "--price", "2/8")
    code, out, err = call(capsys, *options, "--json")
    assert code == 0, err
    report = json.loads(out)
    assert report["parts"]["turn 1"]["order_flip_rate"]["value"] == 0
    # 2 questions × 3 parts but the two that are settled, in two orders, and A against itself twice each
    assert len(server.bodies) == 4 * 2 + 2 * 2
    assert report["usage"]["prompt_tokens"] == 12 * PROMPT_TOKENS
    assert report["usage"]["cost"] == pytest.approx(12 * (PROMPT_TOKENS * 2 + 7 * 8) / 1e6)
    code, out, _ = call(capsys, *options)
    assert code == 0
    assert "Tokens: 1,200 in, 84 out; cost 0.0031" in out
    assert len(server.bodies) == 12
    written = [file.read_text() for file in (tmp_path / "cache").rglob("*") if file.is_file()]
    assert written
    assert not any("sk-secret" in text for text in [out, *written])


def test_an_endpoint_that_refuses_is_exit_code_1(capsys, answers, server):
    server.troubles = [401] * 99
    code, _, err = call(capsys, "judge", *answers, "--judge", "openai", "--model", "m", "--base-url", server.url)
    assert code == 1
    assert "OPENAI_API_KEY" in err
    assert "sk-secret" not in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("A", "B", "--judge", "oracle"), "Known judges: pairrm, reward, openai, likelihood"),
        (("A", "B", "--judge", "likelihood"), "needs --model"),
        (("A", "B", "--judge", "reward"), "needs --model"),
        (("A", "B", "--judge", "likelihood", "--model", "./absent"), "there is no folder"),
        (("A", "B", "--judge", "reward", "--model", "./absent"), "there is no folder"),
        (("A", "B", "--judge", "pairrm", "--model", "./absent"), "cannot load"),
        (("A", "B", "--judge", "pairrm", "--base-url", "http://x/v1"), "belongs to the judge openai"),
        (("A", "B", "--judge", "openai", "--model", "m", "--base-url", "x"), "no http address"),
        (("A", "B", "--judge", "openai", "--model", "m", "--price", "2"), "--price is IN/OUT"),
        (("A", "B", "--judge", "likelihood", "--model", "GPT2", "--out", "."), "is not empty and holds no verdicts"),
        (("A", "absent.jsonl", "--judge", "pairrm"), "there is no file"),
        (("A", "B"), "--judge"),
    ],
)
def test_bad_input(capsys, answers, bases, options, message):
    places = {"A": answers[0], "B": answers[1], "GPT2": bases["gpt2"], ".": answers[0].parent}
    code, _, err = call(capsys, "judge", *(places.get(option, option) for option in options))
    assert code == 2
    assert message in " ".join(err.split())
    assert "Traceback" not in err
