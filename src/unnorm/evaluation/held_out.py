"""Held-out loss: the sum of nats over the number of tokens, whatever the batches were."""

import math
import time
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch

from unnorm.data.prepare import Rows, Source
from unnorm.data.settings import DataSettings
from unnorm.foundation import ranks
from unnorm.foundation.errors import DataError, NonFiniteError
from unnorm.foundation.progress import track
from unnorm.metrics.token_sums import token_sums
from unnorm.surgery.base import check_length, context_length, under_adapters
from unnorm.surgery.finite import check_finite, name_of
from unnorm.surgery.vocabulary import check_ids
from unnorm.tuning.packing_probe import packing_is_clean

_TOKENS_A_BATCH = 4096


@dataclass(frozen=True)
class HeldOut:
    """loss: nats per token; token_accuracy: share of tokens that were the most likely one; tokens: how many counted."""

    loss: float
    token_accuracy: float
    tokens: int
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


@torch.no_grad()
def evaluate_batches(model: Any, batches: Iterable[Mapping[str, torch.Tensor]]) -> HeldOut:
    """Loss over batches of `input_ids`, `labels` [B, T] and other model inputs. The model is left in its mode.

    Under torch.distributed every process must call it with the same batches: each takes its share of them, and all get
    the whole. Raises `NonFiniteError` where the logits are not finite.
    """
    started = time.perf_counter()
    inner = under_adapters(model)
    device = next(model.parameters()).device
    nats = torch.zeros((), dtype=torch.float64)
    correct = tokens = 0
    was_training = model.training
    model.eval()
    try:
        for batch, counts in ranks.shared(batches):
            # weights shape what is trained; what is measured is nats per token
            check_ids(inner, batch["input_ids"])
            here = {name: tensor.to(device) for name, tensor in batch.items() if name != "weights"}
            sums = token_sums(model, inner.get_output_embeddings(), here)
            if counts:
                nats += sums.nats.double().cpu()
                correct, tokens = correct + int(sums.correct), tokens + int(sums.tokens)
    finally:
        model.train(was_training)
    parts = ranks.of_all((float(nats), correct, tokens))
    total, correct, tokens = (sum(column) for column in zip(*parts, strict=True))
    if tokens == 0:
        raise DataError("there is no labelled token to evaluate on: every label is -100.")
    if not math.isfinite(total):
        raise NonFiniteError(
            f"the logits are not finite on the held-out tokens: the loss of {name_of(inner)} is {total}. What "
            "was trained has diverged (lower the learning rate), or its weights do not fit this precision (use fp32)."
        )
    return HeldOut(total / tokens, correct / tokens, tokens, time.perf_counter() - started)


def evaluate_rows(model: Any, rows: Rows, *, quiet: bool = False) -> HeldOut:
    """Loss over prepared rows."""
    rows_a_batch = max(1, _TOKENS_A_BATCH // rows.max_length)
    total = -(-len(rows.rows) // rows_a_batch)
    return evaluate_batches(model, track(rows.batches(rows_a_batch), "evaluating", total, quiet=quiet))


def evaluate(
    model: Any,
    data: str | DataSettings | Iterable[Mapping[str, torch.Tensor]],
    tokenizer: Any = None,
    *,
    tokens: int = 100_000,
    quiet: bool = False,
) -> HeldOut:
    """Held-out loss, in nats per token, of `model` on `data`.

    data: a known name, file or hub id (its held-out part, about `tokens` tokens of it, needs `tokenizer`; a
    `UserWarning` says if it has fewer), the same as `DataSettings`, or batches of `input_ids` and `labels` [B, T] (a
    label of -100 does not count; labels are not shifted by the caller). Raises `DataError` for data that cannot be
    used, `ModelError` for a model whose logits are not finite.
    """
    check_finite(model)
    if isinstance(data, str):
        data = DataSettings(source=data, max_length=min(256, context_length(model) or 256))
    if not isinstance(data, DataSettings):
        return evaluate_batches(model, data)
    if tokenizer is None:
        raise DataError(f"evaluating on {data.source!r} needs the model's tokenizer: evaluate(model, data, tokenizer).")
    check_length(model, data.max_length)
    rows = Source(data, tokenizer, quiet=quiet).validation(tokens, packed=packing_is_clean(model))
    if warning := rows.share.warning_of_held_out:
        warnings.warn(warning.removeprefix("warning: "), stacklevel=2)
    return evaluate_rows(model, rows, quiet=quiet)
