"""Speed: what an interval covers, what may be called a difference, and that nothing of the models is changed."""

import json
import math

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from peft import LoraConfig, get_peft_model

import unnorm
import unnorm.evaluation.latency.harness as harness
from conftest import FAMILIES, tiny_model
from surgery.architectures import architecture
from unnorm.cli.latency import _ready
from unnorm.cli.main import run
from unnorm.evaluation.latency import Workload, compare_latency, machine
from unnorm.evaluation.latency.harness import AGAIN, NO_NORMS, block, without_norms
from unnorm.evaluation.latency.report import Ratio, ratio_of, verdict_of
from unnorm.evaluation.latency.workloads import Captured, Growing, prepare
from unnorm.foundation.errors import SettingsError

KINDS = ("prefill", "decode", "train")
SHORT = Workload(length=8)


def noise(count: int, kind: str, generator: np.random.Generator) -> np.ndarray:
    """Of log-times, one after the other: 1 % a run; with drift a random walk; with bursts, other work for a while."""
    found = generator.normal(0, 0.01, count)
    if kind in ("drift", "both"):
        found += np.cumsum(generator.normal(0, 0.003, count))
    if kind in ("bursts", "both"):
        at = 0
        while at < count:
            at += int(generator.exponential(60))
            length = 1 + int(generator.exponential(8))
            found[at : at + length] += abs(generator.normal(0.3, 0.2))
            at += length
    return found


@pytest.mark.parametrize("kind", ["plain", "drift", "bursts", "both"])
@pytest.mark.parametrize("truth", [1.0, 1.03])
def test_intervals_cover_the_truth(kind, truth):
    generator = np.random.default_rng(1)
    covered, blocks = 0, 40
    for seed in range(400):
        order = np.array([[name == "b" for name in block("ab", generator)] for _ in range(blocks)])
        times = np.exp(noise(4 * blocks, kind, generator)).reshape(blocks, 4) * np.where(order, truth, 1)
        first, second = times[order].reshape(blocks, 2), times[~order].reshape(blocks, 2)
        found = ratio_of(first, second, seed=seed)
        covered += found.low <= truth <= found.high
    assert covered / 400 >= 0.93


def test_a_block_is_a_palindrome_of_all_in_an_order_of_its_own():
    generator = np.random.default_rng(0)
    blocks = [block("abc", generator) for _ in range(60)]
    assert all(each == each[::-1] and sorted(each) == sorted("aabbcc") for each in blocks)
    assert len({tuple(each) for each in blocks}) == 6


def test_what_may_be_called_a_difference():
    floor = Ratio(1.0, 0.99, 1.01, 20)
    assert verdict_of(Ratio(1.05, 1.04, 1.06, 20), floor) == "slower"
    assert verdict_of(Ratio(0.95, 0.94, 0.96, 20), floor) == "faster"
    assert verdict_of(Ratio(1.05, 0.99, 1.11, 20), floor) == "no difference shown"
    assert verdict_of(Ratio(0.995, 0.99, 0.999, 20), floor) == "no difference shown"  # within the floor
    assert floor.bound == pytest.approx(-math.log(0.99))
    wide = Ratio(1.0, 1 / 1.09, 1.09, 20)
    for within in (1.088, 1 / 1.088):
        assert verdict_of(Ratio(within, within / 1.01, within * 1.01, 20), wide) == "no difference shown"


def simulated(monkeypatch, slower: float, seed: int) -> None:
    """Runs take no time but say that they took some, on a machine that drifts and has bursts of other work."""
    state = {"at": 0, "noise": noise(100_000, "both", np.random.default_rng(seed))}

    def fake(model, workload, prompts=(), *, mode="eager", compiled=None, seed=0):
        def sample(number: int) -> float:
            state["at"] += 1
            return (slower if model.config.slow else 1.0) * math.exp(state["noise"][state["at"]])

        return sample

    monkeypatch.setattr(harness, "prepare", fake)
    monkeypatch.setattr(harness, "_WARM_SECONDS", 0.0)
    monkeypatch.setattr(harness, "lay_elsewhere", lambda model, generator: None)


