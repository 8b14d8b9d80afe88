"""Scores of a model, conversation by conversation: what every loss, accuracy and interval is made of, and a file of
them, over which two models are compared pair by pair.

Streams: conversations are taken a few rows at a time, and of each only a handful of sums is kept.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from unnorm.data.encode import Encoded
from unnorm.data.packing import collate_packed, collate_padded, pack
from unnorm.data.prepare import Rows
from unnorm.foundation import atomic, ranks
from unnorm.foundation.errors import DataError, NonFiniteError
from unnorm.foundation.parquet import parquet_bytes, read_columns
from unnorm.metrics.batches import inputs_of
from unnorm.metrics.output_layer import positions_at_once
from unnorm.metrics.token_sums import IGNORED, token_scores
from unnorm.surgery.base import under_adapters
from unnorm.surgery.finite import name_of, unbounded
from unnorm.surgery.packed_attention import packed_attention
from unnorm.surgery.passes import in_eval
from unnorm.surgery.swap import record_of
from unnorm.surgery.vocabulary import check_ids

Tokens = Literal["trained", "all"]
SUMS = ("nats", "tokens", "top1", "top5", "bytes")
_CHUNK = 64  # conversations packed together
_TOKENS_A_BATCH = 4096
_POSITIONS = 20


class Item(NamedTuple):
    """An encoded conversation, which group it belongs to, and a number that names it in every evaluation alike."""

    row: Encoded
    group: str = ""
    key: int = 0


@dataclass(frozen=True)
class Scores:
    """Sums of n conversations, over the trained tokens (`trained`) and over all that are predicted (`all`).

    trained, all [n, 5] fp64: nats, tokens, tokens that were the most likely one, tokens among the five most likely,
    bytes of their text (UTF-8, special tokens not counted). keys [n] int64; groups [n]: names. ids [n] int64: digests
    of the token ids. positions [2, K, 4]: nats, tokens, top1, top5 of trained and of all tokens at positions 2^k to
    2^(k+1) − 1. seconds: how long it took to find them. `all` is 0 where only trained tokens were asked for.
    """

    trained: np.ndarray
    all: np.ndarray
    keys: np.ndarray
    groups: np.ndarray
    ids: np.ndarray
    positions: np.ndarray
    seconds: float = 0.0

    @property
    def tokens(self) -> int:
        """How many trained tokens."""
        return int(self.trained[:, 1].sum())

    @property
    def loss(self) -> float:
        """Nats per trained token."""
        return float(self.trained[:, 0].sum()) / self.tokens

    @property
    def token_accuracy(self) -> float:
        """Share of trained tokens that were the most likely one."""
        return float(self.trained[:, 2].sum()) / self.tokens

    def of(self, chosen: np.ndarray) -> "Scores":
        """Those of some conversations [n] bool; `positions` stay those of all."""
        parts = (self.trained[chosen], self.all[chosen], self.keys[chosen], self.groups[chosen], self.ids[chosen])
        return Scores(*parts, self.positions)


def score(
    model: Any,
    tokenizer: Any,
    items: Iterable[Item],
    *,
    max_length: int,
    packed: bool,
    pad_id: int | None = None,
    tokens: Tokens = "all",
) -> Scores:
    """Score every conversation of `items`, in their order. The model is left in its mode.

    tokens: "trained" spares what the others cost, and raises `DataError` if there are none. tokenizer: counts bytes;
    without it there are none. Under torch.distributed each process takes its share of the batches, and all get the
    whole. Raises `NonFiniteError` where the logits are not finite.
    """
    pad_id = tokenizer.eos_token_id if pad_id is None else pad_id
    return _scores(model, tokenizer, _batches(model, items, max_length, packed, pad_id), tokens)


def score_rows(model: Any, rows: Rows) -> Scores:
    """Score the trained tokens of every conversation in prepared `rows`, in their order."""
    encoded = [each for row in rows.rows for each in row]
    items = (Item(e, key=~n if e.conversation is None else e.conversation) for n, e in enumerate(encoded))
    return joined(
        score(model, None, items, max_length=rows.max_length, packed=rows.packed, pad_id=rows.pad_id, tokens="trained")
    )


def joined(scores: Scores) -> Scores:
    """The same, in which all that have one key are one conversation: the pieces of one that was split go together, as
    its tokens do. It stands where its first piece stood."""
    _, firsts, places = np.unique(scores.keys, return_index=True, return_inverse=True)
    if len(firsts) == len(scores.keys):
        return scores
    order = np.argsort(firsts)  # of the keys, as they were met
    places, firsts = np.argsort(order)[places], firsts[order]
    sums = []
    for table in (scores.trained, scores.all):
        sums.append(np.zeros((len(firsts), len(SUMS))))
        np.add.at(sums[-1], places, table)
    pieces = np.split(scores.ids[np.argsort(places, kind="stable")], np.cumsum(np.bincount(places))[:-1])
    ids = np.array([each[0] if len(each) == 1 else _hash(each.tobytes()) for each in pieces], dtype=np.int64)
    return replace(
        scores, trained=sums[0], all=sums[1], keys=scores.keys[firsts], groups=scores.groups[firsts], ids=ids
    )


def score_batches(model: Any, batches: Iterable[Mapping[str, torch.Tensor]]) -> Scores:
    """Score the labelled tokens of batches of `input_ids`, `labels` [B, T] and other model inputs: each row is taken
    for one conversation, and its place for its key. As `score` else."""
    return _scores(model, None, _numbered(batches), "trained")


class _Span(NamedTuple):
    """Where in a batch a conversation stands, and which one it is."""

    row: int
    first: int
    end: int
    number: int
    group: str
    key: int


_Batch = tuple[Mapping[str, torch.Tensor], list[_Span]]


def _batches(model: Any, items: Iterable[Item], length: int, packed: bool, pad_id: int) -> Iterator[_Batch]:
    """Rows that are run together: a few conversations are packed at a time."""
    numbered = enumerate(items)
    vocabulary = under_adapters(model).get_output_embeddings().weight.shape[0]
    size = max(1, min(_TOKENS_A_BATCH, positions_at_once(vocabulary)) // length)
    while chunk := list(islice(numbered, _CHUNK)):
        numbers = {id(item.row): (number, item.group, item.key) for number, item in chunk}
        encoded = [item.row for _, item in chunk]
        rows = pack(encoded, length).rows if packed else [[row] for row in sorted(encoded, key=lambda r: len(r.ids))]
        for first in range(0, len(rows), size):
            some = rows[first : first + size]
            spans = []
            for number, row in enumerate(some):
                at = 0
                for each in row:
                    spans.append(_Span(number, at, at := at + len(each.ids), *numbers[id(each)]))
            yield collate_packed(some, length, pad_id) if packed else collate_padded(some, pad_id), spans


def _numbered(batches: Iterable[Mapping[str, torch.Tensor]]) -> Iterator[_Batch]:
    count = 0
    for batch in batches:
        rows, length = batch["input_ids"].shape
        yield batch, [_Span(row, 0, length, count + row, "", count + row) for row in range(rows)]
        count += rows


@torch.no_grad()
def _scores(model: Any, tokenizer: Any, batches: Iterable[_Batch], tokens: Tokens) -> Scores:
    started = time.perf_counter()
    inner = under_adapters(model)
    head, device = inner.get_output_embeddings(), inner.get_input_embeddings().weight.device
    table: list[tuple[_Span, int, np.ndarray]] = []
    positions = np.zeros((2, _POSITIONS, 4))
    with in_eval(model), packed_attention(model):
        for (batch, spans), counts in ranks.shared(batches):
            scored = _scored(batch, spans, tokens)
            check_ids(inner, batch["input_ids"])
            # weights shape what is trained; what is measured is nats per token
            inputs = {name: tensor.to(device) for name, tensor in inputs_of(batch).items()}
            labels = batch["labels"].to(device)
            # a label is what is to follow, be it another token than the input at its place
            ids = torch.where(labels != IGNORED, labels, inputs["input_ids"])
            found = token_scores(model, head, inputs, scored.to(device), head.weight.shape[0], ids)
            columns = np.zeros((*scored.shape, 4))
            nats, rank = found.nats.numpy(), found.rank.numpy()
            columns[scored.numpy()] = np.stack([nats, np.ones_like(nats), rank < 1, rank < 5], 1)
            for span in spans if counts else ():
                table.append((span, *_sums(batch, span, columns, tokenizer, positions)))
    parts = ranks.of_all((table, positions))
    whole = sorted((entry for part, _ in parts for entry in part), key=lambda entry: entry[0].number)
    sums = np.array([entry[2] for entry in whole]).reshape(-1, 2, len(SUMS))
    if not np.isfinite(sums).all():
        record = record_of(inner)
        linear = unbounded(record.specs.values()) if record is not None else ""
        ran_away = (
            f"a token ran away, since {linear} bounds none (go on with `unnorm recover --straighten 70%`), "
            if linear
            else ""
        )
        raise NonFiniteError(
            f"the logits are not finite on the held-out tokens: {name_of(inner)} gives a token a loss of NaN or "
            f"infinity. Either {ran_away}what was trained has diverged (lower the learning rate), or its weights do "
            "not fit this precision (use fp32)."
        )
    if tokens == "trained" and not sums[:, 0, 1].sum():
        raise DataError("there is no labelled token to evaluate on: every label is -100.")
    return Scores(
        trained=sums[:, 0],
        all=sums[:, 1] if tokens == "all" else np.zeros_like(sums[:, 1]),
        keys=np.array([span.key for span, *_ in whole], dtype=np.int64),
        groups=np.array([span.group for span, *_ in whole], dtype=object),
        ids=np.array([digest for _, digest, _ in whole], dtype=np.int64),
        positions=np.sum([each for _, each in parts], axis=0),
        seconds=time.perf_counter() - started,
    )


def _scored(batch: Mapping[str, torch.Tensor], spans: list[_Span], tokens: Tokens) -> torch.Tensor:
    """Which tokens of a batch are scored, [B, T]: a conversation's first one follows nothing."""
    scored = torch.zeros_like(batch["input_ids"], dtype=torch.bool, device="cpu")
    trained = batch["labels"].cpu() != IGNORED
    for span in spans:
        part = (span.row, slice(span.first + 1, span.end))
        scored[part] = trained[part] if tokens == "trained" else True
    return scored


