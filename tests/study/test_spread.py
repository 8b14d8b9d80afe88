"""Cells and starts of several devices: spread over processes by whoever holds the claim, which alone commits."""

import json
import logging
import signal
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest

from study.small_study import run_text, study_text
from study.test_cell import lines, settings_of
from unnorm.foundation import ranks
from unnorm.foundation.errors import Interrupted, ModelError, NonFiniteError, RunError, SettingsError
from unnorm.foundation.processes import own_handlers
from unnorm.study import fewer_rows, spread_process
from unnorm.study.cell import cell_of, settled
from unnorm.study.engines.interface import Options
from unnorm.study.failures import failure_of
from unnorm.study.lease import TaskFolder, entries
from unnorm.study.spec import parse_spec
from unnorm.study.spread import ADDRESS, KEY, _cause, _quiet_launcher, _raised, check_launch, run_spread
from unnorm.study.view import read_study
from unnorm.study.workbench import Workbench

RECOVER = {"tokens": 512, "batch_tokens": 256, "held_out_tokens": 200, "precision": "fp32"}
ARM = {"id": "dyt-learnt", "norm": "dyt", "start": {"recover": {**RECOVER, "norm_learning_rate": 5e-3}}}


def text_of(base: str, data: str, **training) -> str:
    own = {"tokens": 1000, "max_length": 64, "batch_tokens": 256, "precision": "fp32", "lora": {"dropout": 0.0}}
    own |= {"learning_rate": {"selective": 2e-2}}
    changes = {"arms": [ARM], "strategies": ["selective"], "training": {**own, **training}}
    return study_text(base, data, **changes)


def test_while_processes_run_the_launcher_alone_is_silenced(caplog):
    launcher, other = logging.getLogger("torch.distributed.elastic.agent"), logging.getLogger("somebody.else")
    with _quiet_launcher():
        launcher.error("not heard")
        other.error("heard")
    launcher.error("heard again")
    assert caplog.messages == ["heard", "heard again"]


def test_a_study_of_two_devices_has_the_results_of_one(ready_python, bases, data_file, tmp_path, monkeypatch):
    """A start and a cell, each spread over two processes (FSDP2)."""
    monkeypatch.setattr(ranks, "devices_here", lambda: 2)
    text = text_of(bases["gpt2"], data_file)
    run_text(text, tmp_path / "one")
    run_text(text_of(bases["gpt2"], data_file, devices=2, sharding="fsdp"), tmp_path / "two")
    [one], [two] = (read_study(tmp_path / name / "small").cells for name in ("one", "two"))
    assert (one.state, two.state) == ("done", "done")
    assert two.folder.name == one.folder.name, "devices shape no result"
    assert two.result.keys() == one.result.keys()
    for key, value in one.result.items():
        if isinstance(value, float) and key not in ("tokens_per_second", "wall_seconds"):
            assert two.result[key] == pytest.approx(value, abs=1e-4), key
        elif key not in ("tokens_per_second", "wall_seconds", "environment"):
            assert two.result[key] == value, key
    assert (one.result["environment"].get("devices"), two.result["environment"]["devices"]) == (None, 2)
    for kind in ("cells", "starts"):
        [first], [second] = (sorted((tmp_path / name / kind).iterdir()) for name in ("one", "two"))
        assert [entry.kind for entry in entries(TaskFolder(second))] == ["claimed", "done"]
        assert sorted(p.name for p in second.iterdir()) == sorted(p.name for p in first.iterdir())
        for a, b in zip(lines(first / "steps.jsonl"), lines(second / "steps.jsonl"), strict=True):
            assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)
            assert b["train_tokens"] == a["train_tokens"]
    events = [event["event"] for event in lines(two.folder / "events.jsonl")]
    assert (events[0], events[-1]) == ("claimed", "done")
    assert "checkpoint" in events


def test_what_one_of_the_processes_raises_is_raised_here_once(ready_python, tmp_path, capfd):
    job = {"kind": "start", "settings": {"model": "nowhere"}, "folder": str(tmp_path), "quiet": True}
    before = signal.getsignal(signal.SIGTERM)  # a library that an earlier test used may have left its own
    with pytest.raises(RuntimeError, match="ValidationError") as raised:
        run_spread(job, 2, {})
    assert "Traceback" in raised.value.__notes__[0]
    said = "".join(capfd.readouterr())
    assert "Traceback" not in said
    assert signal.getsignal(signal.SIGTERM) == before, "the launcher's handlers are gone again"