def pair():
    models = {"a": tiny_model("gpt2"), "b": tiny_model("gpt2")}
    for name, model in models.items():
        model.config.slow = name == "b"
    return models


@pytest.mark.parametrize(("slower", "least", "most"), [(1.03, 19, 20), (1.0, 0, 2)])
def test_three_per_cent_are_told_apart_and_nothing_is_not(slower, least, most, monkeypatch):
    told = 0
    for seed in range(20):
        simulated(monkeypatch, slower, seed)
        report = compare_latency(pair(), SHORT, bound=False, budget_seconds=60, seed=seed, quiet=True)
        told += next(c for c in report.comparisons if c.model == "b").verdict == "slower"
    assert least <= told <= most


@pytest.mark.parametrize("family", FAMILIES)
def test_a_comparison(family, tmp_path):
    original, swapped = tiny_model(family).train(), tiny_model(family)
    unnorm.swap_(swapped, unnorm.DyT(), calibrate_on=None)
    state = {name: tensor.clone() for name, tensor in original.state_dict().items()}
    grid = [Workload(kind=kind, batch_size=2, length=8, new_tokens=3) for kind in KINDS]
    report = compare_latency({"original": original, "dyt": swapped}, grid, budget_seconds=0.1, quiet=True)
    assert {(c.workload.kind, c.model) for c in report.comparisons} == {
        (kind, model) for kind in KINDS for model in ("dyt", AGAIN, NO_NORMS)
    }
    for c in report.comparisons:
        assert c.ratio.low <= c.ratio.value <= c.ratio.high
        assert c.ratio.blocks == 12
        assert c.reference == "original"
        assert 0.02 < c.ratio.value < 50
    assert original.training
    assert not swapped.training
    assert all(torch.equal(tensor, state[name]) for name, tensor in original.state_dict().items())
    assert all(parameter.grad is None for parameter in original.parameters())
    assert len(report.samples) == 3 * 12 * 4 * 2
    report.write_samples(tmp_path / "s.parquet")
    table = pq.read_table(tmp_path / "s.parquet")
    assert table.num_rows == len(report.samples)
    assert b"processor" in table.schema.metadata[b"environment"]
    assert set(table.column_names) == {"workload", "block", "place", "model", "seconds"}
    json.dumps(report.to_dict())


def test_times_and_tokens_per_second_are_medians_of_the_runs():
    grid = [Workload(kind="prefill", batch_size=2, length=8), Workload(kind="decode", length=8, new_tokens=3)]
    report = compare_latency({"a": tiny_model("gpt2")}, grid, budget_seconds=0.1, bound=False, quiet=True)
    absolute = {(a["workload"], a["model"]): a for a in report.absolute()}
    assert set(absolute) == {(each.name, model) for each in grid for model in ("a", AGAIN)}
    for each, tokens in zip(grid, (16, 3), strict=True):
        seconds = [s["seconds"] for s in report.samples if (s["workload"], s["model"]) == (each.name, "a")]
        assert len(seconds) == 24
        assert absolute[each.name, "a"]["seconds"] == pytest.approx(np.median(seconds))
        assert absolute[each.name, "a"]["tokens_per_second"] == pytest.approx(tokens / np.median(seconds))
    assert report.to_dict()["absolute"] == report.absolute()


