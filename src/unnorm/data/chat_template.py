"""Jinja chat templates, the model's own or the user's: one rendering cut into turns where they begin and end.

A template gives text for whole conversations. What one turn adds is found by rendering with and without it: the shorter
text must be the beginning of the longer one, else there is no saying which tokens are whose. Templates run in
transformers' sandbox. A template that asks for today's date is told the same one on every day, so that the same
settings make the same rows.
"""

import re
from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import Any

from unnorm.data.conversation import Message, Piece
from unnorm.foundation.errors import DataError, SettingsError

DATE = date(2024, 7, 26)
"""What a template that asks for today's date is told, unless the user names another; Llama's own default."""

_CODES = "aAbBcdfGHIjmMpSuUVwWxXyYzZ"
_SHORTHANDS = {"D": "%m/%d/%y", "F": "%Y-%m-%d", "R": "%H:%M", "T": "%H:%M:%S", "h": "%b"}  # not known everywhere
_AT_RANDOM = re.compile(r"\|\s*random\b|\blipsum\b")


class Refused(DataError):
    """The template takes no conversation like this one, or cannot be cut into turns on it."""


def template_text(path: Path) -> str:
    """The text of a template file. A `SettingsError` if it is not there."""
    if not path.is_file():
        raise SettingsError(f"there is no template file {str(path)!r}.")
    return path.read_text(encoding="utf-8")


def asks_for_date(template: str) -> bool:
    """Whether a template can see which day it is."""
    return "strftime_now" in template


def fixed(template: str, day: date = DATE) -> str:
    """The template with a `strftime_now` of its own, which always gives `day` at 0:00.

    Raises `SettingsError` for one that draws at random: it would make other rows each time.
    """
    if match := _AT_RANDOM.search(template):
        raise SettingsError(
            f"the chat template draws at random ({match[0]}), so the same settings would make other rows each time. "
            "Save it in a .jinja file without that, and name the file."
        )
    if not asks_for_date(template):
        return template
    # A macro, because transformers lets nothing callable through to a template. The newline is the tag's own.
    values = {f"%{code}": day.strftime(f"%{code}") for code in _CODES}
    values |= {f"%-{code}": day.strftime(f"%{code}").lstrip("0") or "0" for code in "dmyHIMSj"}
    values |= {f"%{code}": day.strftime(meant) for code, meant in _SHORTHANDS.items()}
    values |= {"%e": f"{day.day:2}", "%-e": str(day.day)}
    replaced = "".join(f" | replace({key!r}, {value!r})" for key, value in values.items())
    body = f"{{{{ format | replace('%%', '\x00'){replaced} | replace('\x00', '%') }}}}"
    return f"{{% macro strftime_now(format) %}}{body}{{% endmacro %}}\n{template}"


def render_chat(messages: Sequence[Message], tokenizer: Any, template: str) -> list[Piece]:
    """The conversation as pieces: for each answer what asks for it, the answer up to its last special token, the rest.

    Raises `Refused` if the template takes no such conversation, or cannot be cut into turns.
    """
    if messages[0].role == "text":
        return [Piece(messages[0].content, 0, answer=True, ends=True)]
    whole = _text(messages, tokenizer, template, False)
    if any(message.role == "tool" for message in messages):
        _check_results(messages, tokenizer, template)
    specials = special_texts(tokenizer)
    pieces: list[Piece] = []
    at = 0
    for turn, message in enumerate(messages):
        last = turn == len(messages) - 1
        if message.role != "assistant":
            if last or messages[turn + 1].role != "assistant":
                end = len(whole) if last else _end_of(messages[: turn + 1], tokenizer, template, False, whole)
                pieces.append(Piece(whole[at:end], turn))
                at = end
            continue
        # the question before an answer ends in what opens the answer
        opened = _end_of(messages[:turn], tokenizer, template, True, whole) if turn else at
        pieces.append(Piece(whole[at:opened], max(turn - 1, 0)))
        end = len(whole) if last else _end_of(messages[: turn + 1], tokenizer, template, False, whole)
        answer = whole[opened:end]
        closed = max((answer.rfind(text) + len(text) for text in specials if text in answer), default=len(answer))
        if answer[closed:].strip():  # special tokens inside of the answer, none after it
            closed = len(answer)
        pieces.append(Piece(answer[:closed], turn, answer=True, ends=closed == len(answer)))
        pieces.append(Piece(answer[closed:], turn))
        at = end
    return [piece for piece in pieces if piece.text]


def chat_prompt(messages: Sequence[Message], tokenizer: Any, template: str) -> str:
    """The text that asks for an answer to messages which end in a question."""
    return _text(messages, tokenizer, template, True)


def _check_results(messages: Sequence[Message], tokenizer: Any, template: str) -> None:
    """Refuse a template that passes over what a tool gave back: the answer to it would follow the call itself."""
    for turn, message in enumerate(messages):
        if message.role == "tool" and turn:
            with_it, without = (_text(messages[:end], tokenizer, template, False) for end in (turn + 1, turn))
            if with_it == without:
                raise Refused("the chat template leaves out the results of tools")


def _end_of(messages: Sequence[Message], tokenizer: Any, template: str, opens: bool, whole: str) -> int:
    """Where the text of `messages` ends in the text of the whole conversation."""
    text = _text(messages, tokenizer, template, opens)
    if not whole.startswith(text):
        if opens:  # a template that knows no opening of answers: they open with themselves
            return _end_of(messages, tokenizer, template, False, whole)
        raise Refused(
            "the chat template writes earlier turns differently once later ones follow, so answers cannot be told apart"
        )
    return len(text)


def _text(messages: Sequence[Message], tokenizer: Any, template: str, opens: bool) -> str:
    turns = [{"role": m.role, "content": m.content + (f"\n\n{m.input}" if m.input.strip() else "")} for m in messages]
    try:
        return str(
            tokenizer.apply_chat_template(turns, chat_template=template, tokenize=False, add_generation_prompt=opens)
        )
    except Exception as error:  # a template raises what it likes
        line = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        raise Refused(f"the chat template refuses it: {line}") from error


def special_texts(tokenizer: Any) -> list[str]:
    """The texts that the tokenizer reads as special tokens."""
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return sorted({*map(str, tokenizer.all_special_tokens), *(str(token) for token in added.values() if token.special)})
