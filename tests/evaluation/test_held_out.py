import json
from pathlib import Path

import pytest
import torch

import unnorm
from conftest import FAMILIES, tiny_model
from unnorm.data.encode import encode
from unnorm.data.packing import collate_packed, collate_padded, pack
from unnorm.data.settings import DataSettings
from unnorm.data.sources import conversations_of
from unnorm.evaluation.held_out import evaluate_batches
from unnorm.foundation.errors import DataError, SettingsError


@pytest.fixture
def encoded(tokenizer, data_file):
    conversations = conversations_of(json.loads(Path(data_file).read_text()), "rows").conversations
    return encode(conversations, tokenizer, template="alpaca-short", max_length=64, quiet=True).rows


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_loss_equals_unpacked_loss(family, attention, encoded):
    model = tiny_model(family, attention=attention)
    packed = evaluate_batches(model, [collate_packed(pack(encoded, 64).rows, 64, 0)])
    padded = evaluate_batches(model, [collate_padded([[row] for row in encoded], 0)])
    alone = evaluate_batches(model, (collate_padded([[row]], 0) for row in encoded))
    assert packed.tokens == padded.tokens == alone.tokens
    assert packed.loss == pytest.approx(alone.loss, rel=1e-5)
    assert padded.loss == pytest.approx(alone.loss, rel=1e-5)


@pytest.mark.parametrize("family", FAMILIES)
def test_rule_08_the_loss_does_not_depend_on_the_batch_size(family, encoded):
    model = tiny_model(family)
    rows = pack(encoded, 64).rows
    losses = []
    for size in (1, 2, 5, len(rows)):
        batches = (collate_packed(rows[i : i + size], 64, 0) for i in range(0, len(rows), size))
        losses.append(evaluate_batches(model, batches).loss)
    assert max(losses) - min(losses) < 1e-6 * max(losses)


def test_it_is_the_sum_of_nats_over_the_tokens(encoded):
    model = tiny_model("gpt2")
    nats = tokens = correct = 0.0
    with torch.no_grad():
        for row in encoded:
            log_p = model(torch.from_numpy(row.ids)[None]).logits[0].double().log_softmax(-1)
            for t in range(1, len(row.ids)):
                if row.labels[t] != -100:
                    nats -= float(log_p[t - 1, row.labels[t]])
                    correct += int(log_p[t - 1].argmax()) == row.labels[t]
                    tokens += 1
    result = evaluate_batches(model, [collate_packed(pack(encoded, 64).rows, 64, 0)])
    assert result.tokens == tokens
    assert result.loss == pytest.approx(nats / tokens, rel=1e-5)
    assert result.token_accuracy == pytest.approx(correct / tokens)


def test_the_public_face(bases, data_file, tokenizer):
    from unnorm.surgery.base import load_base

    model = load_base(bases["gpt2"]).train()
    settings = DataSettings(source=data_file, template="alpaca-short", max_length=64)
    result = unnorm.evaluate(model, settings, tokenizer, tokens=500, quiet=True)
    assert result.tokens > 0
    assert model.training
    batches = [{"input_ids": torch.ones(1, 8, dtype=torch.long), "labels": torch.ones(1, 8, dtype=torch.long)}]
    assert unnorm.evaluate(model, batches).tokens == 7
    with pytest.raises(DataError, match="tokenizer"):
        unnorm.evaluate(model, data_file)
    with pytest.raises(SettingsError, match="64 positions"):
        unnorm.evaluate(model, DataSettings(source=data_file), tokenizer)
    with pytest.raises(DataError, match="no labelled token"):
        unnorm.evaluate(model, [{"input_ids": batches[0]["input_ids"], "labels": torch.full((1, 8), -100)}])
