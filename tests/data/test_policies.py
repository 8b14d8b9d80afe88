import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.chats import chat, said
from unnorm.data.conversation import Conversation, Message
from unnorm.data.policies import EMPTY_RESULT, NO_CALL, TOO_DEEP, Policies, tidy

DEFAULT = Policies()


@pytest.mark.parametrize(
    ("turns", "policies", "left", "changes"),
    [
        (["u:q", "a:b"], {}, ["u:q", "a:b"], []),
        (["a:x", "u:q", "a:b"], {}, ["u:q", "a:b"], ["leading answer dropped"]),
        (["s:be kind", "a:x", "u:q", "a:b"], {}, ["s:be kind", "u:q", "a:b"], ["leading answer dropped"]),
        (["u:q", "a:b", "u:r"], {}, ["u:q", "a:b"], ["closing turn without an answer dropped"]),
        (["u:q", "u:r", "a:b"], {}, ["u:q\n\nr", "a:b"], ["turns of one role merged"]),
        (["u:q", "a:", "u:r", "a:b"], {}, ["u:q\n\nr", "a:b"], ["empty turn dropped", "turns of one role merged"]),
        (["u:q", "a:b", "t:1", "t:2", "a:c"], {}, ["u:q", "a:b", "t:1", "t:2", "a:c"], []),
        (["u:q\u200b", "a:b\ufeff"], {}, ["u:q", "a:b"], ["zero-width characters stripped"]),
        (["u:q\u200b", "a:b"], {"zero_width": "keep"}, ["u:q\u200b", "a:b"], []),
        (["u:می\u200cروم", "a:👩\u200d🚀"], {}, ["u:می\u200cروم", "a:👩\u200d🚀"], []),
    ],
)
def test_what_is_done_about_turns(turns, policies, left, changes):
    tidied = tidy(chat(*turns), Policies(**policies))
    assert said(tidied) == left
    assert list(tidied.changes) == changes


@pytest.mark.parametrize(
    ("turns", "policies", "reason"),
    [
        (["u:q"], {}, "no answer"),
        (["a:x"], {}, "no question"),
        (["a:x", "u:q"], {}, "no answer"),
        (["u:q", "a:\u200b"], {}, "no answer"),
        ([], {}, "no question"),
        (["u:q", "u:r", "a:b"], {"same_role": "drop"}, "two turns of one role in a row"),
        (["u:q", "a:b"], {"languages": ("English",)}, "language not known"),
    ],
)
def test_when_nothing_is_left(turns, policies, reason):
    assert tidy(chat(*turns), Policies(**policies)) == reason


def test_a_text_of_which_nothing_is_left_is_called_so():
    assert tidy(Conversation((Message("text", "\u200b"),), "test", 0), DEFAULT) == "empty text"


def test_a_leading_answer_kept_as_context_is_not_trained():
    tidied = tidy(chat("a:x", "u:q", "a:b"), Policies(leading_answer="context"))
    assert [message.weight for message in tidied.messages] == [0.0, None, None]
    assert tidied.changes == ("leading answer kept as context",)


def test_languages():
    only = Policies(languages=("english", "German"))
    assert tidy(chat("u:q", "a:b", language="English"), only).language == "English"
    assert tidy(chat("u:q", "a:b", language="French"), only) == "in another language"
    assert tidy(chat("u:q", "a:b", language="French"), DEFAULT).language == "French"


@pytest.mark.parametrize(
    "given", ["noinput", "<noinput>", "No input", "No Input.", '"<noinput>"', "< no input >", "No input required."]
)
def test_an_input_that_says_there_is_none(given):
    row = Conversation((Message("user", "Do", given), Message("assistant", "done")), "test", 0)
    assert tidy(row, DEFAULT).messages[0].input == ""
    assert tidy(row, DEFAULT).changes == ('"no input" made an empty input',)
    assert tidy(row, Policies(no_input="keep")).messages[0].input == given