def test_a_process_that_is_asked_to_stop_while_it_fails_ends_without_a_word(monkeypatch, capfd):
    """As where another one failed first, and the launcher ends this one while it finds that out."""

    def asked_to_stop():
        raise KeyboardInterrupt

    client = MagicMock()
    client.return_value.__enter__.return_value.recv_bytes.return_value = b"{}"
    client.return_value.__exit__.return_value = False
    monkeypatch.setattr(spread_process, "Client", client)
    monkeypatch.setattr(spread_process, "_end_with_parent", lambda parent: None)
    for name in (ADDRESS, KEY):
        monkeypatch.setenv(name, "any")
    monkeypatch.setattr(spread_process.ranks, "join", lambda: 1 / 0)
    monkeypatch.setattr(spread_process.ranks, "fails_first", asked_to_stop)
    with own_handlers():
        assert spread_process.main() == 130
    assert "".join(capfd.readouterr()) == ""


def test_errors_come_over_as_what_they_were():
    assert failure_of(_raised("NonFiniteError", "at step 3", False, "")) == "non_finite"
    assert isinstance(_raised("NonFiniteError", "at step 3", False, ""), NonFiniteError)
    assert isinstance(_raised("ModelError", "no such model", False, ""), ModelError)
    assert failure_of(_raised("OutOfMemoryError", "CUDA out of memory", True, "")) == "out_of_memory"
    assert failure_of(_raised("Interrupted", "", False, "")) == "interrupted"
    assert failure_of(_raised("KeyError", "'step'", False, "")) == "bug"


def test_a_process_that_was_killed_ran_out_of_memory():
    def ended(*codes: int) -> dict[int, SimpleNamespace]:
        return {rank: SimpleNamespace(exitcode=code) for rank, code in enumerate(codes)}

    for told in (None, Interrupted(), RuntimeError("Connection reset by peer")):  # what the others may hear of it
        killed = _cause(told, ended(130, -9), 4)
        assert failure_of(killed) == "out_of_memory"
        assert "process 2 of 4 was killed" in str(killed)
    assert _cause(error := NonFiniteError("at step 3"), ended(1, -9), 4) is error
    assert failure_of(_cause(Interrupted(), ended(130, 130), 4)) == "interrupted"
    other = _cause(None, ended(3), 4)
    assert isinstance(other, RunError)
    assert "exit code 3" in str(other)


def test_fewer_rows_are_still_shared_by_the_devices(tmp_path):
    seen = []

    def run(rows: int) -> int:
        seen.append(rows)
        if rows > 8:
            raise MemoryError
        return rows

    assert fewer_rows.with_fewer_rows(tmp_path, 20, run, again=seen.append, devices=4) == 4
    assert seen == [20, 4, 4], "10 rows and 5 are half and a quarter, and no multiples of 4"


def test_devices_change_no_hash_and_stand_in_no_settings_of_one(bases, data_file):
    bench = Workbench(quiet=True)
    hashes = set()
    for more in ({}, {"devices": 2}, {"devices": 2, "sharding": "fsdp"}):
        settings = settings_of(bases["gpt2"], data_file, training=more)
        assert settings.training.model_dump(mode="json").keys() & {"devices", "sharding"} == more.keys()
        hashes.add(cell_of(settled(settings, bench), bench)[0])
    assert len(hashes) == 1


def test_devices_that_there_are_not_are_refused_with_their_line(bases, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr(ranks, "devices_here", lambda: 2)
    text = text_of(bases["gpt2"], data_file, devices=4)
    with pytest.raises(SettingsError, match=r"(?s)training.devices: 4 devices .* has 2 core"):
        run_text(text, tmp_path / "ledger")
    with pytest.raises(SettingsError, match=r"training\.devices: 4 devices"):  # two workers of two
        run_text(text_of(bases["gpt2"], data_file, devices=2), tmp_path / "ledger", options=Options(workers="2"))
    assert not (tmp_path / "ledger" / "cells").exists()
    with pytest.raises(SettingsError, match=r"batch_tokens: 4 rows .* by 3 devices"):
        parse_spec(text_of(bases["gpt2"], data_file, devices=3), "study")
    with pytest.raises(SettingsError, match="sharding"):
        parse_spec(text_of(bases["gpt2"], data_file, sharding="pipeline"), "study")


def test_a_launch_of_another_number_is_refused(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_launch(1)
    check_launch(2)
    with pytest.raises(SettingsError, match="devices is 4, and 2 processes were launched"):
        check_launch(4)


def test_the_settings_go_to_the_processes_whole(bases, data_file):
    settings = settings_of(bases["gpt2"], data_file, training={"devices": 2, "sharding": "fsdp"})
    told = json.loads(json.dumps(settings.model_dump(mode="json")))
    assert type(settings).model_validate(told) == settings
