"""What a plan says of memory is the most that a step takes, not what is left when it has ended."""

import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from study.small_study import study_text
from unnorm.foundation import progress
from unnorm.study import estimate
from unnorm.study.estimate import crowded, estimates, memory_over
from unnorm.study.plan import plan_study
from unnorm.study.spec import parse_spec
from unnorm.study.workbench import Workbench
from unnorm.tuning import objectives

SIZE = 300_000_000


def estimated(bases, data_file, ledger, monkeypatch, *, devices=1, sharding="ddp", bench=None):
    """The estimates of a frozen and a full cell, and how many rows each measured step had."""
    spread = {"devices": devices, "sharding": sharding}
    training = {"tokens": 2048, "max_length": 64, "batch_tokens": 256, "precision": "fp32", **spread}
    text = study_text(bases["gpt2"], data_file, arms=["original"], training=training)
    rows, real = [], objectives.token_sums
    monkeypatch.setattr(objectives, "token_sums", lambda m, h, b: rows.append(len(b["input_ids"])) or real(m, h, b))
    bench = bench or Workbench(quiet=True)
    found = estimates(plan_study(parse_spec(text, "study"), ledger, bench).cells, bench)
    monkeypatch.undo()
    return found, rows


def test_a_cell_of_several_devices_is_measured_with_one_devices_part(bases, data_file, tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "peak_memory", lambda device: 10**9)
    one, rows = estimated(bases, data_file, tmp_path, monkeypatch)
    assert set(rows) == {4}
    monkeypatch.setattr(estimate, "peak_memory", lambda device: 10**9)
    four, rows = estimated(bases, data_file, tmp_path, monkeypatch, devices=4)
    assert set(rows) == {1}
    assert [each.steps for each in four] == [each.steps for each in one]
    assert [each.memory_bytes for each in one] == [10**9, 10**9]
    assert [each.memory_bytes for each in four] == [4 * 10**9] * 2  # processes of one machine, without GPUs


def test_what_several_devices_make_of_time_and_memory(monkeypatch):
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr(estimate, "cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 4)
    assert [crowded(devices, cpu) for devices in (1, 2, 4)] == [1, 1, 2]
    assert crowded(4, gpu) == 1
    model = torch.nn.Linear(100, 10, bias=False)  # 1,000 weights, each with gradient and two moments
    assert memory_over(50_000, model, 4, "ddp", gpu) == 50_000
    assert memory_over(50_000, model, 4, "fsdp", gpu) == 50_000 - 12_000
    assert memory_over(50_000, model.requires_grad_(False), 4, "fsdp", gpu) == 50_000 - 3_000
    assert memory_over(50_000, model, 1, "fsdp", gpu) == 50_000


def kinds(changes: dict, packs: bool = True) -> int:
    """How many steps are measured for two cells that differ as `changes` says."""
    bench = SimpleNamespace(packs=lambda model: packs)
    override = [{"where": {"dataset": "b.jsonl"}, "set": changes}] if changes else []
    datasets = [{"source": "a.jsonl"}, {"source": "b.jsonl"}]
    text = study_text("m", "", arms=["dyt"], strategies=["frozen"], datasets=datasets, overrides=override)
    cells = parse_spec(text, "study").cells()
    assert len(cells) == 2
    return len({estimate._kind(cell, bench) for cell in cells})


@pytest.mark.parametrize(
    "changes",
    [
        {"training": {"batch_tokens": 256}},
        {"training": {"max_length": 32}},
        {"training": {"precision": "bf16"}},
        {"training": {"compile": True}},
        {"training": {"lora": {"r": 64}}},
        {"training": {"train_sites": ["final"]}},
        {"training": {"devices": 2}},
        {"training": {"tokens": 64}},  # less than a step
        {"evaluation": {"tokens": 600}},
        {"arm": {"alpha": "channel"}},
        {"arm": {"calibrate": {"correct": "all"}}},
    ],
)
def test_cells_whose_steps_differ_are_measured_apart(changes):
    assert kinds(changes) == 2


def test_cells_whose_steps_are_alike_are_measured_once():
    alike = {"tokens": 9000, "learning_rate": 0.5, "schedule": "linear", "adam_beta2": 0.9, "weight_decay": 0.0}
    assert kinds({"training": alike}) == 1
    assert kinds({"evaluation": {"every_tokens": 9}}) == 1
    assert kinds({}) == 1
    assert kinds({}, packs=False) == 2, "rows that are not packed are as long as the data's conversations"


def test_the_seed_and_the_search_need_no_step_of_their_own():
    bench = SimpleNamespace(packs=lambda model: False)
    cells = parse_spec(study_text("m", "a.jsonl", arms=["dyt"], strategies=["frozen"], seeds=[0, 1]), "study").cells()
    search = [c.model_copy(update={"data": c.data.model_copy(update={"for_search": True})}) for c in cells]
    assert len({estimate._kind(cell, bench) for cell in [*cells, *search]}) == 1


def test_measuring_is_shown(bases, data_file, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(progress, "_line_every_seconds", 0.0)
    estimated(bases, data_file, tmp_path, monkeypatch, bench=Workbench())
    assert "measuring one step of each kind of cell: 2/2 original / full" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_what_a_step_takes_and_gives_back_counts_for_its_own_cell_alone(bases, data_file, tmp_path, monkeypatch):
    training = {"tokens": 256, "max_length": 64, "batch_tokens": 128, "precision": "fp32"}
    text = study_text(bases["gpt2"], data_file, arms=["original"], strategies=["full", "frozen"], training=training)
    bench = Workbench(quiet=True)
    real = objectives.token_sums

    def greedy(model, head, batch):
        if not hasattr(model, "peft_config"):
            np.ones(SIZE, dtype=np.uint8)
        return real(model, head, batch)

    monkeypatch.setattr(objectives, "token_sums", greedy)
    planned = plan_study(parse_spec(text, "study"), tmp_path, bench).cells
    full, frozen = (one.memory_bytes for one in estimates(planned, bench))
    assert full - frozen > 0.8 * SIZE
