"""The driver of a study on a Ray cluster, as a process that can be killed: TEXT LEDGER ADDRESS."""

import sys
from pathlib import Path

import torch

from study.small_study import run_text
from unnorm.study.engines.interface import Options

if __name__ == "__main__":
    torch.set_num_threads(1)
    run_text(
        sys.argv[1],
        Path(sys.argv[2]),
        options=Options("ray", address=sys.argv[3]),
        say=lambda text: print(text, flush=True),
    )
