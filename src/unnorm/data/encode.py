"""Encode conversations: token ids, and for each token whether it is trained on.

Prompt and answer are tokenized apart, so that the boundary is exact. The eos after a trained answer is trained, else
stopping is never learnt. The first token's label is masked: in a packed row it would be predicted from another
conversation. What looks like a special token in the data is text.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from unnorm.data.chat_template import Refused, special_texts
from unnorm.data.conversation import Conversation, Message, Piece
from unnorm.data.rounds import group, part_of, rounds_of
from unnorm.data.settings import LossOn, TooLong
from unnorm.data.templates import Template, template_of
from unnorm.foundation.progress import Bar
from unnorm.metrics.token_sums import IGNORED


class Text(NamedTuple):
    """literal: whether what looks like a special token in it is plain text."""

    text: str
    literal: bool


class Tokens:
    """A tokenizer for batches of texts, which a fast one spreads over threads of its own. `bos` begins every
    conversation, if the tokenizer sets it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.eos: int = tokenizer.eos_token_id
        self.bos: int | None = bos_of(tokenizer)
        self._fast: Any = None
        if getattr(tokenizer, "is_fast", False):
            from tokenizers import Tokenizer

            self._fast = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # ours: settings of it are changed
            self._fast.no_truncation()
            self._fast.no_padding()

    def ids(self, texts: Sequence[Text]) -> list[np.ndarray]:
        """int64 ids [T] of each text, without bos or eos."""
        found: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(texts)
        for literal in (True, False):
            places = [i for i, text in enumerate(texts) if text.literal is literal]
            if places:
                rows = self._encode([texts[i].text for i in places], literal)
                for place, row in zip(places, rows, strict=True):
                    found[place] = np.array(row, dtype=np.int64)
        return found

    def _encode(self, texts: list[str], literal: bool) -> list[list[int]]:
        if self._fast is not None:
            self._fast.encode_special_tokens = literal
            return [encoding.ids for encoding in self._fast.encode_batch_fast(texts, add_special_tokens=False)]
        return [
            self.tokenizer(text, add_special_tokens=False, split_special_tokens=literal, verbose=False)["input_ids"]
            for text in texts
        ]


_CHUNK = 1024  # conversations


class Encoded(NamedTuple):
    """One conversation, or a piece of one that was split. ids [T] int64; labels [T] int64, `IGNORED` where a token is
    not trained on; weights [T] fp32, what each label counts in the loss, or None where each counts 1. conversation:
    which one it is of those that were encoded together, the same for all its pieces; None where that is not known."""

    ids: np.ndarray
    labels: np.ndarray
    weights: np.ndarray | None = None
    conversation: int | None = None

    @property
    def label_weights(self) -> np.ndarray:
        """What each token counts in the loss, [T] fp32: 0 where it is not trained."""
        return (self.labels != IGNORED).astype(np.float32) if self.weights is None else self.weights


class Encoding(NamedTuple):
    """Encoded conversations, those dropped by reason, and those cut or split by reason."""

    rows: list[Encoded]
    dropped: Counter[str]
    changed: Counter[str]


def encode(
    conversations: Sequence[Conversation],
    tokenizer: Any,
    *,
    template: str,
    max_length: int,
    loss_on: LossOn = "answer",
    too_long: TooLong = "drop",
    tokens: int | None = None,
    quiet: bool = False,
) -> Encoding:
    """Encode in order, until `tokens` tokens are reached (all, if None).

    too_long: what becomes of a conversation of more than `max_length` tokens. By default it is dropped, not cut: a cut
    answer would teach never to stop.
    """
    result = Encoding([], Counter(), Counter())
    count = 0
    encoder = Encoder(tokenizer, template, max_length, loss_on, too_long)
    for number, (_, rows) in enumerate(encoder.each(conversations, result, quiet=quiet)):
        for row in rows:
            result.rows.append(row._replace(conversation=number))
            count += len(row.ids)
            if tokens is not None and count >= tokens:
                return result
    return result