def test_a_budget_is_kept_where_fewer_blocks_are_allowed_and_they_show_nothing(monkeypatch):
    """On a clock of our own, on which a run takes a second."""
    clock = {"now": 0.0}

    def fake(model, workload, prompts=(), **more):
        def sample(number: int) -> float:
            clock["now"] += 2.0 if model.config.slow else 1.0
            return 2.0 if model.config.slow else 1.0

        return sample

    monkeypatch.setattr(harness, "prepare", fake)
    monkeypatch.setattr(harness.time, "monotonic", lambda: clock["now"])
    options = {"bound": False, "half_width": 0.0, "quiet": True}
    found = compare_latency(pair(), [SHORT, SHORT], budget_seconds=40, least_blocks=2, **options)
    assert found.seconds <= 40
    assert {c.ratio.blocks for c in found.comparisons} == {2}  # of 8 s, after 4 s of warm-up, twice
    assert {c.verdict for c in found.comparisons} == {"no difference shown"}
    clock["now"] = 0.0
    found = compare_latency(pair(), SHORT, budget_seconds=40, **options)
    assert {c.ratio.blocks for c in found.comparisons} == {12}
    assert next(c for c in found.comparisons if c.model == "b").verdict == "slower"


def test_what_is_run_for_energy_takes_nothing_of_the_budget(monkeypatch):
    """On a clock of our own, on which a run takes a second, and measuring energy twenty."""
    clock = {"now": 0.0}

    def fake(model, workload, prompts=(), **more):
        def sample(number: int) -> float:
            clock["now"] += 1.0
            return 1.0

        return sample

    def energy(runs, device, seconds):
        clock["now"] += 20.0
        return {}

    monkeypatch.setattr(harness, "prepare", fake)
    monkeypatch.setattr(harness, "energy_of", energy)
    monkeypatch.setattr(harness.time, "monotonic", lambda: clock["now"])
    grid = [Workload(length=8), Workload(length=9)]
    options = {"bound": False, "half_width": 0.0, "least_blocks": 2, "quiet": True}
    found = compare_latency({"a": tiny_model("gpt2")}, grid, budget_seconds=60, **options)
    assert [c.ratio.blocks for c in found.comparisons] == [7, 7]  # of 4 s, after 2 s of warm-up
    assert found.seconds == 100


def test_a_tight_interval_ends_it_early():
    model = tiny_model("gpt2")
    options = {"budget_seconds": 60, "half_width": 100.0, "bound": False, "quiet": True}
    loose = compare_latency({"a": model}, SHORT, **options)
    assert loose.comparisons[0].ratio.blocks == 12
    assert loose.seconds < 30
    more = compare_latency({"a": model}, SHORT, least_blocks=20, **options)
    assert more.comparisons[0].ratio.blocks == 20


def test_decoding_adds_the_same_tokens_whatever_eos_says():
    model = tiny_model("llama")
    calls = []
    model.register_forward_hook(
        lambda module, args, kwargs, out: calls.append(kwargs["input_ids"].shape), with_kwargs=True
    )
    model.config.eos_token_id = model.generation_config.eos_token_id = list(range(384))
    prepare(model, Workload(kind="decode", batch_size=3, length=5, new_tokens=7))(0)
    assert calls == [(3, 5), *[(3, 1)] * 7]
    calls.clear()
    sample = prepare(model, Workload(kind="prompts", new_tokens=2), [[1, 2, 3], [4]])
    for number in range(3):
        sample(number)
    assert [tuple(shape) for shape in calls] == [(1, 3), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 3), (1, 1), (1, 1)]


def test_prompts_are_read_one_at_a_time_and_so_are_their_tokens_counted():
    assert Workload(kind="prompts", new_tokens=4, batch_size=8).tokens == 4
    assert Workload(kind="decode", new_tokens=4, batch_size=8).tokens == 32


def test_the_bound_has_no_norms_and_the_model_keeps_its_own():
    model = tiny_model("gpt_neox")
    bare = without_norms(model)
    assert not [m for m in bare.modules() if isinstance(m, torch.nn.LayerNorm)]
    assert len([m for m in model.modules() if isinstance(m, torch.nn.LayerNorm)]) == 5
    assert without_norms(architecture("mamba")) is None  # it reads its norms' weights itself


