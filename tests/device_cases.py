"""What two processes do in one launch, for `tuning/test_devices.py`: case after case, as a file of JSON tells.

Each case is a cell ({"cell": settings, "out": folder, "stop_after": step or null}: a second process is told to stop
then), or a command line ({"command": [...], "said": file for what the main process prints}).
"""

import contextlib
import io
import json
import os
import signal
import sys
from pathlib import Path

import torch


def main() -> None:
    torch.set_num_threads(1)
    from unnorm.cli.main import run
    from unnorm.foundation import ranks
    from unnorm.foundation.errors import Interrupted

    for case in json.loads(Path(sys.argv[1]).read_text()):
        if "command" in case:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                assert run(case["command"], debug=True) == 0
            assert bool(said.getvalue()) == (ranks.number() == 0), "the main process alone prints"
            if ranks.number() == 0:
                Path(case["said"]).write_text(said.getvalue())
            continue
        try:
            _cell(case)
            assert case["stop_after"] is None, "it was to be stopped"
        except Interrupted:
            assert case["stop_after"] is not None, "nobody stopped it"
    ranks.leave()


def _cell(case: dict) -> None:
    from unnorm.study.cell import CellSettings
    from unnorm.study.run_cell import run_cell
    from unnorm.tuning import trainer

    class Told(trainer._StepCallback):
        def on_step_end(self, args, state, control, **kwargs):
            if state.global_step == case["stop_after"] and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGTERM)
            super().on_step_end(args, state, control, **kwargs)

    own, trainer._StepCallback = trainer._StepCallback, Told
    try:
        run_cell(CellSettings.model_validate(case["cell"]), Path(case["out"]), quiet=True)
    finally:
        trainer._StepCallback = own


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # gloo's threads now and then abort a process that ends in the interpreter's own way