def test_an_input_about_inputs_stays():
    row = Conversation((Message("user", "Do", "There is no input port."), Message("assistant", "done")), "test", 0)
    assert tidy(row, DEFAULT).messages[0].input == "There is no input port."


PAGE = (
    '<div class="markdown prose w-full break-words dark:prose-invert light"><p>Use <code>sorted</code>:</p><pre><div>'
    '<button class="flex">Copy code</button></div><code class="language-python">a = 1 &lt; 2\n</code></pre>'
    "<ol><li><p>One</p></li><li><p>Two</p></li></ol></div>"
)


def test_a_saved_page_becomes_markdown():
    tidied = tidy(chat("u:q", f"a:{PAGE}"), DEFAULT)
    text = tidied.messages[1].content
    assert tidied.changes == ("HTML turned into Markdown",)
    assert "Use `sorted`:" in text
    assert "```python\na = 1 < 2" in text
    assert "1. One" in text
    assert "Copy code" not in text
    assert "<" not in text.replace("1 < 2", "")
    assert tidy(chat("u:q", f"a:{PAGE}"), Policies(html="keep")).messages[1].content == PAGE


def test_code_of_a_saved_page_is_as_it_was_written():
    block = (
        '<pre><div class="bg-black"><div class="flex items-center"><span>python</span><button class="flex"><svg></svg>'
        'Copy code</button></div><div class="p-4"><code class="hljs language-python">def f():\n    <span>pass</span>'
        "\n\n\nf()\n</code></div></div></pre>"
    )
    page = f'<div class="markdown prose"><p><span>Run</span><button>Edit</button> this:</p>{block}<p>Done.</p></div>'
    text = tidy(chat("u:q", f"a:{page}"), DEFAULT).messages[1].content
    assert text == "Run this:\n\n```python\ndef f():\n    pass\n\n\nf()\n```\n\nDone."


def test_a_saved_page_that_nests_without_end_is_dropped():
    page = '<div class="markdown prose">' + "<div>" * 5000 + "x"
    assert tidy(chat("u:q", f"a:{page}"), DEFAULT) == TOO_DEEP
    assert tidy(chat("u:q", f"a:{page}"), Policies(html="keep")).messages[1].content == page


@pytest.mark.parametrize(
    "text",
    [
        "<p>Hello</p>",
        "```html\n<div class='x'>hi</div>\n```",
        '<div class="flex p-4">hi</div>',
        "Use <b> for bold",
        "a<br>b",
    ],
)
def test_html_that_is_an_answer_stays_as_it_is(text):
    tidied = tidy(chat("u:write me some HTML", f"a:{text}"), DEFAULT)
    assert tidied.messages[1].content == text
    assert tidied.changes == ()


def test_nothing_is_dropped_for_a_word_it_holds():
    for words in ("I'm sorry, as an AI language model", "OpenAI", "moralize", "http://example.org"):
        assert said(tidy(chat("u:q", f"a:{words}"), DEFAULT)) == ["u:q", f"a:{words}"]


turns = st.lists(st.tuples(st.sampled_from("uast"), st.text(max_size=6)), max_size=8)


@given(turns)
@settings(max_examples=200, deadline=None)
def test_what_is_left_is_a_conversation_and_nothing_but_odd_turns_is_gone(made):
    conversation = chat(*(f"{role}:{text}" for role, text in made))
    tidied = tidy(conversation, DEFAULT)
    if isinstance(tidied, str):
        assert tidied in ("no answer", "no question", NO_CALL, EMPTY_RESULT)
        return
    roles = [message.role for message in tidied.messages]
    assert roles[-1] == "assistant"
    assert "user" in roles
    assert all(a != b or a == "tool" for a, b in itertools.pairwise(roles))
    assert next(role for role in roles if role != "system") != "assistant"
    assert all(before in ("assistant", "tool") for before, role in itertools.pairwise(roles) if role == "tool")
    assert all(message.content.strip() for message in tidied.messages)
    if not tidied.changes:
        assert said(tidied) == said(conversation)