def test_what_cannot_be_timed():
    model = tiny_model("gpt2")
    with pytest.raises(SettingsError, match="needs 72 positions; a has 64"):
        compare_latency({"a": model}, Workload(kind="decode", length=40, new_tokens=32), quiet=True)
    with pytest.raises(SettingsError, match="needs prompts"):
        compare_latency({"a": model}, Workload(kind="prompts"), quiet=True)
    model.requires_grad_(False)
    with pytest.raises(SettingsError, match="no parameter of b trains"):
        compare_latency({"a": tiny_model("gpt2"), "b": model}, Workload(kind="train", length=8), quiet=True)
    with pytest.raises(SettingsError, match="a prompt of 40 tokens and 32 new ones need 72 positions; a has 64"):
        compare_latency({"a": model}, Workload(kind="prompts"), prompts=[[1], list(range(40))], quiet=True)
    with pytest.raises(SettingsError, match="prompt 1 of the workload prompts holds no token"):
        compare_latency({"a": model}, Workload(kind="prompts"), prompts=[[1], []], quiet=True)
    for name in (AGAIN, NO_NORMS):
        with pytest.raises(SettingsError, match=f"'{name}' is what a model is called"):
            compare_latency({"a": model, name: model}, SHORT, quiet=True)
    with pytest.raises(SettingsError, match="a model and a workload"):
        compare_latency({}, quiet=True)


