"""What a swapped model starts from: a swap whose every step is measured, and a recovery after it.

The one recipe for `unnorm swap`, `unnorm recover` and a study's arms: which rows are calibrated on, which a step is
judged by, and what is measured at the end.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from unnorm.artefacts.fingerprint import fingerprint
from unnorm.data.prepare import Rows
from unnorm.evaluation.scores import score_batches
from unnorm.foundation.errors import ModelError, NonFiniteError
from unnorm.foundation.progress import track
from unnorm.metrics.token_sums import all_labelled
from unnorm.norms.spec import NormSpec
from unnorm.study.arms import Arm
from unnorm.surgery.anatomy import site_anatomy
from unnorm.surgery.anatomy_verdict import SINK
from unnorm.surgery.closed_form import Step, swap_stepwise_
from unnorm.surgery.finite import advice_on_linear, check_finite
from unnorm.surgery.inputs import with_pieces
from unnorm.surgery.swap import SwapReport, keep_base_, swap_
from unnorm.surgery.vocabulary import check_ids

CHOICE_TOKENS = 2048
"""Of training rows that no step was fitted to, which judge the steps."""
PIECE_TOKENS = 32
"""Of a text, where layers of a model with attention sinks are corrected: half of the rows are cut to pieces as long.
The first position is mostly the sink, and texts alone hold few of them, with much the same word. A model without sinks
only loses what its tokens would have before them."""
ROWS_AT_ONCE = 16
"""Of a calibration that goes over its tokens in batches."""


@dataclass(frozen=True)
class Started:
    """What a swap did, and the measured steps to it; empty where nothing was fitted."""

    report: SwapReport
    steps: tuple[Step, ...] = ()

    def describe(self) -> str:
        """Some lines for people."""
        lines = [describe_swap(self.report)]
        if self.report.unreached:
            lines.append(f"left alone, since token ids do not reach them: {', '.join(self.report.unreached)}")
        fit = self.report.calibration
        if fit is not None and fit.several:
            lines.append(f"called at several places, and fitted to all of them at once: {', '.join(fit.several)}")
        if fit is not None and fit.leaves_writers:
            lines.append(
                "corrected no layer that writes to the residual stream: linear layers are not all that writes to this "
                "model's (fused experts do, for one)"
            )
        for step in self.steps:
            if not step.kept:
                before = next(s for s in reversed(self.steps[: self.steps.index(step)]) if s.kept)
                ended = (
                    f"ended at a loss of {step.loss:.4f}, worse than '{before.name}' ({before.loss:.4f})"
                    if step.loss == step.loss
                    else "ended with logits that are not finite"
                )
                lines.append(f"step '{step.name}' {ended}: it was put back")
        advice = advice_on_linear(self.report.specs.values())
        if advice and any(step.loss != step.loss for step in self.steps if step.name != "bare"):
            lines.append(advice)
        if self.steps and not all(step.kept for step in self.steps):
            kept = next(step.name for step in reversed(self.steps) if step.kept)
            lines.append("so this is a bare swap, without any fit" if kept == "bare" else f"what stands is '{kept}'")
        return "\n".join(lines)

    def to_dict(self) -> dict[str, Any]:
        return {**self.report.to_dict(), "steps": [step.to_dict() for step in self.steps]}


def start_(model: Any, arm: Arm, rows: Rows | None, *, sites: Sequence[str] | None = None) -> Started | None:
    """Swap `model` in place as `arm` says; None where it keeps the pretrained norms.

    rows: training rows, of which the first are calibrated on and those after them judge the steps; None for a bare
    start. sites: patterns of the sites to swap; all unless given. Raises `ModelError` where the logits are not finite
    after any step.
    """
    spec = arm.spec()
    if spec is None:
        return None
    specs: NormSpec | dict[str, NormSpec | None] = spec if sites is None else dict.fromkeys(sites, spec)
    if arm.calibration_tokens is None or rows is None:
        return Started(swap_(model, specs, calibrate_on=None, inherit=arm.inherit))
    used = max(1, arm.calibration_tokens // rows.max_length)
    judges = rows.rows[used : used + max(1, CHOICE_TOKENS // rows.max_length)] or rows.rows[:1]
    size = used if arm.mode == "one-pass" else ROWS_AT_ONCE
    batches = [rows.collate(rows.rows[i : min(i + size, used)]) for i in range(0, used, size)]
    if arm.correct != "none" and rows.packed and _has_sinks(model, batches[0]):
        batches = [with_pieces(batch, PIECE_TOKENS, rows.bos) for batch in batches]
    report, steps = swap_stepwise_(
        model,
        specs,
        calibrate_on=batches if len(batches) > 1 else batches[0],
        loss=judge([rows.collate([row]) for row in judges]),
        mode=arm.mode,
        outliers=arm.outliers,
        correct=arm.correct,
    )
    if all(step.loss != step.loss for step in steps):
        tried = ", ".join(step.name for step in steps)
        raise ModelError(
            f"the logits are not finite, whatever the swap begins from ({tried}): there is nothing to save. "
            f"{advice_on_linear(report.specs.values())}".rstrip()
        )
    return Started(report, steps)


def _has_sinks(model: Any, batch: dict[str, torch.Tensor]) -> bool:
    """Whether tokens of the first two rows are as large as sinks are."""
    found = site_anatomy(model, {name: tensor[:2] for name, tensor in batch.items()}).verdict.findings
    return any(one.times >= SINK for one in found if one.what != "large channels")


def recoverable_(model: Any, arm: Arm, rows: Rows | None) -> Started | None:
    """`start_` for an arm that recovers: a model whose pretrained norms stay keeps what its base is."""
    started = start_(model, arm, rows if arm.calibration_tokens is not None else None)
    if started is None:
        keep_base_(model)
    return started


def check_rows(model: Any, *rows: Rows) -> None:
    """Refuse rows with ids that the model has no embedding for: a `DataError` with both sizes."""
    encoded = {id(item): item for some in rows for row in some.rows for item in row}  # some stand in it several times
    for item in encoded.values():
        check_ids(model, item.ids)


def judge(batches: Sequence[dict[str, torch.Tensor]]) -> Callable[[Any], float]:
    """A model's loss on every token of `batches` that follows another, in nats a token; NaN where its logits, there or
    on tokens unlike any text, are not finite: such a model cannot be saved."""
    labelled = [all_labelled(batch) for batch in batches]

    def loss(model: Any) -> float:
        try:
            check_finite(model)
        except ModelError:
            return float("nan")
        if not fingerprint(model).is_finite:  # what `save` asks for
            return float("nan")
        try:
            return score_batches(model, track(labelled, "measuring a step of the swap", len(labelled))).loss
        except NonFiniteError:
            return float("nan")

    return loss


def describe_swap(swap: SwapReport) -> str:
    """One line for people."""
    fit = swap.calibration
    if fit is None:
        return f"swapped {len(swap.sites)} sites, bare"
    worst = min(fit.sites, key=lambda site: site.r2)
    corrected = f"; {fit.corrected} linear layers corrected" if fit.corrections else ""
    return (
        f"swapped {len(swap.sites)} sites, calibrated on {fit.tokens:,} tokens in {fit.seconds:.1f} s; "
        f"lowest R² {worst.r2:.3f} at {worst.path}{corrected}"
    )
