"""What a plan says of memory is the most that a step takes, not what is left when it has ended."""

import sys

import numpy as np
import pytest

from study.small_study import study_text
from unnorm.study import estimate
from unnorm.study.estimate import estimates
from unnorm.study.plan import plan_study
from unnorm.study.spec import parse_spec
from unnorm.study.workbench import Workbench

SIZE = 300_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_what_a_step_takes_and_gives_back_counts_for_its_own_cell_alone(bases, data_file, tmp_path, monkeypatch):
    training = {"tokens": 256, "max_length": 64, "batch_tokens": 128, "precision": "fp32"}
    text = study_text(bases["gpt2"], data_file, arms=["original"], strategies=["full", "frozen"], training=training)
    bench = Workbench(quiet=True)
    real = estimate.token_sums

    def greedy(model, head, batch):
        if not hasattr(model, "peft_config"):
            np.ones(SIZE, dtype=np.uint8)
        return real(model, head, batch)

    monkeypatch.setattr(estimate, "token_sums", greedy)
    planned = plan_study(parse_spec(text, "study"), tmp_path, bench).cells
    full, frozen = (one.memory_bytes for one in estimates(planned, bench))
    assert full - frozen > 0.8 * SIZE
