"""Recover: a short distillation in which only the new norms' parameters learn.

The swapped model is drawn to the original's distribution over the next token, on unlabelled text:

    minimize  Σ_tokens KL(p_original ‖ p_swapped)     over α, s, γ, β of every swapped site.

Nothing else trains, so what it costs to run stays as it was. Tokens that are held out are measured before and after; if
they got worse, the start is put back and the report says so.
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

    def describe(self) -> str:
        """One line for people."""
        kept = "" if self.kept else "; it got worse, so the start was kept"
        return (
            f"recovered in {self.steps} steps, {self.seconds:.0f} s: KL to the original "
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
    learning_rate: float = 3e-2,
    seed: int = 0,
    precision: str = "bf16",
    quiet: bool = False,
) -> RecoverReport:
    """Distil `original` into the norm parameters of the swapped `model`, in place.

    batches: token ids [B, T] or model inputs, or an iterable of them; rows are regrouped into steps of `batch_tokens`
    tokens, in an order given by `seed`, and begun again when they run out; 4,096 tokens (a tenth, if there are fewer)
    are held out. Adam with a cosine schedule; precision: `fp32`, or `bf16` for autocast around both models.

    Raises `ModelError` if nothing is swapped, `NonFiniteError` if the loss stops being a number; either way, and when
    interrupted, the norms are as they were. Parameters' `requires_grad` is as before afterwards.
    """
    started = time.perf_counter()
    record = record_of(model)
    if record is None:
        raise ModelError("recover_ distils into new norms, and this model has none. Swap it first (unnorm.swap_).")
    if original is model or record_of(original) is not None:
        raise ModelError("recover_ needs the original, unswapped model beside the swapped one. Load the base afresh.")
    if precision not in ("fp32", "bf16"):
        raise SettingsError(f"precision is fp32 or bf16, not {precision!r}.")
    if steps < 1 or batch_tokens < 1 or not learning_rate > 0:
        raise SettingsError("steps, batch_tokens and learning_rate must be above 0.")
    parameters = [p for site in record.sites for p in model.get_submodule(site.path).parameters()]
    if not parameters:
        raise ModelError("the norms at the swapped sites have no parameters to learn.")
    device = parameters[0].device
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
            _train(
                model, original, parameters, train, steps, batch_tokens, learning_rate, seed, precision, losses, quiet
            )
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
    )


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
    parameters: list[nn.Parameter],
    rows: Rows,
    steps: int,
    batch_tokens: int,
    learning_rate: float,
    seed: int,
    precision: str,
    losses: list[float],
    quiet: bool,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    queue: list[int] = []
    optimizer = torch.optim.Adam(parameters, betas=(0.9, 0.95))
    warm_up = max(1, steps // 20)
    with Bar("recovering", steps, quiet=quiet) as bar:
        for step in range(steps):
            batch: Rows = []
            while not batch or sum(tokens_in(row) for row in batch) < batch_tokens:
                queue = queue or torch.randperm(len(rows), generator=generator).tolist()
                batch.append(rows[queue.pop()])
            rate = min(1.0, (step + 1) / warm_up) * 0.5 * (1 + math.cos(math.pi * step / steps))
            optimizer.param_groups[0]["lr"] = learning_rate * rate
            loss = _kl(model, original, _together(batch), precision)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = float(nn.utils.clip_grad_norm_(parameters, 1.0))
            losses.append(float(loss.detach()))
            if not math.isfinite(losses[-1]) or not math.isfinite(norm):
                raise NonFiniteError(
                    f"recovery became non-finite at step {step + 1} of {steps}: the norms are as they were. "
                    f"Lower the learning rate ({learning_rate:g}), or calibrate before."
                )
            optimizer.step()
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
