"""Where the processor time of `unnorm swap` goes on a 135M model: loading, forward passes, the fit, and the rest.

    python benchmarks/swap_profile.py MODEL DATA

Every moment counts for the innermost of the parts that it lies in. Processor time hardly depends on what else the
machine does. Writes results/swap_profile.md.
"""

import builtins
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine_line

_spent: Counter[str] = Counter()
_open = ["the rest"]
_since = time.process_time()
_TOKENS = 1024
OUT = Path(__file__).parent / "results" / "swap_profile.md"


def _turn() -> None:
    """Book the time since the last turn."""
    global _since
    now = time.process_time()
    _spent[_open[-1]] += now - _since  # type: ignore[assignment]
    _since = now


def booked(function: Callable[..., Any], part: str) -> Callable[..., Any]:
    """`function`, whose time counts for `part`."""

    def run(*args: Any, **kwargs: Any) -> Any:
        _turn()
        _open.append(part)
        try:
            return function(*args, **kwargs)
        finally:
            _turn()
            _open.pop()

    return run


def main(model: str, data: str) -> None:
    builtins.__import__ = booked(builtins.__import__, "loading: imports")
    from transformers import PreTrainedModel

    from unnorm.cli.main import run
    from unnorm.data import prepare
    from unnorm.norms.affine import AffineSpec
    from unnorm.study import start, swap_model
    from unnorm.surgery import sites

    forward = "forward passes and their losses"
    for where, name, part in (
        (swap_model, "load_base", "loading: the model"),
        (swap_model, "load_tokenizer", "loading: the model"),
        (prepare, "read", "loading: reading the data"),
        (prepare, "split", "loading: reading the data"),
        (prepare, "content_hash", "loading: reading the data"),
        (swap_model, "save", "saving"),
        (sites, "trace", "finding sites"),
        (AffineSpec, "fit_", "the fit"),
        (start, "score_batches", forward),
        (swap_model, "distance", forward),
        (PreTrainedModel, "__call__", forward),
    ):
        setattr(where, name, booked(getattr(where, name), part))
    with tempfile.TemporaryDirectory() as folder:
        options = ["--tokens", str(_TOKENS), "--measure-tokens", str(_TOKENS), "--alpha", "channel", "--json"]
        code = run(["swap", model, "--calibrate", data, *options, "--out", f"{folder}/out"])
    _turn()
    assert code == 0
    whole = sum(_spent.values())
    rest = whole - sum(seconds for part, seconds in _spent.items() if part.startswith(("loading", "forward")))
    rows = [f"| {part} | {seconds:.1f} | {seconds / whole:.1%} |" for part, seconds in _spent.most_common()]
    lines = [
        "# Where the time of `unnorm swap` goes\n",
        machine_line() + ", one thread, fp32\n",
        f"Calibrated on {_TOKENS:,} tokens and measured on as many; every step is measured too. Processor time: what "
        "else ran on the machine hardly counts. The forward passes that find sites count as such.\n",
        "| part | seconds | share |\n|---|---|---|",
        *rows,
        f"| all | {whole:.1f} | |",
        f"| neither loading nor forward passes | {rest:.1f} | {rest / whole:.1%} |\n",
    ]
    OUT.write_text("\n".join(lines))


if __name__ == "__main__":
    main(*sys.argv[1:])
