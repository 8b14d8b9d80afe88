"""What is done about the oddities of real conversations: each an option, each change counted with its reason.

Nothing is dropped for a word it holds.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from unnorm.data.conversation import Conversation, Message

# How ChatGPT's page wraps a turn. HTML that someone asked for, or asks about, begins otherwise.
_PAGE = re.compile(
    r'\s*<div class="[^"]*(markdown prose|\bwhitespace-pre-wrap\b|flex flex-col items-start gap-)', re.IGNORECASE
)
_FENCED_OR_GAP = re.compile(r"(```.*?```)|\n{3,}", re.DOTALL)
_ANY = re.compile(r"<(p|div|span)\b[^>]*>")
# Above each block of code the page writes its language, beside a button.
_CODE_HEADER = re.compile(r"<span\b[^>]*>[^<]*</span>\s*(?=<button\b[^>]*>(?:(?!</button>).)*Copy code)", re.DOTALL)
_COPY_BUTTON = re.compile(r"<button\b[^>]*>.*?</button>", re.DOTALL | re.IGNORECASE)

# Joiners between letters (U+200C, U+200D) stay: Persian, Hindi and emoji are spelt with them.
_ZERO_WIDTH = re.compile("[\u200b\u2060\ufeff]")
_NO_INPUT = re.compile(r"\W*no[\s_-]*input(\s+(required|needed|necessary|given|provided))?\W*", re.IGNORECASE)

CALLS = "calls a tool (policy tool_calls: drop)"
NO_CALL = "a tool's result without its call"
NO_RESULT = "a tool call without its result"
EMPTY_RESULT = "a tool's result that is empty"
TOO_DEEP = "HTML that is nested too deeply"


class Policies(BaseModel):
    """What is done about each oddity."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    continuations: Literal["join", "apart", "drop"] = Field(
        default="join", description="rows whose id says that they continue another: join, leave apart, drop"
    )
    leading_answer: Literal["drop", "context"] = Field(
        default="drop", description="an answer before any question: drop the turn, or keep it as untrained context"
    )
    same_role: Literal["merge", "drop"] = Field(
        default="merge", description="two turns of one role in a row: merge them, or drop the conversation"
    )
    tool_calls: Literal["drop", "text"] = Field(
        default="drop", description="a tool call beside the text of a turn: drop the conversation, or write it as text"
    )
    html: Literal["markdown", "keep"] = Field(
        default="markdown", description="a turn that was saved as HTML: turn it into Markdown, or keep it"
    )
    zero_width: Literal["strip", "keep"] = Field(
        default="strip", description="zero-width spaces and byte order marks: strip or keep"
    )
    no_input: Literal["empty", "keep"] = Field(
        default="empty", description='an Alpaca input that only says "no input": make it empty, or keep it'
    )
    languages: tuple[str, ...] | None = Field(
        default=None, description="only conversations that the source says are in these; default: all"
    )


def tidy(conversation: Conversation, policies: Policies) -> Conversation | str:
    """The conversation under `policies`, its changes listed; or the reason why nothing is left to train on."""
    if policies.languages is not None:
        if conversation.language is None:
            return "language not known"
        if conversation.language.lower() not in {language.lower() for language in policies.languages}:
            return "in another language"
    changes = list(conversation.changes)
    cleaned = _clean(conversation.messages, policies, changes)
    with_calls = cleaned if isinstance(cleaned, str) else _tools(conversation.messages, cleaned, policies, changes)
    if isinstance(with_calls, str):
        return with_calls
    messages = with_calls
    if any(message.role == "text" for message in conversation.messages):
        if not messages:
            return "empty text"
        return replace(conversation, messages=tuple(messages), changes=tuple(changes))
    if policies.leading_answer == "drop" and not any(message.role == "user" for message in messages):
        return "no question"
    messages = _lead(messages, policies, changes)
    if policies.same_role == "merge":
        messages = _merge(messages, changes)
    elif any(a.role == b.role != "tool" for a, b in pairwise(messages)):
        return "two turns of one role in a row"
    while messages and messages[-1].role != "assistant":
        messages.pop()
        _note(changes, "closing turn without an answer dropped")
    speakers = ["", *(message.role for message in messages)]
    if any(role == "tool" and before not in ("assistant", "tool") for before, role in pairwise(speakers)):
        return NO_CALL
    if not any(message.role == "assistant" and message.weight != 0 for message in messages):
        return "no answer"
    return replace(conversation, messages=tuple(messages), changes=tuple(changes))


