"""Made conversations with the oddities of real ones."""

from unnorm.data.conversation import Conversation, Message

_ROLES = {"u": "user", "a": "assistant", "s": "system", "t": "tool"}


def chat(*turns: str, row: int = 0, **fields) -> Conversation:
    """A conversation of turns written as `u:question`, `a:answer`, `s:…`, `t:…`."""
    messages = tuple(Message(_ROLES[turn[0]], turn[2:]) for turn in turns)
    return Conversation(messages, "test", row, **fields)


def said(conversation) -> list[str]:
    """The other way round."""
    return [f"{message.role[0]}:{message.content}" for message in conversation.messages]
