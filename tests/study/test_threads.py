"""A study's cells compute on the same threads, a cell goes on with those it began with, and speeds compare only so."""

import pytest
import torch

from study.test_cell import settings_of
from unnorm.foundation import atomic
from unnorm.foundation import threads as counted
from unnorm.foundation.threads import Threads
from unnorm.study import fine_tune, threads
from unnorm.study.audit import audit_results
from unnorm.study.cell import cell_of, settled
from unnorm.study.hooks import Hooks
from unnorm.study.run_cell import run_cell
from unnorm.study.slices import Place
from unnorm.study.workbench import Workbench


@pytest.fixture
def four_cores(monkeypatch):
    """A process that began with four threads, in which nothing has decided, and a base for which two pay."""
    for name in counted.GIVEN_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(counted, "_begun_with", [4])
    monkeypatch.setattr(threads, "_found", {})
    measured = []
    monkeypatch.setattr(threads, "threads_for", lambda model: measured.append(1) or Threads(2, "so it was found"))
    before = torch.get_num_threads()
    yield measured
    torch.set_num_threads(before)


def test_a_base_is_measured_once_and_the_study_remembers(four_cores, monkeypatch, tmp_path):
    assert threads.settle("abc", None).number == 2
    torch.set_num_threads(3)
    assert threads.settle("abc", None).number == torch.get_num_threads() == 2
    assert len(four_cores) == 1
    assert threads.keep(tmp_path, {"base": "abc"}) == ["base: computing on 2 threads, since so it was found"]
    monkeypatch.setattr(threads, "_found", {})  # another process
    threads.recall(tmp_path)
    assert threads.settle("abc", None) == (2, "this study began so")
    assert len(four_cores) == 1


def test_a_machine_of_fewer_cores_measures_for_itself(four_cores, monkeypatch, tmp_path):
    atomic.write_json(tmp_path / threads.NAME, {"abc": 16})
    threads.recall(tmp_path)
    assert threads.settle("abc", None).number == 2


def test_a_cell_goes_on_with_the_threads_it_began_with(four_cores, bases, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr(fine_tune, "_fine_tune", lambda *arguments: {})
    bench = Workbench(quiet=True)
    settings = settled(settings_of(bases["gpt2"], data_file), bench)
    cell, _ = cell_of(settings, bench)
    start = ("a key", "a start that two threads made")
    for began, left in (({}, start), ({"threads": 2}, start), ({"threads": 4, "rows_per_forward": 1}, None)):
        folder = tmp_path / str(began.get("threads"))
        folder.mkdir()
        atomic.write_json(folder / "attempt.json", began)
        torch.set_num_threads(2)
        bench._kept["start"] = start
        fine_tune.fine_tune(settings, cell, folder, bench, Hooks())
        assert torch.get_num_threads() == began.get("threads", 2)
        assert atomic.read_json(folder / "attempt.json") == {"threads": 2, **began}
        assert bench._kept.get("start") == left, "what another number of threads has fitted is fitted again"


def test_threads_and_load_are_in_a_cells_environment(bases, data_file, tmp_path):
    said: list[str] = []
    result = run_cell(settings_of(bases["gpt2"], data_file), tmp_path / "out", quiet=True, say=said.append)
    assert result["environment"]["threads"] == torch.get_num_threads()
    assert 0 <= result["environment"]["load"] <= 1
    assert any(line.startswith("computing on 1 thread") for line in said[:2])


ARMS = ["original", "dyt"]


@pytest.mark.parametrize(
    ("environment", "matched", "speed"),
    [
        ({"threads": 2, "load": 0.02}, True, []),
        ({"threads": 2, "load": 0.6}, True, ["other processes took 60% of the machine against 0%"]),
        ({"threads": 1, "load": 0.0}, False, ["environment.threads: 1 against 2"]),
        ({"load": 0.0}, False, ["environment.threads: 'not known' against 2"]),
    ],
)
def test_speeds_compare_only_on_the_same_threads_beside_the_same_load(environment, matched, speed, tmp_path):
    folders = {}
    for arm, where in zip(ARMS, ({"threads": 2, "load": 0.0}, environment), strict=True):
        folders[Place("m", "d", arm, "frozen", 0)] = tmp_path / arm
        atomic.write_json(tmp_path / arm / "cell.json", {"cell": arm, "settings": {"arm": {"id": arm}}})
        atomic.write_json(tmp_path / arm / "result.json", {"environment": where})
    (found,) = audit_results(folders, ARMS)["comparisons"]
    assert found["matched"] is matched
    assert found["speed"] == speed
