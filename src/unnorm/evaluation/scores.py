"""Scores of a model, conversation by conversation: what every loss, accuracy and interval is made of.

Streams: conversations are taken a few rows at a time, and of each only a handful of sums is kept.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch

from unnorm.data.encode import Encoded
from unnorm.data.packing import collate_packed, collate_padded, pack
from unnorm.foundation import ranks
from unnorm.foundation.errors import NonFiniteError
from unnorm.metrics.token_scores import positions_at_once, token_scores
from unnorm.metrics.token_sums import IGNORED
from unnorm.surgery.base import under_adapters
from unnorm.surgery.finite import check_finite, name_of
from unnorm.surgery.vocabulary import check_ids

SUMS = ("nats", "tokens", "top1", "top5", "bytes")
_CHUNK = 64  # conversations packed together
_TOKENS_A_BATCH = 4096


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
    2^(k+1) − 1.
    """

    trained: np.ndarray
    all: np.ndarray
    keys: np.ndarray
    groups: np.ndarray
    ids: np.ndarray
    positions: np.ndarray

    def of(self, chosen: np.ndarray) -> "Scores":
        """Those of some conversations [n] bool; `positions` stay those of all."""
        parts = (self.trained[chosen], self.all[chosen], self.keys[chosen], self.groups[chosen], self.ids[chosen])
        return Scores(*parts, self.positions)


_POSITIONS = 20


@torch.no_grad()
def score(
    model: Any, tokenizer: Any, items: Iterable[Item], *, max_length: int, packed: bool, pad_id: int | None = None
) -> Scores:
    """Score every conversation of `items`, in their order. The model is left in its mode.

    Under torch.distributed each process takes its share of the batches, and all get the whole. Raises
    `ModelError` for a model whose logits are not finite, `NonFiniteError` where they become so on a conversation.
    """
    check_finite(model)
    inner = under_adapters(model)
    scorer = _Scorer(model, inner, tokenizer, max_length, packed, tokenizer.eos_token_id if pad_id is None else pad_id)
    was_training = model.training
    model.eval()
    try:
        for batch, counts in ranks.shared(scorer.batches(items)):
            scorer.add(batch, counts)
    finally:
        model.train(was_training)
    return scorer.scores()


class _Batch(NamedTuple):
    """rows: packed; numbers: each conversation's place and item, by the id of its row."""

    rows: list[list[Encoded]]
    numbers: dict[int, tuple[int, Item]]


class _Scorer:
    def __init__(self, model: Any, inner: Any, tokenizer: Any, length: int, packed: bool, pad_id: int) -> None:
        self.model, self.inner, self.tokenizer = model, inner, tokenizer
        self.length, self.packed, self.pad_id = length, packed, pad_id
        self.vocabulary = inner.get_output_embeddings().weight.shape[0]
        self.device = inner.get_input_embeddings().weight.device
        self.table: list[tuple[int, int, str, int, np.ndarray]] = []
        self.positions = np.zeros((2, _POSITIONS, 4))

    def batches(self, items: Iterable[Item]) -> Iterator[_Batch]:
        """Rows that are run together: a few conversations are packed at a time."""
        numbered = enumerate(items)
        size = max(1, min(_TOKENS_A_BATCH, positions_at_once(self.vocabulary)) // self.length)
        while chunk := list(islice(numbered, _CHUNK)):
            numbers = {id(item.row): (number, item) for number, item in chunk}
            rows = [item.row for _, item in chunk]
            packed = pack(rows, self.length).rows if self.packed else [[row] for row in sorted(rows, key=_length)]
            for first in range(0, len(packed), size):
                yield _Batch(packed[first : first + size], numbers)

    def add(self, batch: _Batch, counts: bool) -> None:
        """Score a batch, and keep what was found if it counts."""
        for row, nats, rank in self._scored(batch.rows):
            if counts:
                number, item = batch.numbers[id(row)]
                self._keep(number, item, nats, rank)

    def _scored(self, batch: Sequence[list[Encoded]]) -> Iterator[tuple[Encoded, np.ndarray, np.ndarray]]:
        made = collate_packed(batch, self.length, self.pad_id) if self.packed else collate_padded(batch, self.pad_id)
        check_ids(self.inner, made["input_ids"])
        inputs = {n: t.to(self.device) for n, t in made.items() if n in ("input_ids", "position_ids", "attention_mask")}
        scored = torch.zeros_like(made["input_ids"], dtype=torch.bool)
        for number, row in enumerate(batch):
            at = 0
            for item in row:
                scored[number, at + 1 : at + len(item.ids)] = True  # the first token follows nothing
                at += len(item.ids)
        head = self.inner.get_output_embeddings()
        found = token_scores(self.model, head, inputs, scored.to(self.device), self.vocabulary)
        nats, rank = found.nats.numpy(), found.rank.numpy()
        if not np.isfinite(nats).all():
            raise NonFiniteError(
                f"the logits are not finite on some of the text: {name_of(self.inner)} gives a token a loss of NaN or "
                "infinity. Its weights may not fit this precision: use fp32."
            )
        at = 0
        for row in batch:
            for item in row:
                end = at + len(item.ids) - 1
                yield item, nats[at:end], rank[at:end]
                at = end

    def _keep(self, number: int, item: Item, nats: np.ndarray, rank: np.ndarray) -> None:
        ids, trained = item.row.ids[1:], item.row.labels[1:] != IGNORED
        bucket = np.log2(np.arange(1, len(ids) + 1)).astype(int).clip(max=_POSITIONS - 1)
        columns = np.stack([nats, np.ones_like(nats), rank < 1, rank < 5], 1)
        sums = np.zeros((2, len(SUMS)))
        for which, counted in enumerate((trained, np.ones_like(trained))):
            np.add.at(self.positions[which], bucket[counted], columns[counted])
            text = self.tokenizer.decode(ids[counted], skip_special_tokens=True)
            sums[which] = *columns[counted].sum(0), len(text.encode("utf-8", "surrogatepass"))
        digest = _digest(item.row)
        self.table.append((number, item.key, item.group, digest, sums))

    def scores(self) -> Scores:
        """The whole, in the order of the items."""
        parts = ranks.of_all((self.table, self.positions))
        positions = np.sum([each for _, each in parts], axis=0)
        table = sorted((entry for part, _ in parts for entry in part), key=lambda entry: entry[0])
        sums = np.array([entry[4] for entry in table]).reshape(-1, 2, len(SUMS))
        return Scores(
            trained=sums[:, 0],
            all=sums[:, 1],
            keys=np.array([entry[1] for entry in table], dtype=np.int64),
            groups=np.array([entry[2] for entry in table], dtype=object),
            ids=np.array([entry[3] for entry in table], dtype=np.int64),
            positions=positions,
        )


def _length(row: Encoded) -> int:
    return len(row.ids)


def _digest(row: Encoded) -> int:
    import xxhash

    text = row.ids.astype(np.int64).tobytes() + (row.labels != IGNORED).tobytes()
    return xxhash.xxh3_64_intdigest(text) >> 1  # fits int64
