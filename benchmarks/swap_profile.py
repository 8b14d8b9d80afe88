"""Where the processor time of `unnorm swap` goes on a 135M model: loading, forward passes, the fit, and the rest.

python benchmarks/swap_profile.py MODEL DATA 

Every moment counts for the innermost of the parts that it lies in, in processor time. The table, on standard error, is kept
in results/swap_profile.md.
"""

import builtins
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from machine import machine_line

_spent: Counter[str] = Counter()
_open = ["the rest"]
_since = time.process_time()
_TOKENS = 1024


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

    swap_model.load_base = booked(swap_model.load_base, "loading: the model")
    swap_model.load_tokenizer = booked(swap_model.load_tokenizer, "loading: the model")
    prepare.read = booked(prepare.read, "loading: reading the data")
    prepare.split = booked(prepare.split, "loading: reading the data")
    prepare.content_hash = booked(prepare.content_hash, "loading: reading the data")
    swap_model.save = booked(swap_model.save, "saving")
    sites.trace = booked(sites.trace, "finding sites")
    AffineSpec.fit_ = booked(AffineSpec.fit_, "the fit")
    start.evaluate_batches = booked(start.evaluate_batches, "forward passes and their losses")
    swap_model.distance = booked(swap_model.distance, "forward passes and their losses")
    PreTrainedModel.__call__ = booked(PreTrainedModel.__call__, "forward passes and their losses")
    with tempfile.TemporaryDirectory() as folder:
        options = ["--calibrate", data, "--tokens", str(_TOKENS), "--measure-tokens", str(_TOKENS), "--alpha", "channel"]
        code = run(["swap", model, *options, "--out", f"{folder}/out", "--json"])
    _turn()
    assert code == 0
    whole = sum(_spent.values())
    usage = resource.getrusage(resource.RUSAGE_SELF)
    print("# Where the time of `unnorm swap` goes\n", file=sys.stderr)
    print(machine_line(), file=sys.stderr)
    for part, seconds in _spent.most_common():
        print(f"| {part} | {seconds:.1f} | {seconds / whole:.1%} |", file=sys.stderr)
    print(f"| all | {whole:.1f} | ({usage.ru_utime + usage.ru_stime:.1f} by the system's count) |", file=sys.stderr)


if __name__ == "__main__":
    main(*sys.argv[1:])
