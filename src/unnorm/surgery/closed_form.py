"""A swap in closed form whose every step is measured: none may end worse than the step before it.

bare -> calibrated -> layers corrected, where asked for
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
    outliers: float | None = None,
    correct: Correct = "none",
) -> tuple[SwapReport, tuple[Step, ...]]:
    """Swap `model` in place by the last step that ends no worse than the one kept before it.

    As `swap_`, with every step measured by `loss`, nats a token of a model on tokens that no step is fitted to. A loss
    that is no number is worse than any other, and no better than another such. Layers are corrected from the fit that
    was kept. Returns the report of the step that was kept, and all steps.
    """
    batches = calibrate_on if isinstance(calibrate_on, Mapping) or hasattr(calibrate_on, "ndim") else list(calibrate_on)
    steps: list[Step] = []
    kept: dict[str, Any] = {"calibrate_on": None}
    report = swap_(model, specs, **kept)
    least = loss(model)
    steps.append(Step("bare", least, kept=True))
    standing = kept

    def attempt(name: str, options: dict[str, Any]) -> None:
        nonlocal kept, least, standing, report
        unswap_(model)
        made, standing = swap_(model, specs, **options), options
        found = loss(model)
        better = found <= least or (least != least and found == found)
        steps.append(Step(name, found, better))
        if better:
            kept, least, report = options, found, made

    fitted: dict[str, Any] = {"calibrate_on": batches, "mode": mode, "outliers": outliers}
    attempt("calibrated", fitted)
    if correct != "none":
        attempt("layers corrected", {**(fitted if kept["calibrate_on"] is None else kept), "correct": correct})
    if standing is not kept:
        unswap_(model)
        report = swap_(model, specs, **kept)
    return report, tuple(steps)
