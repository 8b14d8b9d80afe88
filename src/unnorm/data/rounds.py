"""A long conversation split by rounds: a question and what follows it until the next one. No round is lost."""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

from unnorm.data.conversation import Conversation, Message


class Rounds(NamedTuple):
    """head: system turns at the start, which every part repeats. rounds: every other turn, in order, each once."""

    head: tuple[Message, ...]
    rounds: list[tuple[Message, ...]]


def rounds_of(messages: Sequence[Message]) -> Rounds:
    """The rounds of a conversation. What stands between the head and the first question belongs to the first round."""
    start = next((i for i, message in enumerate(messages) if message.role != "system"), len(messages))
    begins = [i for i in range(start, len(messages)) if messages[i].role == "user"]
    begins = [start, *begins[1:]] if start < len(messages) else []
    ends = [*begins[1:], len(messages)] if begins else []
    return Rounds(tuple(messages[:start]), [tuple(messages[a:b]) for a, b in zip(begins, ends, strict=True)])


def group(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Indices of rounds in groups of neighbours whose lengths sum to `most` at most; as few groups as can be.

    A round longer than that has a group of its own, so that its neighbours never become each other's.
    """
    groups: list[list[int]] = []
    total = most + 1
    for index, length in enumerate(lengths):
        if total + length > most:
            groups.append([])
            total = 0
        groups[-1].append(index)
        total += length
    return groups


def part_of(conversation: Conversation, rounds: Rounds, chosen: Sequence[int]) -> Conversation:
    """The conversation of the head and the chosen rounds."""
    turns = rounds.head + tuple(message for index in chosen for message in rounds.rounds[index])
    return replace(conversation, messages=turns, changes=(*conversation.changes, "split by rounds"))
