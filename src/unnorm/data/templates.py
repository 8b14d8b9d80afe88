"""How a conversation becomes text: templates that give each turn's text, and say which of it is an answer."""

from unnorm.data.conversation import Conversation, Message
from unnorm.foundation.errors import DataError

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

TEMPLATES = {"alpaca": (_ALPACA, _ALPACA_WITH_INPUT), "alpaca-short": (_SHORT, _SHORT_WITH_INPUT)}
"""Name -> (prompt without input, prompt with input). `alpaca` is the original's wording; `alpaca-short` drops its
preamble, which saves some 30 tokens a row."""


def prompt_text(message: Message, template: str) -> str:
    """The text that asks for an answer to `message`."""
    if template not in TEMPLATES:
        raise DataError(f"there is no template {template!r}. Known templates: {', '.join(TEMPLATES)}.")
    plain, with_input = TEMPLATES[template]
    # str.replace, not str.format: braces in data are text
    form = with_input if message.input.strip() else plain
    before, _, after = form.partition("{content}")
    return before + message.content + after.replace("{input}", message.input, 1)


def render(conversation: Conversation, template: str) -> list[tuple[str, bool]]:
    """The conversation as pieces of text in order: (text, whether it is an answer)."""
    pieces = []
    for message in conversation.messages:
        if message.role == "assistant":
            pieces.append((message.content, True))
        else:
            pieces.append((prompt_text(message, template), False))
    return pieces