def test_the_command(bases, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "PASSIVE")
    common = ["--budget", "1", "--lengths", "8", "--new-tokens", "2", "--no-bound"]
    out = tmp_path / "s.parquet"
    assert run(["latency", bases["gpt2"], bases["llama"], *common, "--out", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["absolute"]) == 6
    assert {c["name"] for c in found["comparisons"]} == {"prefill 1 × 8", "decode 1 × 8 + 2"}
    assert found["environment"]["threads"] == torch.get_num_threads()
    assert found["environment"]["threading"]["OMP_WAIT_POLICY"] == "PASSIVE"
    assert pq.read_table(out).num_rows > 0
    assert run(["latency", bases["gpt2"], *common, "--prompts", "builtin"]) == 0
    out, err = capsys.readouterr()
    assert {"noise floor", "ms", "tokens/s"} <= {column.strip() for column in out.splitlines()[2].split("┃")}
    assert "loaded in " in err
    assert " blocks; " in err
    assert run(["latency", bases["gpt2"], *common, "--device", "cpu", "--dtype", "bfloat16"]) == 0
    swapped = str(tmp_path / "swapped")
    assert run(["swap", bases["gpt2"], "--bare", "--inherit", "--out", swapped]) == 0
    assert run(["latency", bases["gpt2"], swapped, *common, "--workloads", "prefill", "--optimize"]) == 0
    err = capsys.readouterr().err
    assert err.count("optimized: ") == 1, err
    assert "optimized: 4 of 5 norms folded, 0 blocks fused" in err, err[-900:]
    for wrong in (
        ["--device", "tpu"],
        ["--dtype", "int8"],
        ["--workloads", "sleep"],
        ["--lengths", "0"],
        ["--batch-sizes", "x"],
        ["--lengths", "1000"],
    ):
        assert run(["latency", bases["gpt2"], *wrong]) == 2
    assert run(["latency", bases["gpt2"], bases["gpt2"]]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_model_whose_adapter_was_merged_is_timed_as_one_that_trains():
    """peft leaves what it merges frozen: half of a training step would be missing."""
    model = get_peft_model(tiny_model("gpt_neox"), LoraConfig(r=2, target_modules=["query_key_value"]))
    ready = _ready(model, False)
    assert not hasattr(ready, "peft_config")
    assert all(parameter.requires_grad for parameter in ready.parameters())


@pytest.mark.parametrize("family", FAMILIES)
def test_a_cache_of_fixed_size_adds_the_same_tokens(family, monkeypatch):
    """What compiled models are timed with is the same work: the tokens that follow are those of the growing cache."""
    model, seen = tiny_model(family), {True: [], False: []}
    real = model.forward
    for fixed in (True, False):
        monkeypatch.setattr(model, "forward", lambda fixed=fixed, **k: seen[fixed].append(k["input_ids"]) or real(**k))
        how = {"mode": "compile", "compiled": lambda **k: model(**k)} if fixed else {}
        prepare(model, Workload(kind="decode", length=8, new_tokens=5), **how)(0)
    assert len(seen[True]) == 6
    assert all(torch.equal(one, other) for one, other in zip(seen[True], seen[False], strict=True))


class Again:
    """Stands for a CUDA graph: what was captured runs again, from the same tensors into the same."""

    def __init__(self, run):
        self.run, self.found = run, run()

    def replay(self):
        self.found.copy_(self.run())


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", ["prefill", "decode"])
def test_a_captured_model_adds_the_same_tokens(family, kind, device, monkeypatch):
    if device == "cpu":
        monkeypatch.setattr(Captured, "_captured", staticmethod(lambda run: ((a := Again(run)), a.found)))
    elif not torch.cuda.is_available():
        pytest.skip("needs a GPU")
    model = tiny_model(family).to(device)
    rows = torch.randint(1, 300, (2, 8), device=device)
    captured, growing = Captured(model, 8 if kind == "prefill" else 14), Growing(model)
    if kind == "prefill":
        for _ in range(2):
            captured.ready(rows)
            assert torch.equal(captured.read(rows), growing.read(rows))
        return
    wanted = model.generate(rows, max_new_tokens=6, min_new_tokens=6, do_sample=False)[:, 8:]
    for _ in range(2):
        token = captured.start(rows)
        assert torch.equal(token[:, 0], wanted[:, 0])
        for at in range(1, 6):
            captured.add(token, 1)
            token = captured.token.clone()
            assert torch.equal(token[:, 0], wanted[:, at])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_every_mode_on_a_gpu():
    models = {"a": tiny_model("gpt_neox").cuda(), "b": tiny_model("gpt_neox").cuda()}
    unnorm.swap_(models["b"], unnorm.DyT(), calibrate_on=None)
    for mode in ("eager", "compile", "cuda-graphs", "compiled-cuda-graphs"):
        for kind in ("prefill", "decode"):
            workload = Workload(kind=kind, length=8, new_tokens=4)
            report = compare_latency(models, workload, mode=mode, budget_seconds=0.1, energy_seconds=0.3, quiet=True)
            assert {c.model for c in report.comparisons} == {"b", AGAIN, NO_NORMS}
            assert all(joules > 0 for joules in report.energy[workload.name].values())
    with pytest.raises(SettingsError, match="training step"):
        compare_latency(models, Workload(kind="train", length=8), mode="cuda-graphs", quiet=True)


def test_graphs_without_a_gpu_are_refused():
    with pytest.raises(SettingsError, match="CUDA graphs need a CUDA GPU"):
        compare_latency({"a": tiny_model("gpt2")}, SHORT, mode="cuda-graphs")


@pytest.mark.slow
def test_compiled():
    workload = Workload(kind="decode", length=8, new_tokens=4)
    report = compare_latency({"a": tiny_model("gpt2")}, workload, mode="compile", budget_seconds=0.1, quiet=True)
    assert {c.model for c in report.comparisons} == {AGAIN, NO_NORMS}
    assert all(0.02 < c.ratio.value < 50 for c in report.comparisons)


def test_energy_is_counted_over_runs_in_a_row(monkeypatch):
    joules = {"now": 0.0}
    monkeypatch.setattr(machine, "_counter", lambda device: lambda: joules["now"])

    def run(cost: float):
        def once(number: int) -> None:
            joules["now"] += cost

        return once

    found = machine.energy_of({"a": run(2.0), "b": run(3.0)}, torch.device("cuda"), 0.01)
    assert found == {"a": pytest.approx(2.0), "b": pytest.approx(3.0)}
    monkeypatch.undo()
    assert machine.energy_of({"a": run(2.0)}, torch.device("cpu"), 0.01) == {}
