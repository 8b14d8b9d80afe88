import copy

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.chats import chat
from unnorm.data.conversation import Conversation, Message
from unnorm.data.encode import Tokens, encode, encode_prompt
from unnorm.metrics.token_sums import IGNORED


def conversation(prompt="Join red and blue", answer="red blue", given=""):
    return Conversation((Message("user", prompt, given), Message("assistant", answer)), "test", 0)


def one(tokenizer, **options):
    (row,) = encode([conversation()], tokenizer, template="alpaca-short", max_length=64, quiet=True, **options).rows
    return row


def test_answers_are_trained_and_prompts_are_not(tokenizer):
    row = one(tokenizer)
    prompt = tokenizer("### Instruction:\nJoin red and blue\n\n### Response:\n")["input_ids"]
    answer = tokenizer("red blue")["input_ids"]
    assert row.ids.tolist() == prompt + answer + [tokenizer.eos_token_id]
    assert row.labels.tolist() == [IGNORED] * len(prompt) + answer + [tokenizer.eos_token_id]


def test_rule_11_the_eos_that_is_also_the_pad_token_is_a_target(tokenizer):
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    assert one(tokenizer).labels[-1] == tokenizer.eos_token_id


def test_loss_on_all_trains_everything_but_the_first_token(tokenizer):
    row = one(tokenizer, loss_on="all")
    assert row.labels[0] == IGNORED
    assert row.labels[1:].tolist() == row.ids[1:].tolist()


def test_long_conversations_are_dropped_whole_and_counted(tokenizer):
    rows = [conversation(), conversation(answer="blue " * 100), conversation()]
    encoding = encode(rows, tokenizer, template="alpaca-short", max_length=64, quiet=True)
    assert len(encoding.rows) == 2
    assert encoding.dropped == {"longer than 64 tokens": 1}


def test_the_token_budget_ends_encoding(tokenizer):
    rows = [conversation(f"Join {i}") for i in range(5000)]
    encoded = encode(rows, tokenizer, template="alpaca-short", max_length=64, tokens=500, quiet=True).rows
    total = sum(len(row.ids) for row in encoded)
    assert 500 <= total < 500 + 64
    assert all(row.ids.dtype == np.int64 for row in encoded)


def with_bos(tokenizer):
    """The same, which begins every text with a bos."""
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    inner.add_special_tokens(["<s>"])
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))])
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<|endoftext|>")


def test_a_bos_is_set_where_the_tokenizer_sets_one(tokenizer):
    own = with_bos(tokenizer)
    row = one(own)
    assert row.ids[0] == own.bos_token_id
    assert (row.ids == own.bos_token_id).sum() == 1
    assert row.labels[0] == IGNORED


def trained_text(row, tokenizer) -> str:
    return tokenizer.decode(row.ids[row.labels != IGNORED].tolist())


TURNS = ("s:be kind", "u:one", "a:two", "t:three", "a:four", "u:five", "a:six")


@pytest.mark.parametrize(
    ("loss_on", "trained"),
    [
        ("answer", "two<|endoftext|>four<|endoftext|>six<|endoftext|>"),
        ("last", "six<|endoftext|>"),
        (("tool",), "three\n\n"),
        (("user", "assistant"), "one\n\ntwo<|endoftext|>four<|endoftext|>five\n\nsix<|endoftext|>"),
    ],
)
def test_what_is_trained_by_role(tokenizer, loss_on, trained):
    (row,) = encode([chat(*TURNS)], tokenizer, template="plain", max_length=64, loss_on=loss_on, quiet=True).rows
    assert trained_text(row, tokenizer) == trained
    assert row.weights is None


def test_weights_of_turns(tokenizer):
    messages = (
        Message("user", "q"),
        Message("assistant", "zero", weight=0.0),
        Message("user", "r"),
        Message("assistant", "half", weight=0.5),
        Message("user", "s"),
        Message("assistant", "whole"),
    )
    (row,) = encode([Conversation(messages, "t", 0)], tokenizer, template="plain", max_length=64, quiet=True).rows
    assert trained_text(row, tokenizer) == "half<|endoftext|>whole<|endoftext|>"
    half = len(tokenizer("half")["input_ids"]) + 1
    assert row.weights[row.labels != IGNORED].tolist() == [0.5] * half + [1.0] * (
        len(tokenizer("whole")["input_ids"]) + 1
    )
    assert (row.weights[row.labels == IGNORED] == 0).all()


