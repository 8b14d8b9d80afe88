"""`sites`, `swap` and `recover` read a damaged file with columns of one's own, as `finetune` and `evaluate` do."""

import json

import pytest

from cli.test_main import call, finetune_options
from conftest import alpaca_rows

HOW = ("--template", "alpaca-short", "--map", "instruction=frage,input=dazu,output=antwort")
VERBS = {
    "sites": ("--tokens", 500, "--data"),
    "swap": ("--tokens", 500, "--measure-tokens", 200, "--calibrate"),
    "recover": (
        "--max-length", 64, "--tokens", 512, "--batch-tokens", 256, "--held-out-tokens", 100, "--precision", "fp32",
        "--data",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> str:
    names = {"instruction": "frage", "input": "dazu", "output": "antwort"}
    lines = [json.dumps({names[key]: value for key, value in row.items()}) for row in alpaca_rows()]
    lines[3] = lines[3].replace('", "', '" "')
    path = tmp_path_factory.mktemp("own") / "rows.jsonl"
    path.write_text("\n".join(lines))
    return str(path)


@pytest.fixture(scope="module")
def swapped(bases, tmp_path_factory) -> str:
    from unnorm.cli.main import run

    out = str(tmp_path_factory.mktemp("bare") / "swapped")
    assert run(["swap", bases["gpt2"], "--bare", "--out", out]) == 0
    return out


@pytest.mark.parametrize("verb", VERBS)
def test_own_columns_and_damage(capsys, verb, bases, swapped, own, tmp_path):
    model = swapped if verb == "recover" else bases["gpt2"]
    out = () if verb == "sites" else ("--out", tmp_path / "out")
    code, stdout, err = call(capsys, verb, model, *VERBS[verb], own, *HOW, "--repair", *out, "--json")
    assert code == 0, err
    assert json.loads(stdout)
    for options, message in (
        ((*HOW,), "--repair"),
        ((*HOW[:2], "--repair"), "frage"),
        ((*HOW[:3], "instruction", "--repair"), "--map: must give each field of the format its column"),
    ):
        fresh = () if verb == "sites" else ("--out", tmp_path / "fresh")
        code, _, err = call(capsys, verb, model, *VERBS[verb], own, *options, *fresh)
        assert code == 2, err
        assert message in err


def test_the_next_command_reads_the_data_in_the_same_way(capsys, bases, own, tmp_path):
    how = f"--data {own} --template alpaca-short --repair --map {HOW[3]}"
    code, _, err = call(
        capsys, "swap", bases["gpt2"], *VERBS["swap"], own, *HOW, "--repair", "--out", tmp_path / "swapped"
    )
    assert code == 0, err
    assert how in err
    options = finetune_options(bases["gpt2"], own, tmp_path / "run", *HOW, "--repair", "--tokens", 200)
    code, _, err = call(capsys, *options)
    assert code == 0, err
    line = f"unnorm evaluate {tmp_path / 'run' / 'model'} {how}"
    assert f"{line}\n" in err, "against a base that was not fine-tuned it would not show what the swap cost"
    plain = finetune_options(
        bases["gpt2"], own, tmp_path / "run2", *HOW, "--repair", "--tokens", 200, "--to", "original"
    )
    assert f"{line} --against {bases['gpt2']}".replace("/run/", "/run2/") in call(capsys, *plain)[2]
