"""The simulation and the measurements of benchmarks/scale.py, small."""

import pytest

from unnorm.study.lease import newest

DAY = 86_400.0
SHAPE = (0.7, 0.9, 1.0, 1.1, 1.6)


@pytest.fixture(scope="module")
def scale(scripts):
    """The modules by name."""
    import scale_cell
    import scale_ledger
    import scale_simulation

    return scale_cell, scale_ledger, scale_simulation


@pytest.fixture(scope="module")
def simulation(scale):
    return scale[2]


def study_of(simulation, cells=400, **more):
    return simulation.Study(cells=cells, shape=SHAPE, **more)


def machines_of(simulation, **more):
    return simulation.Machines(**{"gpus": 32, "start_up": 0, "prepare": 0, **more})


def test_one_gpu_without_costs_takes_the_sum_of_durations(simulation):
    study = study_of(simulation, cells=30, starts=2)
    loop = simulation.Loop(poll=0)
    found = simulation.simulate(study, machines_of(simulation, gpus=1), loop, 3)
    durations = [task.duration for task in simulation.tasks_of(study, 3)]
    assert len(durations) == 2 + 30 + 30
    assert found.makespan == pytest.approx(sum(durations), rel=1e-6)
    assert found.efficiency == pytest.approx(1, rel=1e-6)
    dear = simulation.Loop(claim=2, commit=3, poll=0)
    again = simulation.simulate(study, machines_of(simulation, gpus=1), dear, 3)
    assert again.makespan - found.makespan == pytest.approx(5 * len(durations), rel=1e-3)


@pytest.mark.parametrize("driver", [True, False])
@pytest.mark.parametrize("rate", [0, 4 / DAY, 60 / DAY])
def test_no_cell_and_no_second_is_lost_or_counted_twice(simulation, rate, driver):
    study = study_of(simulation)
    machines = machines_of(simulation, start_up=20, prepare=30, failures=rate)
    loop = simulation.Loop(read=0.01, claim=0.1, commit=0.2, driver=driver)
    found = simulation.simulate(study, machines, loop, 1)
    assert found.done + found.given_up == 400
    assert (found.deaths > 0) == (rate > 0)
    assert sum(found.spent.values()) == pytest.approx(32 * found.makespan)
    assert all(seconds >= 0 for seconds in found.spent.values())
    if not found.given_up:
        wanted = sum(task.duration for task in simulation.tasks_of(study, 1))
        assert found.spent["useful"] == pytest.approx(wanted)
    assert found == simulation.simulate(study, machines, loop, 1)


@pytest.mark.parametrize("seed", range(4))
def test_more_failures_never_raise_efficiency(simulation, seed):
    study = study_of(simulation)
    rates = [0, 4 / DAY, 30 / DAY, 200 / DAY]
    machines = [machines_of(simulation, start_up=20, failures=rate) for rate in rates]
    found = [simulation.simulate(study, each, simulation.Loop(), seed).efficiency for each in machines]
    assert found == sorted(found, reverse=True)
    assert found[-1] < found[0] - 0.1


def test_checkpoints_bound_what_a_death_costs_and_a_cell_without_progress_is_given_up(simulation):
    machines = machines_of(simulation, failures=20 / DAY)
    often, seldom = (
        simulation.simulate(study_of(simulation, checkpoint=seconds), machines, simulation.Loop(), 0)
        for seconds in (30, 300)
    )
    assert often.spent["redone"] < 0.5 * seldom.spent["redone"]
    worse = machines_of(simulation, failures=2000 / DAY)
    found = simulation.simulate(study_of(simulation, cells=40, checkpoint=1e9), worse, simulation.Loop(), 0)
    assert found.given_up > 0


def test_a_cell_that_was_lost_late_holds_everything_up_where_it_comes_last(simulation):
    study = study_of(simulation, mean=3600)
    machines = machines_of(simulation, failures=1 / DAY)
    both = [
        [simulation.simulate(study, machines, simulation.Loop(in_order=order), seed).efficiency for seed in range(5)]
        for order in (True, False)
    ]
    assert sum(both[0]) > sum(both[1])


def test_a_slow_ledger_costs_and_more_so_where_every_process_looks(simulation):
    study, machines = study_of(simulation), machines_of(simulation)
    loops = [simulation.Loop(), simulation.Loop(read=0.5), simulation.Loop(read=0.5, driver=False)]
    found = [simulation.simulate(study, machines, loop, 0).efficiency for loop in loops]
    assert found == sorted(found, reverse=True)
    assert len(set(found)) == 3


def test_a_made_up_ledger_is_one_and_calls_are_counted(scale, tmp_path):
    _, ledger, _ = scale
    found = {figure.operation: figure for figure in ledger.measure(tmp_path, 12, 0.0, 4, quiet=True)}
    assert set(found) == {"claim", "read the newest", "commit", "publish", "look through all"}
    assert found["look through all"].calls == 12 * found["read the newest"].calls  # what one task takes, for each
    tasks = [ledger.TaskFolder(path) for path in sorted((tmp_path / "cells").glob("made-up-*"))]
    assert [newest(task).kind for task in tasks].count("done") == 6
    assert ledger.open_tasks(tasks) == 6
    published = [task for task in tasks if (task.path / "result.json").is_file()]
    assert len(published) == 4
    assert not any(task.attempt(1).exists() for task in published)


def test_latency_is_added_to_every_call(scale, tmp_path):
    _, ledger, _ = scale
    with ledger.slow(0.01):
        ledger.make_cells(tmp_path, 1, quiet=True)
    figures = ledger.measure(tmp_path / "slow", 2, 0.01, 1, quiet=True)
    assert all(figure.seconds >= figure.calls * 0.01 for figure in figures)


def test_shapes_are_those_of_the_models_that_they_are_named_after(scale):
    cell, _, _ = scale
    published = (0.1345, 1.236, 3.213, 8.030, 14.77, 32.76, 70.55)
    assert [shape.parameters / 1e9 for shape in cell.SHAPES] == pytest.approx(published, rel=2e-3)


def test_blocks_keep_what_the_product_says_that_they_keep(scale):
    from transformers import AutoModelForCausalLM, LlamaConfig

    from unnorm.tuning.memory_need import kept_numbers

    cell, _, _ = scale
    config = LlamaConfig(
        hidden_size=32, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, vocab_size=50,
        num_key_value_heads=2,
    )  # fmt: skip
    model = AutoModelForCausalLM.from_config(config)
    shape = cell.shape_of(config)
    assert shape.block == sum(p.numel() for p in model.model.layers[0].parameters() if p.ndim == 2)
    for size in (2, 4):
        assert shape.layers * cell.kept(shape, "full", size) == kept_numbers(model, size)


def test_block_by_block_takes_no_more_on_the_device_for_more_layers(scale):
    cell, _, _ = scale
    shape = cell.SHAPES[3]
    deeper = shape._replace(layers=2 * shape.layers)
    one, two = (cell.need(each, "blockwise", 8192, stream_tokens=10**6) for each in (shape, deeper))
    assert one.device == two.device
    assert two.host > one.host
    for kind in ("full", "lora", "recover"):
        assert cell.need(deeper, kind, 8192).device > 1.5 * cell.need(shape, kind, 8192).device
