"""`likelihood`: the mean log-probability of the answers under a reference model. Works offline, and is weak."""

import math
from typing import Any

import torch
import torch.nn.functional as F

from unnorm.artefacts.loading import open_model
from unnorm.data.conversation import Message
from unnorm.data.encode import encode_prompt
from unnorm.data.templates import template_of
from unnorm.evaluation.judges.interface import WHOLE, Dialogue, PointwiseJudge, Rating, neutralise
from unnorm.foundation.hashing import hash_tensors
from unnorm.metrics.token_sums import head_only_at
from unnorm.surgery.base import context_length
from unnorm.surgery.finite import check_finite, check_logits
from unnorm.surgery.vocabulary import check_ids

_TEMPLATE = "alpaca"
_MOST_CONTEXT = 2048
CAVEAT = (
    "`likelihood` prefers what the reference model would have written itself, fluent repetition before all; it is a "
    "check that the pipeline works, and weak evidence of quality."
)


def load_likelihood(model: str) -> PointwiseJudge:
    """The judge with the reference model `model`: a hub id, a folder or an artefact. Raises as loading it does."""
    reference, tokenizer = open_model(model)
    check_finite(reference, repr(model))
    identity = {
        "kind": "likelihood",
        "model": model,
        "model_hash": hash_tensors(reference.state_dict()),
        "template": _TEMPLATE,
    }
    device = "cuda" if torch.cuda.is_available() else "cpu"
    reference.to(device)
    return PointwiseJudge(identity, lambda dialogue: mean_log_probability(reference, tokenizer, dialogue), CAVEAT)


@torch.no_grad()
def mean_log_probability(model: Any, tokenizer: Any, conversation: Dialogue) -> Rating:
    """Nats a token of the answers that are judged, given all that was said before; eos is no part of an answer.

    Text longer than the model's context is read in windows that overlap by half, so that each token of an answer is
    scored once, and with half a window before it.
    """
    ids, judged = _encode(conversation, tokenizer)
    check_ids(model, ids)
    size = min(_MOST_CONTEXT, context_length(model) or _MOST_CONTEXT)
    device = next(model.parameters()).device
    nats, tokens = 0.0, 0
    for start, first in _windows(len(ids), size):
        window = torch.tensor([ids[start : start + size]], device=device)
        # the token at t is predicted at t − 1; before `first` an earlier window has scored it
        wanted = torch.tensor([judged[max(start + 1, first) : start + size]], device=device)
        wanted = F.pad(wanted, (max(start + 1, first) - start - 1, 1), value=False)  # [1, T]
        if not wanted.any():
            continue
        with head_only_at(model.get_output_embeddings(), wanted):
            logits = model(input_ids=window, use_cache=False).logits[0].float()  # [N, V]
        check_logits(logits, model)
        targets = window[:, 1:][wanted[:, :-1]]
        nats += float(F.cross_entropy(logits, targets, reduction="sum").double())
        tokens += targets.numel()
    return Rating(-nats / tokens if tokens else -math.inf, False)


def _encode(conversation: Dialogue, tokenizer: Any) -> tuple[list[int], list[bool]]:
    """Token ids, and for each whether it belongs to an answer that is judged."""
    messages: list[Message] = []
    for question, said in zip(conversation.questions, conversation.answers, strict=True):
        messages.append(Message("user", neutralise(question, tokenizer)))
        messages.append(Message("assistant", neutralise(said, tokenizer)))
    ids = encode_prompt("", tokenizer)  # bos, where the tokenizer adds one
    judged = [False] * len(ids)
    pieces = template_of(_TEMPLATE, tokenizer).render(messages)
    for number, piece in enumerate(pieces):
        words = list(tokenizer(piece.text, add_special_tokens=False, verbose=False)["input_ids"])
        counts = piece.answer and (conversation.part == WHOLE or number == len(pieces) - 1)
        ids += words
        judged += [counts] * len(words)
        if piece.answer:
            ids.append(tokenizer.eos_token_id)
            judged.append(False)
    return ids, judged


def _windows(length: int, size: int) -> list[tuple[int, int]]:
    """(start, first position that is scored) of the windows that cover `length` tokens."""
    windows, start, scored = [], 0, 0
    while scored < length:
        windows.append((start, scored))
        scored = start + size
        start = scored - size // 2
    return windows
