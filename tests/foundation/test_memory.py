"""The peak is of what came after `forget_peak`, and holds what is freed by now."""

import sys

import numpy as np
import pytest
import torch

from unnorm.foundation.memory import forget_peak, memory_in_use, peak_memory

CPU = torch.device("cpu")
SIZE = 200_000_000


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells the peak of a process")
def test_a_peak_is_told_and_can_be_forgotten():
    forget_peak(CPU)
    before = memory_in_use(CPU)
    there = np.ones(SIZE, dtype=np.uint8)
    del there
    assert peak_memory(CPU) - before > 0.9 * SIZE
    assert memory_in_use(CPU) - before < 0.5 * SIZE
    forget_peak(CPU)
    assert peak_memory(CPU) - before < 0.5 * SIZE
