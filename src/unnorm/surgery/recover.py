"""Recover: a short distillation in which the new norms' parameters learn, and nothing else unless asked for.

The swapped model is drawn to the original's distribution over the next token, on unlabelled text:

    minimize  Σ_tokens KL(p_original ‖ p_swapped)     over α, s, γ, β of every swapped site.

Where a correction has changed linear layers already, these may learn too. Nothing is added, so what the model costs to
run stays as it was. Tokens that are held out are measured before and after; if they got worse, the start is put back
and the report says so.
"""

import math
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from unnorm.foundation.errors import DataError, ModelError, NonFiniteError, SettingsError
from unnorm.foundation.progress import Bar
from unnorm.surgery.inputs import Inputs, as_batches, counted, tokens_in
from unnorm.surgery.passes import in_eval
from unnorm.surgery.swap import record_of

HELD_OUT_TOKENS = 4096
_RATE, _RATE_WITH_LAYERS = 3e-2, 1e-2


@dataclass(frozen=True)
class RecoverReport:
    """What a recovery did. KL in nats a token, on tokens that it did not learn from."""

    kl_before: float
    kl_after: float
    kept: bool
    """False where the held-out tokens got worse: the model is as it was."""
    steps: int
    tokens: int
    parameters: int
    seconds: float
    losses: tuple[float, ...]
    """KL in nats a token, each step's on the tokens it learnt from."""
    layers: int = 0
    """Corrected linear layers that learnt beside the norms."""

    def describe(self) -> str:
        """One line for people."""
        kept = "" if self.kept else "; it got worse, so the start was kept"
        layers = f" with {self.layers} corrected layers" if self.layers else ""
        return (
            f"recovered{layers} in {self.steps} steps, {self.seconds:.0f} s: KL to the original "
            f"{self.kl_before:.4f} -> {self.kl_after:.4f} nats a token{kept}"
        )

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def recover_(
    model: nn.Module,
    original: nn.Module,
    batches: Inputs | Iterable[Inputs],
    *,
    steps: int = 200,
    batch_tokens: int = 1024,
    learning_rate: float | None = None,
    layers: bool = False,
    layer_learning_rate: float = 1e-3,
    seed: int = 0,
    precision: str = "bf16",
    quiet: bool = False,
) -> RecoverReport:
    """Distil `original` into the norm parameters of the swapped `model`, in place, and into corrected layers if asked.

    batches: token ids [B, T] or model inputs, or an iterable of them; rows are regrouped into steps of `batch_tokens`
    tokens, in an order given by `seed`, and begun again when they run out; 4,096 tokens (a tenth, if there are fewer)
    are held out. Adam with a cosine schedule; learning_rate: of the norms, 3e-2, or 1e-2 with layers; precision:
    `fp32`, or `bf16` for autocast around both models.

    layers: the linear layers that `swap_(correct=...)` changed learn too, at `layer_learning_rate`. That closes most of
    what deep models have left, on text of this kind more than on other text.

    Raises `ModelError` if nothing is swapped or, with layers, corrected, and `NonFiniteError` if the loss stops being a
    number; either way, and when interrupted, the model is as it was. Parameters' `requires_grad` is as before
    afterwards.
    """
    started = time.perf_counter()
    record = record_of(model)
    if record is None:
        raise ModelError("recover_ distils into new norms, and this model has none. Swap it first (unnorm.swap_).")
    if original is model or record_of(original) is not None:
        raise ModelError("recover_ needs the original, unswapped model beside the swapped one. Load the base afresh.")
    if precision not in ("fp32", "bf16"):
        raise SettingsError(f"precision is fp32 or bf16, not {precision!r}.")
    if learning_rate is None:
        learning_rate = _RATE_WITH_LAYERS if layers else _RATE
    if steps < 1 or batch_tokens < 1 or not learning_rate > 0 or not layer_learning_rate > 0:
        raise SettingsError("steps, batch_tokens and learning rates must be above 0.")
    if layers and not record.corrected:
        raise ModelError(
            "recover_ was to train the corrected layers too, and none were: swap with correct='all' or 'readers', or "
            "leave out layers."
        )
    learners = [_Learner(_parameters(model, [site.path for site in record.sites]), learning_rate)]
    if layers:
        learners.append(_Learner(_parameters(model, record.corrected), layer_learning_rate))
    parameters = [p for learner in learners for p in learner.parameters]
    if not parameters:
        raise ModelError("the norms at the swapped sites have no parameters to learn.")
    device = next(model.parameters()).device
    rows = _rows(as_batches(batches), device)
    held_out, train = _split(rows, batch_tokens)
    start = [p.detach().clone() for p in parameters]
    flags = [(p, p.requires_grad) for p in model.parameters()]
    losses: list[float] = []
    try:
        for parameter, _ in flags:
            parameter.requires_grad_(False)
        for parameter in parameters:
            parameter.requires_grad_(True)
        with in_eval(model), in_eval(original):
            before = _mean_kl(model, original, held_out, precision)
            _train(model, original, learners, train, steps, batch_tokens, seed, precision, losses, quiet)
            after = _mean_kl(model, original, held_out, precision)
    except BaseException:
        _put_back(parameters, start)
        raise
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
            parameter.grad = None
    kept = after <= before
    if not kept:
        _put_back(parameters, start)
    return RecoverReport(
        kl_before=before,
        kl_after=after,
        kept=kept,
        steps=steps,
        tokens=steps * batch_tokens,
        parameters=sum(p.numel() for p in parameters),
        seconds=time.perf_counter() - started,
        losses=tuple(losses),
        layers=len(record.corrected) if layers else 0,
    )