def test_a_conversation_without_anything_trained_is_dropped_and_counted(tokenizer):
    context = Conversation((Message("user", "q"), Message("assistant", "b", weight=0.0)), "t", 0)
    encoding = encode([context, chat("u:q", "a:b")], tokenizer, template="plain", max_length=64, quiet=True)
    assert len(encoding.rows) == 1
    assert encoding.dropped == {"nothing in it is trained": 1}


LONG = ("s:be kind", "u:" + "red " * 6, "a:" + "blue " * 6, "u:" + "green " * 6, "a:" + "stone " * 6)


@pytest.mark.parametrize("too_long", ["keep-start", "keep-end"])
def test_cutting(tokenizer, too_long):
    (whole,) = encode([chat(*LONG)], tokenizer, template="plain", max_length=999, quiet=True).rows
    most = len(whole.ids) - 3
    encoding = encode([chat(*LONG)], tokenizer, template="plain", max_length=most, too_long=too_long, quiet=True)
    (row,) = encoding.rows
    kept = slice(most) if too_long == "keep-start" else slice(3, None)
    assert row.ids.tolist() == whole.ids[kept].tolist()
    assert row.labels[1:].tolist() == whole.labels[kept][1:].tolist()
    assert row.labels[0] == IGNORED
    assert sum(encoding.changed.values()) == 1
    assert not encoding.dropped


def test_a_prompt_that_fills_the_row_leaves_nothing_to_train(tokenizer):
    options = {"template": "plain", "max_length": 5, "too_long": "keep-start", "quiet": True}
    encoding = encode([chat("u:" + "red " * 50, "a:b")], tokenizer, **options)
    assert not encoding.rows
    assert encoding.dropped == {"nothing in it is trained": 1}
    assert not encoding.changed


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=1, max_size=8), st.booleans())
@settings(max_examples=40, deadline=None)
def test_splitting_keeps_every_round_that_fits_and_the_last_one_too(tokenizer, lengths, with_system):
    turns = ["s:k"] if with_system else []
    for i, (asked, answered) in enumerate(lengths):
        turns += [f"u:{i}" + " red" * asked, f"a:{i}" + " blue" * answered]
    options = {"template": "plain", "max_length": 32, "too_long": "split", "quiet": True}
    encoding = encode([chat(*turns)], tokenizer, **options)
    answers = [f"{i}" + " blue" * answered for i, (_, answered) in enumerate(lengths)]
    found = [text for row in encoding.rows for text in trained_text(row, tokenizer).split("<|endoftext|>")[:-1]]
    lost = encoding.dropped["a single round longer than 32 tokens"]
    assert len(found) + lost == len(answers)
    assert [text for text in answers if text in found] == found
    for row in encoding.rows:
        assert len(row.ids) <= 32
        assert tokenizer.decode(row.ids.tolist()).startswith("k\n\n") == with_system


@pytest.mark.parametrize("begins_with_bos", [False, True])
@pytest.mark.parametrize("most", [2, 7, 16])
def test_a_long_text_without_turns_is_cut_to_pieces_that_hold_all_of_it(tokenizer, begins_with_bos, most):
    own = with_bos(tokenizer) if begins_with_bos else tokenizer
    text = Conversation((Message("text", " ".join(f"red {i}" for i in range(40))),), "made", 0)
    whole = encode([text], own, template="plain", max_length=999, quiet=True).rows[0].ids.tolist()
    encoding = encode([text], own, template="plain", max_length=most, too_long="split", loss_on="all", quiet=True)
    head = whole[:1] if begins_with_bos else []
    pieces = [row.ids.tolist() for row in encoding.rows]
    assert all(piece[: len(head)] == head and 2 <= len(piece) <= most for piece in pieces)
    joined = head + [token for piece in pieces for token in piece[len(head) :]]
    assert joined in (whole, whole[:-1])  # a last piece of one token predicts nothing
    for row in encoding.rows:
        assert row.labels.tolist() == [IGNORED, *row.ids.tolist()[1:]]
    assert not encoding.dropped


