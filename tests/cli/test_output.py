"""What verbs print."""

import pytest

from unnorm.cli.main import run
from unnorm.cli.output import emit_table, told_apart


def test_names_in_a_tables_title_and_heads_are_text(capsys):
    emit_table("runs [old]/x: \x1b[31m", ["what", "mine[/b]"], [["[red]loss", "1"]])
    title, *rest = capsys.readouterr().out.splitlines()
    assert title.rstrip() == "runs [old]/x: \\u001b[31m"
    assert "mine[/b]" in rest[1]
    assert "[red]loss" in rest[3]


@pytest.mark.parametrize(
    ("names", "shown"),
    [
        (("study/cells/dyt-0/model", "study/cells/original-0/model/"), ["cells/dyt-0", "cells/original-0"]),
        (("/folder/of/run-1/model", "org/Some-Model-Of-A-Long-Name-Instruct"),
         ["run-1/model", "org/Some-Model-Of-A-Long-Name-Instruct"]),
        (("/x/a/run/one", "/x/b/run/one", "/x/c/two"), ["a/run/one", "b/run/one", "x/c/two"]),
        (("a/model", "a/model"), ["a", "a"]),
        (("model", "a/model"), ["model", "a/model"]),
        (("gpt2",), ["gpt2"]),
    ],
)  # fmt: skip
def test_models_are_told_apart_by_as_little_of_their_places_as_it_takes(names, shown):
    assert told_apart(*names) == shown


def test_the_commands_that_verbs_say_come_next_can_be_typed(capsys, monkeypatch, bases, data_file, tmp_path):
    monkeypatch.chdir(tmp_path)
    file, ledger = tmp_path / "my study.yaml", tmp_path / "my ledger"
    assert run(["study", "new", str(file), "--model", bases["gpt2"], "--data", data_file]) == 0
    assert f"unnorm study plan '{file}'\n" in capsys.readouterr().err
    assert run(["study", "table", str(file), "--ledger", str(ledger)]) == 2
    assert f"yet: unnorm study run '{file}' --ledger '{ledger}'\n" in capsys.readouterr().err
    assert run(["swap", bases["gpt2"], "--bare", "--out", "my model"]) == 0
    said = capsys.readouterr().err.splitlines()
    assert f"  unnorm evaluate 'my model' --data DATA --against {bases['gpt2']}" in said
    assert "  unnorm package 'my model' --out 'my model-package'" in said