def _tools(
    messages: Sequence[Message], cleaned: list[Message], policies: Policies, changes: list[str]
) -> list[Message] | str:
    """The turns with their calls of tools at the end of their text; or why none can be trained on.

    What came back from a tool is never gone in silence: an answer to it would be learnt as an answer to something else.
    """
    calls = any(message.calls for message in cleaned)
    if calls and policies.tool_calls == "drop":
        return CALLS
    if sum(message.role == "tool" for message in cleaned) < sum(message.role == "tool" for message in messages):
        return EMPTY_RESULT
    if any(before.calls and after.role == "assistant" and not after.calls for before, after in pairwise(cleaned)):
        return NO_RESULT
    if not calls:
        return cleaned
    _note(changes, "tool calls written as text")
    texts = ("\n".join(text for text in (m.content, m.calls) if text.strip()) for m in cleaned)
    return [replace(m, content=text, calls="") if m.calls else m for m, text in zip(cleaned, texts, strict=True)]


def _clean(messages: Sequence[Message], policies: Policies, changes: list[str]) -> list[Message] | str:
    """Each turn on its own, or why that cannot be; those that are or become empty are gone."""
    cleaned = []
    for message in messages:
        if policies.html == "markdown" and _PAGE.match(message.content):
            content = _to_markdown(message.content)
            if content is None:
                return TOO_DEEP
            message = replace(message, content=content)
            _note(changes, "HTML turned into Markdown")
        if policies.zero_width == "strip" and _ZERO_WIDTH.search(message.content + message.input):
            content, given = (_ZERO_WIDTH.sub("", text) for text in (message.content, message.input))
            message = replace(message, content=content, input=given)
            _note(changes, "zero-width characters stripped")
        if policies.no_input == "empty" and message.input and _NO_INPUT.fullmatch(message.input):
            message = replace(message, input="")
            _note(changes, '"no input" made an empty input')
        if message.content.strip() or message.calls:
            cleaned.append(message)
        else:
            _note(changes, "empty turn dropped")
    return cleaned


def _merge(messages: list[Message], changes: list[str]) -> list[Message]:
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role != "tool":
            before = merged[-1]
            weights = {before.weight, message.weight}
            # of two that weigh differently the lighter one decides: what is marked as context is never trained
            weight = weights.pop() if len(weights) == 1 else min(1.0 if w is None else w for w in weights)
            given = "\n\n".join(text for text in (before.input, message.input) if text)
            merged[-1] = Message(message.role, f"{before.content}\n\n{message.content}", given, weight)
            _note(changes, "turns of one role merged")
        else:
            merged.append(message)
    return merged


def _lead(messages: list[Message], policies: Policies, changes: list[str]) -> list[Message]:
    """What stands before the first question: system turns stay, answers go or become context."""
    first = next((i for i, message in enumerate(messages) if message.role == "user"), len(messages))
    led = [message for message in messages[:first] if message.role == "system"]
    if len(led) < first:
        if policies.leading_answer == "context":
            led = [replace(message, weight=0.0) for message in messages[:first]]
            _note(changes, "leading answer kept as context")
        else:
            _note(changes, "leading answer dropped")
    return led + messages[first:]


def _note(changes: list[str], reason: str) -> None:
    if reason not in changes:
        changes.append(reason)


def holds_html(text: str) -> bool:
    """Whether there is an HTML element of running text anywhere in it, be it as markup or as something talked about."""
    return _ANY.search(text) is not None


def _to_markdown(html: str) -> str | None:
    """The Markdown of a saved turn: headings, lists, tables, fences of code; without the page's buttons and labels.

    None for elements within elements within elements, deeper than can be followed.
    """
    from markdownify import markdownify

    try:
        text = markdownify(
            _COPY_BUTTON.sub("", _CODE_HEADER.sub("", html)),
            heading_style="ATX",
            bullets="-",
            escape_misc=False,
            code_language_callback=_language,
        )
    except RecursionError:
        return None
    return _FENCED_OR_GAP.sub(lambda found: found[1] or "\n\n", text).strip()


def _language(block: Any) -> str:
    """What a block of code is written in, by the class of its `code` element; empty where it does not say."""
    code = block.find("code")
    classes = (code.get("class") or []) if code is not None else []
    return next((name.removeprefix("language-") for name in classes if name.startswith("language-")), "")
