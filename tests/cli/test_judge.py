"""`unnorm judge`, as a user meets it: offline, on answers of two models."""

import json

import pytest

from cli.test_main import call


@pytest.fixture(scope="module")
def answers(tmp_path_factory, bases):
    """Two files of answers to the same questions of two turns."""
    from unnorm.cli.main import run

    folder = tmp_path_factory.mktemp("answers")
    questions = folder / "q.jsonl"
    rows = [{"prompt_id": f"q{i}", "category": "ab"[i % 2], "turns": [f"Join red {i}", "Again"]} for i in range(6)]
    questions.write_text("\n".join(map(json.dumps, rows)))
    files = {}
    for name in ("gpt2", "llama"):
        files[name] = folder / f"{name}.jsonl"
        options = ["--prompts", questions, "--out", files[name], "--max-new-tokens", "6", "--template", "alpaca-short"]
        assert run(["generate", bases[name], *map(str, options)]) == 0
    return files


def test_two_files_judged_by_likelihood(capsys, answers, bases, tmp_path):
    command = ("judge", answers["gpt2"], answers["llama"], "--judge", "likelihood", "--model", bases["gpt2"])
    code, out, err = call(capsys, *command, "--out", tmp_path / "v", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found["parts"]) == {"whole", "turn 1", "turn 2"}
    whole = found["parts"]["whole"]
    assert whole["questions"] == 6
    assert whole["wins"] + whole["ties"] + whole["losses"] == 6
    assert whole["win_rate"]["low"] <= whole["win_rate"]["value"] <= whole["win_rate"]["high"]
    assert found["null"]["ties"] == found["null"]["questions"]
    before = (tmp_path / "v" / "verdicts.jsonl").read_bytes()
    code, out, err = call(capsys, *command, "--out", tmp_path / "v")  # nothing is judged twice
    assert code == 0
    assert (tmp_path / "v" / "verdicts.jsonl").read_bytes() == before
    assert "by category" in out
    assert "(exploratory)" in out
    assert "weak evidence of quality" in out


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--judge", "oracle"), "there is no judge 'oracle'"),
        (("--judge", "likelihood"), "needs --model"),
        (("--judge", "reward", "--model", "/nowhere"), "cannot load"),
        (("--judge", "likelihood", "--model", "x", "--base-url", "http://x"), "--base-url belongs to the judge openai"),
        (("--judge", "openai", "--model", "x", "--price", "much"), "--price is IN/OUT"),
        (("--judge", "openai", "--model", "x", "--base-url", "ftp://x"), "is no http address"),
    ],
)
def test_bad_input(capsys, answers, more, message):
    code, _, err = call(capsys, "judge", answers["gpt2"], answers["llama"], *more)
    assert code == 2
    assert message in err
    assert "Traceback" not in err


def test_files_that_cannot_be_paired(capsys, answers, tmp_path):
    code, _, err = call(capsys, "judge", answers["gpt2"], tmp_path / "none.jsonl", "--judge", "likelihood")
    assert code == 2
    assert "there is no file" in err
    (tmp_path / "bad.jsonl").write_text('{"prompt_id": 1}\n')
    code, _, err = call(capsys, "judge", answers["gpt2"], tmp_path / "bad.jsonl", "--judge", "likelihood")
    assert code == 2
    assert "line 1: a completion needs" in err
