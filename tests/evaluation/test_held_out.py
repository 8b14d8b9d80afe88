import json
from pathlib import Path

import numpy as np
import pytest
import torch

import unnorm
import unnorm.metrics.output_layer as output_layer
from conftest import FAMILIES, tiny_model, tokens
from unnorm.cli.main import run
from unnorm.data.encode import encode
from unnorm.data.packing import collate_packed, collate_padded, pack
from unnorm.data.prepare import Source
from unnorm.data.settings import DataSettings
from unnorm.data.sources import conversations_of
from unnorm.evaluation.scores import Item, score, score_batches, score_rows
from unnorm.foundation import ranks
from unnorm.foundation.errors import DataError, SettingsError
from unnorm.metrics.token_sums import token_scores, token_sums
from unnorm.surgery.base import load_base


@pytest.fixture
def encoded(tokenizer, data_file):
    conversations = conversations_of(json.loads(Path(data_file).read_text()), "rows").conversations
    return encode(conversations, tokenizer, template="alpaca-short", max_length=64, quiet=True).rows


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_packed_loss_equals_unpacked_loss(family, attention, encoded):
    model = tiny_model(family, attention=attention)
    packed = unnorm.evaluate(model, [collate_packed(pack(encoded, 64).rows, 64, 0)])
    padded = unnorm.evaluate(model, [collate_padded([[row] for row in encoded], 0)])
    alone = unnorm.evaluate(model, (collate_padded([[row]], 0) for row in encoded))
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
        losses.append(unnorm.evaluate(model, batches).loss)
    assert max(losses) - min(losses) < 1e-6 * max(losses)


def by_hand(model, encoded) -> tuple[float, float, int]:
    """Loss, accuracy and tokens, one conversation after the other, one token after the other."""
    nats = tokens = correct = 0
    with torch.no_grad():
        for row in encoded:
            log_p = model(torch.from_numpy(row.ids)[None]).logits[0].double().log_softmax(-1)
            for t in range(1, len(row.ids)):
                if row.labels[t] != -100:
                    nats -= float(log_p[t - 1, row.labels[t]])
                    correct += int(log_p[t - 1].argmax()) == row.labels[t]
                    tokens += 1
    return nats / tokens, correct / tokens, tokens


def test_it_is_the_sum_of_nats_over_the_tokens(encoded):
    model = tiny_model("gpt2")
    loss, accuracy, tokens = by_hand(model, encoded)
    result = unnorm.evaluate(model, [collate_packed(pack(encoded, 64).rows, 64, 0)])
    assert result.tokens == tokens
    assert result.loss == pytest.approx(loss, rel=1e-5)
    assert result.token_accuracy == pytest.approx(accuracy)


@pytest.mark.parametrize("packed", [True, False])
def test_rows_data_batches_and_the_command_give_one_loss(packed, bases, data_file, tokenizer, monkeypatch, capsys):
    model = load_base(bases["llama"])
    settings = DataSettings(source=data_file, template="alpaca-short", max_length=64, held_out=0.3)
    rows = Source(settings, tokenizer, quiet=True).validation(700, packed=packed)
    loss, accuracy, tokens = by_hand(model, [each for row in rows.rows for each in row])
    monkeypatch.setattr("unnorm.evaluation.held_out.packing_is_clean", lambda model: packed)
    data = unnorm.evaluate(model, settings, tokenizer, tokens=700, quiet=True)
    for found in (score_rows(model, rows), data, unnorm.evaluate(model, rows.batches(3))):
        assert found.tokens == tokens
        assert found.loss == pytest.approx(loss, rel=1e-5)
        assert found.token_accuracy == pytest.approx(accuracy)
    options = ["--template", "alpaca-short", "--max-length", "64", "--held-out", "0.3", "--tokens", "700", "--json"]
    assert run(["evaluate", bases["llama"], "--data", data_file, *options]) == 0
    told = json.loads(capsys.readouterr().out)["data"][data_file]
    assert told == json.loads(json.dumps(data.to_dict()))
    assert told["trained"]["nats_per_token"]["value"] == pytest.approx(loss, rel=1e-5)


def test_labels_are_scored_be_they_other_tokens_than_the_input():
    model = tiny_model("llama")
    ids, labels = tokens(2, 16), tokens(2, 16).flip(0)
    labels[:, :4] = -100
    found = unnorm.evaluate(model, [{"input_ids": ids, "labels": labels}])
    sums = token_sums(model, model.lm_head, {"input_ids": ids, "labels": labels})
    assert found.tokens == int(sums.tokens) == 24
    assert found.loss == pytest.approx(float(sums.nats) / 24, rel=1e-5)


def test_trained_tokens_alone_are_scored_if_they_are_all_that_is_asked(encoded):
    model, heads = tiny_model("gpt2"), []
    model.lm_head.register_forward_hook(lambda module, args, out: heads.append(out.shape[1]))
    items = [Item(row) for row in encoded]
    given = {"max_length": 64, "packed": True, "pad_id": 0}
    some = score(model, None, items, **given, tokens="trained")
    assert sum(heads) == some.tokens
    whole = score(model, None, items, **given)
    assert sum(heads) > 2 * some.tokens
    np.testing.assert_allclose(some.trained, whole.trained, rtol=1e-6)
    np.testing.assert_array_equal(some.ids, whole.ids)
    assert (some.trained[:, 4] == 0).all()  # no tokenizer, no bytes
    assert not some.all.any()


def test_of_tokens_that_are_as_likely_one_is_the_most_likely():
    model = tiny_model("gpt2")
    for parameter in model.transformer.ln_f.parameters():  # every logit is 0
        torch.nn.init.zeros_(parameter)
    ids = torch.tensor([[7, 0, 3, 4, 5, 9, 0, 300]])
    found = score_batches(model, [{"input_ids": ids, "labels": ids}])
    assert found.trained[0, 1:4].tolist() == [7, 2, 4]
    assert found.token_accuracy == int(token_sums(model, model.lm_head, {"input_ids": ids, "labels": ids}).correct) / 7


def test_every_process_runs_the_model_as_often(monkeypatch):
    """A model that is sharded over processes runs in all of them or in none."""
    monkeypatch.setattr(output_layer, "LOGITS", 384 * 5)
    monkeypatch.setattr(ranks, "of_all", lambda own: [own, 7])
    model, runs = tiny_model("gpt2"), []
    model.register_forward_hook(lambda *_: runs.append(1))
    ids = tokens(1, 32)
    mask = torch.zeros(1, 32, dtype=torch.bool)
    mask[:, 1:13] = True
    found = token_scores(model, model.lm_head, {"input_ids": ids}, mask, 384, ids)
    assert len(runs) == 7  # 3 of its own
    log_p = model(ids).logits[0].log_softmax(-1)
    np.testing.assert_allclose(found.nats, -log_p[:12].gather(1, ids[0, 1:13, None])[:, 0].detach(), rtol=1e-5)


def test_the_public_face(bases, data_file, tokenizer):
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
