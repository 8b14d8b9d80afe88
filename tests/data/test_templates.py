import copy

import pytest

from data.chats import chat
from unnorm.data.chat_template import Refused
from unnorm.data.conversation import Message
from unnorm.data.templates import TEMPLATES, prompt_text, template_of
from unnorm.foundation.errors import SettingsError

PLAIN_CHAT = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# as Qwen3's: what an earlier answer thought is left out once there is a later question
FORGETFUL = (
    "{% for m in messages %}<{{ m.role }}>{% if m.role == 'assistant' and not loop.last %}"
    "{{ m.content.split('</think>')[-1] }}{% else %}{{ m.content }}{% endif %}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
STRICT = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system') }}{% endif %}{% endfor %}"


def tokens_that(tokenizer, template):
    changed = copy.deepcopy(tokenizer)
    changed.chat_template = template
    return changed


def rendered(template, *turns):
    pieces = template.render(chat(*turns).messages)
    return [("a" if piece.answer else "-", piece.turn, piece.text, piece.ends) for piece in pieces]


def test_alpaca_and_plain_over_several_turns(tokenizer):
    turns = ("s:be kind", "u:q", "a:b", "t:tool says", "a:c")
    assert rendered(template_of("plain", tokenizer), *turns) == [
        ("-", 0, "be kind\n\n", False),
        ("-", 1, "q\n\n", False),
        ("a", 2, "b", True),
        ("-", 3, "tool says\n\n", False),
        ("a", 4, "c", True),
    ]
    alpaca = rendered(template_of("alpaca-short", tokenizer), "u:q", "a:b")
    assert alpaca == [("-", 0, "### Instruction:\nq\n\n### Response:\n", False), ("a", 1, "b", True)]
    with_input = template_of("plain", tokenizer).prompt([Message("user", "Add", "1 2")])
    assert with_input == "Add\n\n1 2\n\n"


def test_templates_keep_braces_and_inputs_as_they_are(tokenizer):
    assert "{x} {content}" in prompt_text(Message("user", "{x} {content}"), "alpaca")
    with_input = prompt_text(Message("user", "Use {input}", "some {input} here"), "alpaca")
    assert "### Instruction:\nUse {input}\n\n### Input:\nsome {input} here\n\n### Response:\n" in with_input
    assert "### Input" not in prompt_text(Message("user", "Do", "  "), "alpaca")


def test_chatml(tokenizer):
    template = template_of("chatml", tokenizer)
    assert rendered(template, "s:be kind", "u:q", "a:b") == [
        ("-", 0, "<|im_start|>system\nbe kind<|im_end|>\n", False),
        ("-", 1, "<|im_start|>user\nq<|im_end|>\n", False),
        ("-", 2, "<|im_start|>assistant\n", False),
        ("a", 2, "b<|im_end|>", True),
        ("-", 2, "\n", False),
    ]
    assert template.prompt(chat("u:q").messages) == "<|im_start|>user\nq<|im_end|>\n<|im_start|>assistant\n"


def test_a_models_own_template_is_cut_where_answers_begin_and_end(tokenizer):
    template = template_of("chat", tokens_that(tokenizer, PLAIN_CHAT))
    assert rendered(template, "s:be kind", "u:q", "a: b ", "u:r", "a:c") == [
        ("-", 0, "<system>be kind</s>\n", False),
        ("-", 1, "<user>q</s>\n<assistant>", False),
        ("a", 2, "b</s>\n", True),
        ("-", 3, "<user>r</s>\n<assistant>", False),
        ("a", 4, "c</s>\n", True),
    ]
    assert template.prompt(chat("u:q").messages) == "<user>q</s>\n<assistant>"


def test_what_follows_an_answers_last_special_token_is_not_the_answer(tokenizer):
    own = tokens_that(tokenizer, PLAIN_CHAT.replace("</s>", "<|endoftext|>"))
    assert rendered(template_of("chat", own), "u:q", "a:b") == [
        ("-", 0, "<user>q<|endoftext|>\n<assistant>", False),
        ("a", 1, "b<|endoftext|>", False),
        ("-", 1, "\n", False),
    ]


def test_a_leading_answer_under_a_chat_template(tokenizer):
    template = template_of("chat", tokens_that(tokenizer, PLAIN_CHAT))
    assert [text for _, _, text, _ in rendered(template, "a:x", "u:q", "a:b")] == [
        "<assistant>x</s>\n", "<user>q</s>\n<assistant>", "b</s>\n",
    ]  # fmt: skip


def test_a_template_that_rewrites_earlier_turns_is_refused_where_it_does(tokenizer):
    template = template_of("chat", tokens_that(tokenizer, FORGETFUL))
    assert len(rendered(template, "u:q", "a:b", "u:r", "a:c")) == 4
    with pytest.raises(Refused, match="earlier turns"):
        rendered(template, "u:q", "a:hm</think>b", "u:r", "a:c")
    with pytest.raises(Refused, match="refuses it: no system"):
        rendered(template_of("chat", tokens_that(tokenizer, STRICT)), "s:x", "u:q", "a:b")


def test_a_template_file_is_known_by_what_it_says(tokenizer, tmp_path):
    one, other = tmp_path / "mine.jinja", tmp_path / "elsewhere" / "mine.jinja"
    other.parent.mkdir()
    one.write_text(PLAIN_CHAT)
    other.write_text(PLAIN_CHAT)
    template = template_of(str(one), tokenizer)
    assert template.identity == template_of(str(other), tokenizer).identity
    assert rendered(template, "u:q", "a:b")[1] == ("a", 1, "b</s>\n", True)
    other.write_text(PLAIN_CHAT + " ")
    assert template.identity != template_of(str(other), tokenizer).identity


def test_templates_that_are_not_there(tokenizer, tmp_path):
    assert tokenizer.chat_template is None
    with pytest.raises(SettingsError, match=r"no chat template of its own\. Known templates"):
        template_of("chat", tokenizer)
    with pytest.raises(SettingsError, match=f"Known templates: {', '.join(TEMPLATES)}"):
        template_of("vicuna", tokenizer)
    with pytest.raises(SettingsError, match="there is no template file"):
        template_of(str(tmp_path / "absent.jinja"), tokenizer)


def test_text_has_no_template_around_it(tokenizer):
    message = (Message("text", "once upon a time"),)
    for name in TEMPLATES:
        own = tokens_that(tokenizer, PLAIN_CHAT) if name == "chat" else tokenizer
        (piece,) = template_of(name, own).render(message)
        assert (piece.text, piece.answer, piece.ends) == ("once upon a time", True, True)


def test_a_template_cannot_reach_outside(tokenizer):
    evil = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with pytest.raises(Refused):
        rendered(template_of("chat", tokens_that(tokenizer, evil)), "u:q", "a:b")