class _Learner:
    """Parameters that share a rate. Those of less than fp32 are stepped in fp32 and rounded: small steps add up."""

    def __init__(self, parameters: list[nn.Parameter], rate: float) -> None:
        self.parameters, self.rate = parameters, rate
        self.masters = [p if p.dtype.itemsize >= 4 else p.detach().float() for p in parameters]
        self.optimizer = torch.optim.Adam(self.masters, betas=(0.9, 0.95)) if parameters else None

    def step(self, share: float) -> float:
        """One step at `share` of the rate, with gradients clipped to norm 1. Returns their norm before."""
        if self.optimizer is None:
            return 0.0
        for parameter, master in zip(self.parameters, self.masters, strict=True):
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        norm = float(nn.utils.clip_grad_norm_(self.masters, 1.0))
        self.optimizer.param_groups[0]["lr"] = self.rate * share
        if math.isfinite(norm):
            self.optimizer.step()
            with torch.no_grad():
                for parameter, master in zip(self.parameters, self.masters, strict=True):
                    if master is not parameter:
                        parameter.copy_(master)
        return norm


def _parameters(model: nn.Module, paths: list[str]) -> list[nn.Parameter]:
    return [p for path in paths for p in model.get_submodule(path).parameters()]


Rows = list[dict[str, torch.Tensor]]


def _rows(batches: list[dict[str, torch.Tensor]], device: torch.device) -> Rows:
    """Every row by itself, [1, T]."""
    return [
        {name: tensor[i : i + 1].to(device) for name, tensor in batch.items()}
        for batch in batches
        for i in range(len(batch["input_ids"]))
    ]


def _split(rows: Rows, batch_tokens: int) -> tuple[Rows, Rows]:
    total = sum(tokens_in(row) for row in rows)
    wanted, held_out, taken = min(HELD_OUT_TOKENS, total / 10), 0, 0
    while taken < wanted:
        taken += tokens_in(rows[held_out])
        held_out += 1
    if len(rows) - held_out < 1:
        raise DataError("recover_ needs more than one row of tokens: some are held out. Give more, or shorter rows.")
    return rows[:held_out], rows[held_out:]


def _together(rows: Rows) -> dict[str, torch.Tensor]:
    """Rows of one length as a batch; others are padded, with a mask."""
    length = max(row["input_ids"].shape[1] for row in rows)
    if any(row["input_ids"].shape[1] != length or row.keys() != rows[0].keys() for row in rows):
        rows = [{**row, "attention_mask": row.get("attention_mask", torch.ones_like(row["input_ids"]))} for row in rows]
        names = set.intersection(*(set(row) for row in rows))
        rows = [{name: F.pad(row[name], (0, length - row[name].shape[1])) for name in names} for row in rows]
    return {name: torch.cat([row[name] for row in rows]) for name in rows[0]}


def _train(
    model: nn.Module,
    original: nn.Module,
    learners: list[_Learner],
    rows: Rows,
    steps: int,
    batch_tokens: int,
    seed: int,
    precision: str,
    losses: list[float],
    quiet: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    warm_up = max(1, steps // 20)
    with Bar("recovering", steps, quiet=quiet) as bar:
        for step in range(steps):
            batch: Rows = []
            while not batch or sum(tokens_in(row) for row in batch) < batch_tokens:
                queue = queue or torch.randperm(len(rows), generator=generator).tolist()
                batch.append(rows[queue.pop()])
            share = min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for learner in learners:
                for parameter in learner.parameters:
                    parameter.grad = None
            loss = _kl(model, original, _together(batch), precision)
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(float(loss.detach()))
            norms = [learner.step(share) for learner in learners]
            if not all(map(math.isfinite, [losses[-1], *norms])):
                raise NonFiniteError(
                    f"recovery became non-finite at step {step + 1} of {steps}: the model is as it was. "
                    f"Lower the learning rate ({learners[0].rate:g}), or calibrate before."
                )
            bar.advance(1, f"KL {losses[-1]:.4f}")


def _kl(model: Any, original: Any, batch: Mapping[str, torch.Tensor], precision: str) -> torch.Tensor:
    """Mean over tokens of KL(original ‖ model) in nats; logits [B, T, V] compared in fp32."""
    device = batch["input_ids"].device
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        with torch.no_grad():
            wanted = original(**batch, use_cache=False).logits
        found = model(**batch, use_cache=False).logits
    keep = counted(batch)
    if keep is not None:
        wanted, found = wanted[keep], found[keep]
    wanted, found = (v.float().log_softmax(-1).flatten(0, -2) for v in (wanted, found))
    return F.kl_div(found, wanted, log_target=True, reduction="batchmean")


@torch.no_grad()
def _mean_kl(model: nn.Module, original: nn.Module, rows: Rows, precision: str) -> float:
    total = sum(float(_kl(model, original, row, precision)) * tokens_in(row) for row in rows)
    return total / sum(tokens_in(row) for row in rows)


@torch.no_grad()
def _put_back(parameters: list[nn.Parameter], values: list[torch.Tensor]) -> None:
    for parameter, value in zip(parameters, values, strict=True):
        parameter.copy_(value)
