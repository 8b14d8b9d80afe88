"""`unnorm study new`: a file that can be planned as it is, from flags or from answers."""

import io
import json

import pytest

from cli.test_main import call
from unnorm.study.spec import read_spec


def test_from_flags_a_study_that_can_be_planned(capsys, bases, data_file, tmp_path):
    file = tmp_path / "mine" / "study.yaml"
    file.parent.mkdir()
    options = ("--model", bases["gpt2"], "--data", data_file, "--template", "alpaca-short", "--tokens", "2k")
    code, out, err = call(capsys, "study", "new", file, *options)
    assert (code, out) == (0, "")
    assert f"unnorm study plan {file}" in err
    text = file.read_text()
    assert text.count("#") > 8
    spec, _ = read_spec(file)
    assert (spec.name, spec.models, spec.training.tokens) == ("mine", [bases["gpt2"]], 2000)
    assert spec.training.max_length == 64  # all that this model takes
    assert spec.datasets[0].template == "alpaca-short"
    code, out, err = call(capsys, "study", "plan", file, "--ledger", tmp_path / "ledger", "--json")
    assert code == 0, err
    assert len(json.loads(out)["cells"]) == 4
    code, _, err = call(capsys, "study", "new", file, *options)
    assert code == 2
    assert "exists already" in err
    assert file.read_text() == text


def test_what_is_commented_out_in_it_is_right_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a b'\"#{.json").touch()
    (tmp_path / "no").mkdir()
    file = tmp_path / "s.yaml"
    options = (
        "--model",
        "some/model",
        "--data",
        "a b'\"#{.json",
        "--data",
        "no",
        "--map",
        "instruction=q,output=a",
    )
    assert call(capsys, "study", "new", file, *options, "--seeds", 3, "--repair", "--arm", "original")[0] == 0
    lines = file.read_text().splitlines()
    start = next(n for n, line in enumerate(lines) if line == "# after:")
    with_all = [line.replace("# learning_rate", "learning_rate") for line in lines[:start]]
    file.write_text("\n".join(with_all + [line.removeprefix("# ") for line in lines[start:]]))
    spec, _ = read_spec(file)
    assert spec.after.completions is not None
    assert spec.after.latency is not None
    assert spec.training.learning_rate == {"frozen": 1e-3, "selective": 1e-3, "full": 1e-4}
    assert [each.source for each in spec.datasets] == ["a b'\"#{.json", "no"]
    assert dict(spec.datasets[1].map) == {"instruction": "q", "output": "a"}
    assert all(each.repair for each in spec.datasets)
    assert spec.seeds == [0, 1, 2]
    assert [arm.id for arm in spec.resolved_arms()] == ["original"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal_it_asks_and_asks_again(capsys, tmp_path, monkeypatch):
    file = tmp_path / "first try.yaml"
    answers = "EleutherAI/pythia-14m\nmine.json\nalpaca, sharegpt\ndit\noriginal dyt-bare\n\nmany\n500k\n"
    monkeypatch.setattr("sys.stdin", Terminal(answers))
    code, _, err = call(capsys, "study", "new", file)
    assert code == 0, err
    assert "there is no file 'mine.json'" in err
    assert "there is no arm 'dit'. Did you mean" in err
    assert "not 'many'" in err
    spec, _ = read_spec(file)
    assert spec.name == "first-try"
    assert spec.dataset_names == ["alpaca", "sharegpt"]
    assert [arm.id for arm in spec.resolved_arms()] == ["original", "dyt-bare"]
    assert (spec.strategies, spec.training.tokens) == (["frozen", "full"], 500_000)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "give --model, as in unnorm study new study.yaml --model EleutherAI/pythia-14m --data alpaca"),
        (("--model", "m"), "give --data, as in unnorm study new"),
        (("--model", "m", "--data", "mine.json"), "there is no file 'mine.json'. DATA is a known name"),
        (("--model", "m", "--data", "alpacca"), "'alpacca' is neither a known name nor a file"),
        (("--model", "m", "--data", "alpaca", "--arm", "dit"), "there is no arm 'dit'"),
        (("--model", "m", "--data", "alpaca", "--strategy", "half"), "strategies.0: must be one of frozen, selective"),
        (("--model", "m", "--data", "alpaca", "--tokens", "many"), "--tokens is a number of tokens"),
        (("--model", "m", "--data", "alpaca", "--name", "a/b"), "name: must be letters, digits, dots"),
    ],
)
def test_what_makes_no_study_is_refused(capsys, tmp_path, monkeypatch, options, message):
    monkeypatch.setattr("sys.stdin", io.StringIO())
    code, _, err = call(capsys, "study", "new", tmp_path / "s.yaml", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "s.yaml").exists()