def encode_prompt(text: str, tokenizer: Any) -> list[int]:
    """Token ids of a prompt, as `encode` would begin a conversation with it. Special tokens in it are special."""
    ids = list(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    bos = bos_of(tokenizer)
    return ids if bos is None or ids[:1] == [bos] else [bos, *ids]


class Encoder:
    """A tokenizer, a template, what of it is trained, and what becomes of what is too long."""

    def __init__(
        self, tokenizer: Any, template: str, max_length: int, loss_on: LossOn = "answer", too_long: TooLong = "drop"
    ) -> None:
        self.tokens = Tokens(tokenizer)
        self.template: Template = template_of(template, tokenizer)
        self.specials = [] if self.template.literal else special_texts(tokenizer)
        self.max_length, self.loss_on, self.too_long = max_length, loss_on, too_long

    def each(
        self, conversations: Sequence[Conversation], result: Encoding, *, quiet: bool = False
    ) -> Iterator[tuple[int, list[Encoded]]]:
        """For each conversation in order: its tokens (0 if the template takes it not), and the rows made of it.

        What is dropped and changed is counted in `result`, to which the rows are left to be added.
        """
        count = 0
        with Bar("encoding", len(conversations), quiet=quiet) as bar:
            for number, (conversation, row) in enumerate(self.stream(conversations), 1):
                if number % _CHUNK == 0:
                    bar.advance(_CHUNK, f"{count:,} tokens")
                if isinstance(row, str):
                    result.dropped[row] += 1
                    yield 0, []
                    continue
                count += len(row.ids)
                fitting = self._fit(conversation, row, result)
                trained = [fit for fit in fitting if (fit.labels != IGNORED).any()]
                if len(trained) < len(fitting):
                    result.dropped["nothing in it is trained"] += len(fitting) - len(trained)
                yield len(row.ids), trained

    def stream(self, conversations: Sequence[Conversation]) -> Iterator[tuple[Conversation, Encoded | str]]:
        """Each conversation with its row, in order, as long as it comes out; or with why the template makes none."""
        for first in range(0, len(conversations), _CHUNK):
            texts: list[Text] = []
            chunk = conversations[first : first + _CHUNK]
            rendered = [(conversation, self._render(conversation, texts)) for conversation in chunk]
            ids = self.tokens.ids(texts)
            at = 0
            for conversation, pieces in rendered:
                if isinstance(pieces, str):
                    yield conversation, pieces
                    continue
                parts = []
                for piece, count in pieces:
                    parts.append((piece, np.concatenate(ids[at : at + count]) if count != 1 else ids[at]))
                    at += count
                yield conversation, self._join(conversation, parts)

    def row(self, conversation: Conversation) -> Encoded | str:
        """The row of one conversation, or why there is none."""
        return next(self.stream([conversation]))[1]

    def _render(self, conversation: Conversation, texts: list[Text]) -> list[tuple[Piece, int]] | str:
        """The conversation's pieces, each with how many texts it adds to `texts`; or why it has none."""
        try:
            pieces = self.template.render(conversation.messages)
        except Refused as error:
            return str(error)
        if not pieces:
            return "the template makes no text of it"
        apart = _apart(pieces, conversation.messages, self.specials, self.template.literal)
        if apart is None:
            return "holds a special token that cannot be told from the template's"
        texts += [text for parts in apart for text in parts]
        return [(piece, len(parts)) for piece, parts in zip(pieces, apart, strict=True)]

    def _join(self, conversation: Conversation, pieces: list[tuple[Piece, np.ndarray]]) -> Encoded:
        weights = self._weights(conversation.messages)
        ids: list[np.ndarray] = []
        counted: list[tuple[float, int]] = []
        if self.tokens.bos is not None and not _is(pieces[0][1][:1], self.tokens.bos):
            ids.append(np.array([self.tokens.bos]))
            counted.append((0.0, 1))
        for piece, part in pieces:
            # what opens an answer, or stands after its end, is not the model's to say
            says = piece.answer or self.loss_on == "all" or conversation.messages[piece.turn].role != "assistant"
            weight = weights[piece.turn] if says else 0.0
            if piece.ends and (self.template.literal or not _is(part[-1:], self.tokens.eos)):
                part = np.append(part, self.tokens.eos)
            ids.append(part)
            counted.append((weight, len(part)))
        every = np.concatenate(ids)
        weight_of = np.repeat([w for w, _ in counted], [n for _, n in counted]).astype(np.float32)
        weight_of[0] = 0
        labels = np.where(weight_of > 0, every, IGNORED)
        plain = not any(w not in (0.0, 1.0) for w, _ in counted)
        return Encoded(every, labels, None if plain else weight_of)

    def _weights(self, messages: Sequence[Message]) -> list[float]:
        """What the tokens of each turn count; 0 where the turn is not trained."""
        last = max((i for i, m in enumerate(messages) if m.role in ("assistant", "text")), default=-1)
        found = []
        for turn, message in enumerate(messages):
            if self.loss_on == "all" or message.role == "text":
                trained = True
            elif self.loss_on == "answer":
                trained = message.role == "assistant"
            elif self.loss_on == "last":
                trained = turn == last
            else:
                trained = message.role in self.loss_on
            found.append((1.0 if message.weight is None else message.weight) if trained else 0.0)
        return found

    def _fit(self, conversation: Conversation, row: Encoded, result: Encoding) -> list[Encoded]:
        """The row if it is not too long, else what the policy makes of it; counted in `result`."""
        most, too_long = self.max_length, self.too_long
        if len(row.ids) <= most:
            return [row]
        if too_long == "drop":
            result.dropped[f"longer than {most} tokens"] += 1
            return []
        if too_long == "split":
            plain = conversation.messages[0].role == "text"
            return self._cut(row, result) if plain else self._split(conversation, result)
        if too_long == "keep-start":
            kept, reason = np.arange(most), f"cut to its first {most} tokens"
        else:
            kept, reason = np.arange(len(row.ids) - most, len(row.ids)), f"cut to its last {most} tokens"
            if _is(row.ids[:1], self.tokens.bos):
                kept[0] = 0
        part = _taken(row, kept)
        if (part.labels != IGNORED).any():
            result.changed[reason] += 1
        return [part]

    def _cut(self, row: Encoded, result: Encoding) -> list[Encoded]:
        """A text without turns as rows of `max_length` tokens, one after the other; each begins with bos if it does."""
        head = int(_is(row.ids[:1], self.tokens.bos))
        rest, size = np.arange(head, len(row.ids)), self.max_length - head
        parts = [np.append(np.arange(head), rest[at : at + size]) for at in range(0, len(rest), size)]
        result.changed[f"cut to pieces of {self.max_length} tokens"] += 1
        return [_taken(row, kept) for kept in parts if len(kept) > 1]  # nothing predicts a token that stands alone

    def _split(self, conversation: Conversation, result: Encoding) -> list[Encoded]:
        """The conversation as rows of whole rounds, each of which begins with its system turns."""
        most = self.max_length
        rounds = rounds_of(conversation.messages)
        alone = [self.row(part_of(conversation, rounds, [i])) for i in range(len(rounds.rounds))]
        lengths = [most + 1 if isinstance(row, str) else len(row.ids) for row in alone]
        found = []
        for chosen in group(lengths, most):
            together = self.row(part_of(conversation, rounds, chosen)) if len(chosen) > 1 else alone[chosen[0]]
            # a template may make more of several rounds than of each alone: then each stands alone
            fits = not isinstance(together, str) and len(together.ids) <= most
            for row in [together] if fits or len(chosen) == 1 else [alone[i] for i in chosen]:
                if isinstance(row, str):
                    result.dropped[row] += 1
                elif len(row.ids) > most:
                    result.dropped[f"a single round longer than {most} tokens"] += 1
                else:
                    found.append(row)
        if len(found) > 1:
            result.changed["split by rounds"] += 1
        return found


def _apart(
    pieces: Sequence[Piece], messages: Sequence[Message], specials: Sequence[str], literal: bool
) -> list[list[Text]] | None:
    """The texts of each piece: one, or more where the data holds what looks like a special token (one of `specials`).

    Such data is cut out of what the template put around it, to be tokenized as plain text. None, if a template changed
    it, or if it stands in a turn more than once, so that it cannot be told from the template's own.
    """
    apart = [[Text(piece.text, literal)] for piece in pieces]
    for turn, message in enumerate(messages):
        for content in {message.content.strip(), message.input.strip()}:
            if not any(special in content for special in specials):
                continue
            places = [
                (i, j)
                for i, piece in enumerate(pieces)
                if piece.turn == turn
                for j, text in enumerate(apart[i])
                for _ in range(text.text.count(content))
            ]
            if len(places) != 1:
                return None
            ((i, j),) = places
            before, _, after = apart[i][j].text.partition(content)
            cut = [Text(before, False), Text(content, True), Text(after, False)]
            apart[i][j : j + 1] = [text for text in cut if text.text]
    return apart


def _taken(row: Encoded, kept: np.ndarray) -> Encoded:
    """The tokens of `row` at the places `kept`, of which nothing predicts the first."""
    labels, weights = row.labels[kept], None if row.weights is None else row.weights[kept]
    labels[0] = IGNORED
    if weights is not None:
        weights[0] = 0
    return Encoded(row.ids[kept], labels, weights)


def _is(one: np.ndarray, token: int | None) -> bool:
    """Whether a slice of one id, or of none, holds `token`."""
    return bool(one.tolist() == [token])


def bos_of(tokenizer: Any) -> int | None:
    """The bos token's id, if the tokenizer begins every text with it on its own account."""
    ids = tokenizer("a")["input_ids"]
    bos: int | None = tokenizer.bos_token_id
    return bos if bos is not None and list(ids[:1]) == [bos] else None
