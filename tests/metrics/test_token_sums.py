import pytest
import torch
import torch.nn.functional as F

from conftest import FAMILIES, tiny_model, tokens
from unnorm.metrics.token_sums import IGNORED, token_sums


@pytest.mark.parametrize("family", FAMILIES)
def test_sums_equal_the_full_logits(family):
    model = tiny_model(family)
    ids = tokens()
    labels = ids.clone()
    labels[:, :7] = IGNORED
    labels[1, 20:] = IGNORED
    sums = token_sums(model, model.get_output_embeddings(), {"input_ids": ids, "labels": labels})
    logits = model(input_ids=ids).logits[:, :-1].flatten(0, 1)
    targets = labels[:, 1:].flatten()
    expected = F.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(sums.nats, expected, rtol=1e-5, atol=1e-4)
    kept = targets != IGNORED
    assert int(sums.tokens) == int(kept.sum())
    assert int(sums.correct) == int((logits.argmax(-1) == targets)[kept].sum())


def test_weights_weigh_the_nats_and_count_as_what_they_are_divided_by():
    model = tiny_model("gpt2")
    ids = tokens()
    labels = ids.clone()
    labels[:, :7] = IGNORED
    batch = {"input_ids": ids, "labels": labels}
    plain = token_sums(model, model.get_output_embeddings(), batch)
    assert float(plain.weight) == int(plain.tokens)
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(1))
    sums = token_sums(model, model.get_output_embeddings(), {**batch, "weights": weights})
    log_p = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    counted = weights[:, 1:] * (labels[:, 1:] != IGNORED)
    torch.testing.assert_close(sums.nats, -(counted * log_p).sum(), rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(sums.weight, counted.sum())
    assert int(sums.tokens) == int(plain.tokens)
    assert int(sums.correct) == int(plain.correct)


def test_gradients_equal_those_of_the_full_logits():
    model = tiny_model("llama")
    ids = tokens()
    labels = ids.clone()
    labels[:, :9] = IGNORED
    token_sums(model, model.get_output_embeddings(), {"input_ids": ids, "labels": labels}).nats.backward()
    ours = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    model.zero_grad()
    logits = model(input_ids=ids).logits[:, :-1]
    F.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten(), reduction="sum", ignore_index=IGNORED).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(ours[name], parameter.grad, rtol=1e-4, atol=1e-4)


def test_a_batch_without_labels_sums_to_nothing():
    model = tiny_model("gpt2")
    ids = tokens()
    sums = token_sums(model, model.get_output_embeddings(), {"input_ids": ids, "labels": torch.full_like(ids, IGNORED)})
    assert float(sums.nats.detach()) == 0
    assert int(sums.tokens) == 0