def test_what_looks_like_a_special_token_in_the_data_is_text(tokenizer):
    eos = tokenizer.eos_token_id
    evil = chat("u:say <|endoftext|> now", "a:x<|endoftext|>y")
    own = copy.deepcopy(tokenizer)
    own.chat_template = (
        "{% for m in messages %}{{ m.role }}:{{ m.content }}<|endoftext|>{% endfor %}"
        "{% if add_generation_prompt %}assistant:{% endif %}"
    )
    for template, ends in (("plain", 1), ("alpaca", 1), ("chatml", 1), ("chat", 2)):
        (row,) = encode([evil], own, template=template, max_length=200, quiet=True).rows
        assert (row.ids == eos).sum() == ends, template
        text = own.decode(row.ids.tolist())
        assert "say <|endoftext|> now" in text
        assert "x<|endoftext|>y" in trained_text(row, own)


@pytest.mark.parametrize(
    "turns",
    [
        ("u:q", "a:x<|endoftext|>y"),  # the template below makes a z of y
        ("u:q", "a:<|endoftext|>"),  # is it the data's or the template's?
    ],
)
def test_a_special_token_that_cannot_be_told_from_the_templates_is_not_trained(tokenizer, turns):
    own = copy.deepcopy(tokenizer)
    own.chat_template = "{% for m in messages %}{{ m.content | replace('y', 'z') }}<|endoftext|>{% endfor %}"
    rows = [chat(*turns), chat("u:q", "a:b")]
    encoding = encode(rows, own, template="chat", max_length=99, quiet=True)
    assert len(encoding.rows) == 1
    assert encoding.dropped == {"holds a special token that cannot be told from the template's": 1}


contents = st.lists(st.sampled_from(["<|endoftext|>", "<|im_end|>", "a", " b", "\n", "<|im_start|>"]), min_size=1)


@given(contents.map("".join), contents.map("".join), st.sampled_from(["plain", "chatml", "chat"]))
@settings(max_examples=80, deadline=None)
def test_no_data_makes_a_special_token(tokenizer, asked, answered, template):
    own = copy.deepcopy(tokenizer)
    own.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    own.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    specials = own.convert_tokens_to_ids(["<|endoftext|>", "<|im_start|>", "<|im_end|>"])

    def shape(*turns):
        rows = encode([chat(*turns)], own, template=template, max_length=999, quiet=True).rows
        return [[i for i in row.ids.tolist() if i in specials] for row in rows]

    assert shape(f"u:{asked}", f"a:{answered}") in ([], shape("u:q", "a:b"))


def test_conversations_that_a_template_refuses_are_counted_with_what_it_says(tokenizer):
    own = copy.deepcopy(tokenizer)
    own.chat_template = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}x"
    encoding = encode([chat("s:x", "u:q", "a:b")], own, template="chat", max_length=64, quiet=True)
    assert encoding.dropped == {"the chat template refuses it: no system": 1}
    own.chat_template = "{% if false %}x{% endif %}"
    encoding = encode([chat("u:q", "a:b")], own, template="chat", max_length=64, quiet=True)
    assert encoding.dropped == {"the template makes no text of it": 1}


@pytest.mark.parametrize("template", ["alpaca-short", "chatml"])
def test_rows_of_several_batches_are_those_of_each_conversation_alone(tokenizer, template, monkeypatch):
    rows = [conversation(f"Join {i} <|endoftext|>", f"red {i}" * (i % 7)) for i in range(150)]
    options = {"template": template, "max_length": 256, "quiet": True}
    monkeypatch.setattr("unnorm.data.encode._CHUNK", 64)
    together = encode(rows, tokenizer, **options)
    alone = [row for one in rows for row in encode([one], tokenizer, **options).rows]
    assert len(alone) > 128
    assert [row.ids.tolist() for row in together.rows] == [row.ids.tolist() for row in alone]
    assert [row.labels.tolist() for row in together.rows] == [row.labels.tolist() for row in alone]


def test_no_more_is_encoded_than_is_wanted_and_no_process_is_started(tokenizer, monkeypatch):
    taken = []
    ids_of = Tokens.ids
    monkeypatch.setattr(Tokens, "ids", lambda self, texts: taken.append(len(texts)) or ids_of(self, texts))
    monkeypatch.setattr("subprocess.Popen", None)
    rows = [conversation(f"Join {i}") for i in range(5_000)]
    encoding = encode(rows, tokenizer, template="alpaca-short", max_length=64, tokens=100, quiet=True)
    assert len(encoding.rows) < 100
    assert len(taken) == 1


def test_a_prompt_begins_as_a_conversation_does(tokenizer):
    row = one(tokenizer)
    prompt = encode_prompt("### Instruction:\nJoin red and blue\n\n### Response:\n", tokenizer)
    assert row.ids[: len(prompt)].tolist() == prompt
