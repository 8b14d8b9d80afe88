"""A swap in closed form whose every step is measured: none may end worse than the step before it.

bare -> calibrated -> its largest tokens left out, where asked for -> layers corrected, where asked for
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from unnorm.norms.spec import NormSpec
from unnorm.surgery.calibrate import Mode
from unnorm.surgery.correct import Correct
from unnorm.surgery.inputs import Inputs
from unnorm.surgery.swap import SwapReport, swap_, unswap_


@dataclass(frozen=True)
class Step:
    """One step of a start: its loss, in nats a token, on tokens that it was not fitted to, and whether it was kept."""

    name: str
    loss: float
    kept: bool

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def swap_stepwise_(
    model: nn.Module,
    specs: NormSpec | Mapping[str, NormSpec | None],
    *,
    calibrate_on: Inputs | Iterable[Inputs],
    loss: Callable[[nn.Module], float],
    mode: Mode = "one-pass",
    outliers: float = 0.0,
    correct: Correct = "none",
) -> tuple[SwapReport, tuple[Step, ...]]:
    """Swap `model` in place by the last step that ends no worse than the one kept before it.

    As `swap_`, with every step measured by `loss`, nats a token of a model on tokens that no step is fitted to. A loss
    that is no number counts as worse. Returns the report of the step that was kept, and all steps.
    """
    batches = calibrate_on if isinstance(calibrate_on, Mapping) or hasattr(calibrate_on, "ndim") else list(calibrate_on)
    asked: dict[str, dict[str, Any]] = {
        "bare": {"calibrate_on": None},
        "calibrated": {"calibrate_on": batches, "mode": mode},
    }
    if outliers:
        asked["outliers left out"] = {**asked["calibrated"], "outliers": outliers}
    if correct != "none":
        before = asked["outliers left out"] if outliers else asked["calibrated"]
        asked["layers corrected"] = {**before, "correct": correct}
    steps: list[Step] = []
    best, standing = "", ""
    least = float("inf")
    for name, options in asked.items():
        if standing:
            unswap_(model)
        report = swap_(model, specs, **options)
        standing = name
        found = loss(model)
        kept = not best or found <= least
        steps.append(Step(name, found, kept))
        if kept:
            best, least = name, found if found == found else float("inf")
    if standing != best:
        unswap_(model)
        report = swap_(model, specs, **asked[best])
    return report, tuple(steps)
