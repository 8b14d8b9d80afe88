"""Two processes train and log the same as one."""

import os
import subprocess
import sys

import pytest

from study.test_cell import lines, settings_of
from unnorm.study.ledger import state_of
from unnorm.study.run_cell import run_cell

PROGRAM = """
import os, sys, torch
torch.set_num_threads(1)
from pathlib import Path
from unnorm.study.cell import CellSettings
from unnorm.study.run_cell import run_cell
run_cell(CellSettings.model_validate_json(sys.argv[1]), Path(sys.argv[2]), quiet=True)
"""


def test_rule_09_loss_is_not_divided_by_the_number_of_processes(bases, data_file, tmp_path):
    training = {"precision": "fp32", "tokens": 1500, "lora": {"dropout": 0.0}}
    settings = settings_of(bases["llama"], data_file, strategy="selective", training=training)
    run_cell(settings, tmp_path / "one", quiet=True)
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(program)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    done = subprocess.run(
        [*command, settings.model_dump_json(), str(tmp_path / "two")], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (lines(tmp_path / name / "steps.jsonl") for name in ("one", "two"))
    full = len(one) - 1  # the last step's rows may be repeated to serve both processes
    for a, b in zip(one[:full], two[:full], strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
        assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
        assert b["token_accuracy"] == pytest.approx(a["token_accuracy"])
        assert b["train_tokens"] == a["train_tokens"]
    assert state_of(tmp_path / "two") == ("done", None)
