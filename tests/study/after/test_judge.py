from types import SimpleNamespace

from unnorm.study.after import judge
from unnorm.study.sections import Completions, JudgeStage


def test_other_code_of_an_own_judge_is_another_stage(tmp_path, monkeypatch):
    monkeypatch.setattr(judge, "completions_key", lambda cell, wanted: cell)
    pair = SimpleNamespace(arm="a", against="b")
    file = tmp_path / "mine.py"
    file.write_text("class Mine: pass\n")

    def name(kind: str, **settings: str) -> str:
        return judge.judge_stage(pair, Completions(), JudgeStage(kind=kind, **settings))

    before = name(f"{file}:Mine")
    assert name(f"{file}:Mine") == before
    file.write_text("class Mine: batch = 1\n")
    assert name(f"{file}:Mine") != before
    # what stood in ledgers before there were judges of one's own
    assert name("likelihood", model="m") == "judge-d96351d5fad05a8c"
