import numpy as np
import pytest

from unnorm.data.conversation import Conversation, Message
from unnorm.data.encode import encode
from unnorm.data.templates import prompt_text, template_of
from unnorm.foundation.errors import SettingsError
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


def test_templates_keep_braces_and_inputs_as_they_are():
    assert "{x} {content}" in prompt_text(Message("user", "{x} {content}"), "alpaca")
    with_input = prompt_text(Message("user", "Use {input}", "some {input} here"), "alpaca")
    assert "### Instruction:\nUse {input}\n\n### Input:\nsome {input} here\n\n### Response:\n" in with_input
    assert "### Input" not in prompt_text(Message("user", "Do", "  "), "alpaca")
    with pytest.raises(SettingsError, match="Known templates"):
        template_of("vicuna", None)


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


def test_a_bos_is_set_where_the_tokenizer_sets_one(tokenizer):
    from tokenizers import Tokenizer
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    inner.add_special_tokens(["<s>"])
    inner.post_processor = TemplateProcessing(single="<s> $A", special_tokens=[("<s>", inner.token_to_id("<s>"))])
    with_bos = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="<|endoftext|>")
    row = one(with_bos)
    assert row.ids[0] == with_bos.bos_token_id
    assert (row.ids == with_bos.bos_token_id).sum() == 1
    assert row.labels[0] == IGNORED
