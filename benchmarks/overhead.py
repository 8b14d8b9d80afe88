"""Where the demo's wall time goes, and what share is neither training nor evaluation. Writes results/overhead.md.

    python benchmarks/overhead.py

Runs `unnorm demo` from nothing, in this process, in a folder and with a cache of its own. Training: the base's
pretraining, and the steps of the nine cells. Evaluation: held-out losses and the completions. Fitting the new norms is
shown by itself, and counted as overhead, as are imports, data, checkpoints, artefacts, the ledger, figures and page.
"""

import time

STARTED = time.perf_counter()

import os  # noqa: E402
import tempfile  # noqa: E402
from collections import defaultdict  # noqa: E402
from collections.abc import Callable  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from machine import machine_line  # noqa: E402

OUT = Path(__file__).parent / "results" / "overhead.md"
SECONDS: dict[str, float] = defaultdict(float)


def time_in(owner: Any, name: str, part: str) -> None:
    """Let `owner.name` add the seconds that it takes to `part`."""
    function: Callable[..., Any] = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            SECONDS[part] += time.perf_counter() - started

    setattr(owner, name, timed)


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["UNNORM_CACHE"] = f"{folder}/cache"
        import unnorm.demo.base
        import unnorm.study.after.completions
        import unnorm.study.fine_tune
        import unnorm.study.workbench
        from unnorm.demo.story import tell

        time_in(unnorm.demo.base, "pretrain", "pretraining the base")
        time_in(unnorm.study.fine_tune, "score_rows", "held-out losses")
        time_in(unnorm.study.after.completions, "generate", "completions")
        time_in(unnorm.study.workbench, "swap_", "fitting the norms")
        study, _ = tell(Path(folder) / "demo", print)
        wall = time.perf_counter() - STARTED
        SECONDS["training the cells"] = sum(cell.result["wall_seconds"] for cell in study.cells if cell.result)
    work = {name: SECONDS[name] for name in SECONDS if name != "fitting the norms"}
    share = 1 - sum(work.values()) / wall
    lines = ["# The demo's wall time", "", machine_line(), "", "| part | seconds | share |", "|---|---|---|"]
    for name, seconds in sorted(work.items(), key=lambda item: -item[1]):
        lines.append(f"| {name} | {seconds:.1f} | {seconds / wall:.1%} |")
    fitting = SECONDS["fitting the norms"]
    lines.append(f"| fitting the norms | {fitting:.1f} | {fitting / wall:.1%} |")
    lines.append(f"| everything else | {wall * share - fitting:.1f} | {share - fitting / wall:.1%} |")
    lines.append(f"| whole | {wall:.1f} | |")
    lines += ["", f"Outside training and evaluation: {share:.1%}. Made by `python benchmarks/overhead.py`.", ""]
    OUT.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
