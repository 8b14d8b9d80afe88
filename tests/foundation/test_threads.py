"""As many threads as pay: measured, unless the environment or the machine has decided."""

import pytest
import torch

from unnorm.foundation import threads


@pytest.fixture
def four_cores(monkeypatch):
    """A process that began with four threads, and in which nothing has decided. The number is put back."""
    for name in threads.GIVEN_BY:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(threads, "_begun_with", [4])
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def steps_that_take(monkeypatch, seconds: dict[int, float]) -> None:
    """A step that takes so long on so many threads, by a clock of its own."""
    clock = [0.0]
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])

    def step() -> None:
        clock[0] += seconds[torch.get_num_threads()]

    monkeypatch.setattr(threads, "_step_of_the_test", step, raising=False)


@pytest.mark.parametrize(
    ("seconds", "number", "why"),
    [
        ({1: 0.1, 2: 0.6}, 1, "2 take 6.0 times as long for a step here; is the machine busy?"),
        ({1: 0.1, 2: 0.095}, 1, "a step is no faster on 2 here"),
        ({1: 0.1, 2: 0.06, 4: 0.035}, 4, "a step takes 0.35 of the time on one"),
        ({1: 0.1, 2: 0.06, 4: 0.07}, 2, "4 take 1.2 times as long for a step here"),
    ],
)
def test_as_many_threads_as_pay(monkeypatch, four_cores, seconds, number, why):
    steps_that_take(monkeypatch, seconds)
    torch.set_num_threads(3)
    assert threads.measure(threads._step_of_the_test) == (number, why)
    assert torch.get_num_threads() == 3, "measuring sets nothing"


def test_all_runs_count_not_the_best(monkeypatch, four_cores):
    """Now and then two threads are not disturbed; what they take on average is what a run takes."""
    clock, runs = [0.0], []
    monkeypatch.setattr(threads.time, "perf_counter", lambda: clock[0])

    def step() -> None:
        runs.append(torch.get_num_threads())
        clock[0] += 0.1 if torch.get_num_threads() == 1 else (0.05 if len(runs) % 2 else 0.4)

    assert threads.measure(step).number == 1


@pytest.mark.parametrize("name", threads.GIVEN_BY)
def test_the_environment_decides(monkeypatch, four_cores, name):
    monkeypatch.setenv(name, "4")
    threads.use(1)  # as a cell does that goes on with the number it began with
    assert threads.decided() == (4, f"{name} says so")


def test_one_core_leaves_nothing_to_decide(monkeypatch, four_cores):
    assert threads.decided() is None
    monkeypatch.setattr(threads, "_begun_with", [1])
    assert threads.decided() == (1, "this process has one core")
