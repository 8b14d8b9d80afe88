"""How a conversation becomes text: templates that give each turn's text, and say which of it is an answer."""

import re
from collections.abc import Callable, Sequence
from datetime import date
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from unnorm.data.chat_template import (
    DATE,
    asks_for_date,
    chat_prompt,
    fixed,
    render_chat,
    template_text,
)
from unnorm.data.conversation import Message, Piece
from unnorm.foundation.errors import SettingsError
from unnorm.foundation.hashing import hash_json

_ALPACA_WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{content}\n\n### Input:\n{input}\n\n### Response:\n"
)
_ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{content}\n\n### Response:\n"
)
_SHORT_WITH_INPUT = "### Instruction:\n{content}\n\n### Input:\n{input}\n\n### Response:\n"
_SHORT = "### Instruction:\n{content}\n\n### Response:\n"
_PLAIN_WITH_INPUT = "{content}\n\n{input}\n\n"
_PLAIN = "{content}\n\n"

_FORMS = {
    "alpaca": (_ALPACA, _ALPACA_WITH_INPUT),
    "alpaca-short": (_SHORT, _SHORT_WITH_INPUT),
    "plain": (_PLAIN, _PLAIN_WITH_INPUT),
}
"""Name -> (prompt without input, prompt with input). `alpaca` is the original's wording; `alpaca-short` drops its
preamble, which saves some 30 tokens a row; `plain` is prompt, blank line, response."""

_BUILT_IN = (*_FORMS, "chatml")
TEMPLATES = (*_BUILT_IN, "chat")
TEMPLATE_HELP = f"{', '.join(TEMPLATES)} (the model's own), or a .jinja file"

_CHATML_END = "<|im_end|>"
_CHATML_ANSWER = "<|im_start|>assistant\n"

_DATED = re.compile(r"(.+)@(\d+-\d+-\d+)")


Render = Callable[[Sequence[Message]], list[Piece]]


class Template(NamedTuple):
    """A way to make text of conversations.

    identity: what names it in hashes; of a template that is not built in, with a hash of its text, and of the date that
    it is told if it asks for one. literal: whether its
    text holds no special tokens, so that whatever looks like one in the data is text.
    """

    identity: str
    literal: bool
    render: Render
    prompt: Callable[[Sequence[Message]], str]
    """The text that asks for an answer to messages which end in a question."""


def template_of(name: str, tokenizer: Any) -> Template:
    """The template `name` for a tokenizer: a built-in one, `chat` (the tokenizer's own), or a .jinja file.

    One that asks for today's date is told `DATE`, or the day after an @ in its name, as in `chat@2025-01-31`. Raises
    `SettingsError` if there is no such template, or if it asks for no date and is given one.
    """
    dated = _DATED.fullmatch(name)
    plain, day = (dated[1], _day(dated[2])) if dated else (name, None)
    if day is None and plain in _FORMS:
        render = partial(_render, name=name)
        return Template(name, True, render, partial(_prompt, render, ""))
    if day is None and plain == "chatml":
        return Template(name, False, _render_chatml, partial(_prompt, _render_chatml, _CHATML_ANSWER))
    if plain == "chat":
        text = chat_template_of(tokenizer)
    elif Path(plain).suffix in (".jinja", ".jinja2", ".j2"):
        text = template_text(Path(plain))
    elif plain in TEMPLATES:
        raise SettingsError(f"the template {plain} holds no date, so {name!r} means nothing. Name it {plain!r}.")
    else:
        raise SettingsError(
            f"there is no template {name!r}. Known templates: {', '.join(TEMPLATES)}, or a .jinja file."
        )
    if day is not None and not asks_for_date(text):
        raise SettingsError(f"the template {plain!r} asks for no date, so {name!r} means nothing. Name it {plain!r}.")
    known_by = [text, (day or DATE).isoformat()] if asks_for_date(text) else text
    text = fixed(text, day or DATE)
    return Template(
        f"{Path(plain).name}-{hash_json(known_by)}",
        False,
        lambda messages: render_chat(messages, tokenizer, text),
        lambda messages: chat_prompt(messages, tokenizer, text),
    )


def chat_template_of(tokenizer: Any) -> str:
    """The text of the tokenizer's own template. A `SettingsError` if it has none."""
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, dict):
        template = template.get("default")
    if not template:
        raise SettingsError(
            f"this tokenizer has no chat template of its own. Known templates that need none: {', '.join(_BUILT_IN)}, "
            "or a .jinja file."
        )
    return str(template)


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise SettingsError(f"{text!r} is no date. Write it as year-month-day, as in chat@2025-01-31.") from error


def prompt_text(message: Message, name: str) -> str:
    """The text in which a form puts `message`, ready for an answer."""
    plain, with_input = _FORMS[name]
    # str.replace, not str.format: braces in data are text
    form = with_input if message.input.strip() else plain
    before, _, after = form.partition("{content}")
    return before + message.content + after.replace("{input}", message.input, 1)


def _render(messages: Sequence[Message], name: str) -> list[Piece]:
    pieces = []
    for turn, message in enumerate(messages):
        if message.role in ("assistant", "text"):
            pieces.append(Piece(message.content, turn, answer=True, ends=True))
        elif message.role == "system":
            pieces.append(Piece(f"{message.content}\n\n", turn))
        else:
            pieces.append(Piece(prompt_text(message, name), turn))
    return pieces


def _prompt(render: Render, opens: str, messages: Sequence[Message]) -> str:
    return "".join(piece.text for piece in render(messages)) + opens


def _render_chatml(messages: Sequence[Message]) -> list[Piece]:
    pieces = []
    for turn, message in enumerate(messages):
        if message.role == "text":
            pieces.append(Piece(message.content, turn, answer=True, ends=True))
        elif message.role == "assistant":
            pieces.append(Piece(_CHATML_ANSWER, turn))
            pieces.append(Piece(message.content + _CHATML_END, turn, answer=True, ends=True))
            pieces.append(Piece("\n", turn))
        else:
            content = message.content + (f"\n\n{message.input}" if message.input.strip() else "")
            pieces.append(Piece(f"<|im_start|>{message.role}\n{content}{_CHATML_END}\n", turn))
    return pieces
