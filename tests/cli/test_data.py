"""`unnorm data`."""

import json

import pytest

from unnorm.cli.main import run


def call(capsys, *arguments) -> tuple[int, str, str]:
    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def chats(tmp_path):
    rows = [
        {"id": "x_0", "conversations": [{"from": "gpt", "value": "hi"}, {"from": "human", "value": "red?"},
                                        {"from": "gpt", "value": "blue \x1b[31m\u202e!"}], "model": "m"},
        {"id": "y_0", "conversations": [{"from": "human", "value": "only a question"}]},
    ]  # fmt: skip
    path = tmp_path / "chats.json"
    path.write_text(json.dumps(rows))
    return path


def test_preview(capsys, chats, bases):
    options = ("data", "preview", chats, "--model", bases["gpt2"], "--template", "plain")
    code, out, err = call(capsys, *options)
    assert code == 0, err
    assert "sharegpt format; nothing taken from the columns model" in err
    assert "2 rows, 1 conversations" in err
    assert "row 0; leading answer dropped" in out
    assert "⟦blue \\u001b[31m\\u202e!<|endoftext|>⟧" in out
    assert "\x1b" not in out
    assert "no answer" in out
    code, out, _ = call(capsys, *options, "--policy", "leading_answer=context", "--json")
    shown = json.loads(out)
    assert code == 0
    assert shown["changed"] == {"leading answer kept as context": 1}
    assert [run_["weight"] for run_ in shown["shown"][0]["rows"][0]] == [0, 1]
    assert shown["shown"][0]["rows"][0][1]["text"].endswith("!<|endoftext|>")


def test_stats(capsys, data_file, bases, tmp_path):
    options = ("data", "stats", data_file, "--model", bases["gpt2"], "--template", "alpaca-short", "--max-length", 64)
    code, out, err = call(capsys, *options, "--out", tmp_path / "s")
    assert code == 0, err
    assert "packed rows" in out
    assert (tmp_path / "s" / "lengths.png").stat().st_size > 1000
    written = json.loads((tmp_path / "s" / "stats.json").read_text())
    code, out, _ = call(capsys, *options, "--json")
    assert json.loads(out) == written
    assert written["conversations"] == 160
    assert written["trained"] < written["tokens"]


@pytest.mark.parametrize("verb", ["preview", "stats"])
def test_help_ends_in_an_example(capsys, verb):
    code, out, _ = call(capsys, "data", verb, "--help")
    assert code == 0
    assert f"Example: unnorm data {verb}" in out
    assert "--json" in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--policy", "colour"), "KEY=VALUE"),
        (("--policy", "colour=red"), "--policy colour: there is no such key"),
        (("--policy", "html=eat"), "--policy html: must be one of markdown, keep, not 'eat'"),
        (("--loss-on", "user,wizard"), "--loss-on is answer, last, all, or roles"),
        (("--too-long", "wrap"), "--too-long: must be one of drop, keep-start, keep-end, split, not 'wrap'"),
        (("--format", "word"), "--format: must be one of sharegpt, messages"),
        (("--template", "vicuna"), "Known templates"),
        (("--model", "./absent"), "there is no folder"),
    ],
)
def test_options_that_cannot_be(capsys, data_file, bases, options, message):
    code, _, err = call(capsys, "data", "preview", data_file, "--model", bases["gpt2"], *options)
    assert code == 2
    assert message in err


def test_a_repair_that_keeps_no_record_says_that_it_may_be_no_json(capsys, tmp_path):
    file = tmp_path / "rows.csv"
    file.write_text('ask,say\n"What is {a: 1?",one\n"And b?",two\n')
    code, _, err = call(capsys, "data", "repair", file)
    assert code == 0
    assert "wrote 0 records" in err
    assert "no record could be kept" in err
    assert "tables (.csv) and text (.txt) are read as they are" in " ".join(err.split())
