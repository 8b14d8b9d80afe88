"""Whether a tokenizer's ids exist in a model: tokens that were added to it alone have no embedding."""

from typing import Any

import numpy as np
import torch

from unnorm.foundation.errors import DataError, ModelError


def embedding_rows(model: Any) -> int:
    """How many token ids `model` has embeddings for."""
    rows: int = model.get_input_embeddings().weight.shape[0]
    return rows


def fit_tokenizer_(tokenizer: Any, rows: int, name: str) -> Any:
    """Let `tokenizer` pad with its eos token if its pad token has no embedding among `rows`, in place; the tokenizer.

    Padding is masked, so that which token it is does not matter. An eos or bos token without embedding is a
    `ModelError`. Other tokens without one are no fault as long as no text holds them (see `check_ids`).
    """
    for role in ("eos", "bos"):
        token_id = getattr(tokenizer, f"{role}_token_id")
        if token_id is not None and token_id >= rows:
            raise ModelError(
                f"the {role} token {getattr(tokenizer, f'{role}_token')!r} of {name!r} has the id {token_id:,}, "
                f"{_both(rows, len(tokenizer))} {_REMEDY}"
            )
    if tokenizer.pad_token_id is not None and tokenizer.pad_token_id >= rows and tokenizer.eos_token_id is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_ids(model: Any, ids: torch.Tensor | np.ndarray | list[int]) -> None:
    """Raise `DataError` if one of the token `ids` has no embedding in `model`."""
    rows = embedding_rows(model)
    most = max(ids, default=0) if isinstance(ids, list) else int(ids.max())
    if most >= rows:
        raise DataError(
            f"the text holds a token of the id {most:,}, {_both(rows, None)} The tokenizer has tokens that were added "
            f"to it and not to the model, or it is another model's. {_REMEDY}"
        )


_REMEDY = "Resize them (model.resize_token_embeddings(len(tokenizer))), train what is new, and save the model."


def _both(rows: int, tokens: int | None) -> str:
    of = f"of {tokens:,} tokens, " if tokens is not None else ""
    return f"{of}but the model's embeddings have {rows:,} rows."
