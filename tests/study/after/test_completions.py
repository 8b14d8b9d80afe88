"""Studies that share cells ask them other questions, and each keeps its answers and what a judge said of those."""

import shutil

import pytest

from study.small_study import run_text, study_text
from unnorm.study.after import completions as stage
from unnorm.study.lease import TaskFolder, add_entry
from unnorm.study.ledger import stages_of
from unnorm.study.view import read_study

JUDGE = """
from unnorm import Verdict


class Longest:
    sees_order = False
    batch = 64
    caveat = None
    identity = {}

    def judge(self, pairs):
        return [Verdict(float(len(pair.first) - len(pair.second))) for pair in pairs]
"""


def text_of(bases, data: str, folder, name: str, tokens: int, **after) -> str:
    prompts = folder / "prompts.jsonl"
    prompts.write_text('{"prompt_id": "a", "category": "c", "instruction": "Join red and blue"}\n')
    wanted = {"completions": {"prompts": str(prompts), "max_new_tokens": tokens}, **after}
    return study_text(bases["gpt2"], data, name=name, strategies=["frozen"], after=wanted)


def answers(study) -> dict[str, str]:
    return {cell.arm: cell.completions[0]["text"] for cell in study.cells}


def test_each_study_keeps_its_own_answers_and_verdicts(bases, data_file, tmp_path, monkeypatch):
    (tmp_path / "longest.py").write_text(JUDGE)
    judge = {"judge": {"kind": f"{tmp_path / 'longest.py'}:Longest"}}
    short, long = (text_of(bases, data_file, tmp_path, name, n, **judge) for name, n in (("short", 2), ("long", 12)))
    run_text(short, tmp_path / "l")
    before = answers(read_study(tmp_path / "l" / "short"))
    run_text(long, tmp_path / "l")
    after = answers(read_study(tmp_path / "l" / "long"))
    assert answers(read_study(tmp_path / "l" / "short")) == before
    assert all(len(after[arm]) > len(before[arm]) for arm in before)
    assert len(list((tmp_path / "l" / "cells").iterdir())) == 2
    for name, texts in (("short", before), ("long", after)):
        (pair,) = read_study(tmp_path / "l" / name).pairs
        (verdict,) = pair.verdicts
        assert (verdict["a_length"], verdict["b_length"]) == (len(texts["dyt"]), len(texts["original"]))
    monkeypatch.setattr(stage, "generate", lambda *args, **options: pytest.fail("made again"))
    run_text(short, tmp_path / "l")


def test_answers_of_an_older_ledger_are_used_where_they_fit(bases, data_file, tmp_path, monkeypatch):
    """There they lay in the cell's folder itself, and the stage had no hash."""
    text, ledger = text_of(bases, data_file, tmp_path, "short", 2), tmp_path / "l"
    run_text(text, ledger)
    before = answers(read_study(ledger / "short"))
    for cell in (ledger / "cells").iterdir():
        (named,) = stages_of(cell)
        add_entry(TaskFolder(cell, "completions"), 1, "done", key=named.removeprefix("completions-"), of=0)
        for file in (cell / named).iterdir():
            file.rename(cell / file.name)
        shutil.rmtree(cell / named)
        shutil.rmtree(cell / f"{named}-lease")
    made, real = [], stage.generate
    monkeypatch.setattr(stage, "generate", lambda *args, **options: made.append(args[3]) or real(*args, **options))
    run_text(text, ledger)
    assert answers(read_study(ledger / "short")) == before
    assert not made
    run_text(text_of(bases, data_file, tmp_path, "long", 12), ledger)
    assert len(made) == 2
    assert answers(read_study(ledger / "short")) == before