def _sums(
    batch: Mapping[str, torch.Tensor], span: _Span, columns: np.ndarray, tokenizer: Any, positions: np.ndarray
) -> tuple[int, np.ndarray]:
    """A conversation's digest, and its sums [2, 5]; `columns` [B, T, 4] also go into `positions`, where they belong."""
    ids, labels = (batch[name][span.row, span.first : span.end].cpu().numpy() for name in ("input_ids", "labels"))
    own = columns[span.row, span.first + 1 : span.end]
    bucket = np.log2(np.arange(1, len(ids))).astype(int).clip(max=_POSITIONS - 1)
    sums = np.zeros((2, len(SUMS)))
    for which, counted in enumerate((labels[1:] != IGNORED, own[:, 1] > 0)):
        np.add.at(positions[which], bucket[counted], own[counted])
        text = tokenizer.decode(ids[1:][counted], skip_special_tokens=True) if tokenizer is not None else ""
        sums[which] = *own[counted].sum(0), len(text.encode("utf-8", "surrogatepass"))
    return _digest(ids, labels), sums


def _digest(ids: np.ndarray, labels: np.ndarray) -> int:
    return _hash(ids.astype(np.int64).tobytes() + (labels != IGNORED).tobytes())


def _hash(content: bytes) -> int:
    import xxhash

    return xxhash.xxh3_64_intdigest(content) >> 1  # fits int64


class ConversationSums(NamedTuple):
    """Over the trained tokens of n conversations: nats [n] fp64, tokens [n] and correct [n] int64 (those that were the
    most likely one). ids [n] int64: digests of what each conversation is, to see that two tables are about the same."""

    nats: np.ndarray
    tokens: np.ndarray
    correct: np.ndarray
    ids: np.ndarray


def trained_sums(scores: Scores) -> ConversationSums:
    """What `scores` say of each conversation's trained tokens."""
    nats, tokens, correct, *_ = scores.trained.T
    return ConversationSums(nats, tokens.astype(np.int64), correct.astype(np.int64), scores.ids)


def write_sums(path: Path, sums: ConversationSums) -> None:
    """Write a Parquet file, one row a conversation."""
    import pyarrow as pa

    atomic.write_bytes(path, parquet_bytes(pa.table(sums._asdict())))


def read_sums(path: Path) -> ConversationSums:
    """Read what `write_sums` wrote. A file that is none is an `ArtefactError`."""
    advice = "cannot be read as scores of conversations. Delete its cell and run again."
    columns = read_columns(path, ConversationSums._fields, advice)
    return ConversationSums(*(column.to_numpy() for column in columns))
