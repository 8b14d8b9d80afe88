"""The divergence in chunks equals the plain one, with its gradients, whatever follows the head."""

import copy

import pytest
import torch
import torch.nn.functional as F

from conftest import FAMILIES, tiny_model, tokens
from unnorm.metrics import output_layer as room
from unnorm.metrics.batches import counted_tokens, followed_tokens, inputs_of
from unnorm.metrics.divergence import compare, divergence


def pair(family="llama"):
    original, model = tiny_model(family), tiny_model(family)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model, original


def plain(model, original, batch):
    keep = counted_tokens(batch)
    with torch.no_grad():
        wanted = original(**inputs_of(batch), use_cache=False).logits[keep].float().log_softmax(-1)
    found = model(**inputs_of(batch), use_cache=False).logits[keep].float().log_softmax(-1)
    return F.kl_div(found, wanted, log_target=True, reduction="sum")


def both(model, original, batch):
    """(value, gradients by name) of the plain sum and of the sum in chunks."""
    found = []
    heads = model.get_output_embeddings(), original.get_output_embeddings()
    for how in (lambda: plain(model, original, batch), lambda: sums(model, original, batch, heads).nats):
        model.zero_grad()
        value = how()
        (2.5 * value).backward()
        found.append((value.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}))
    return found


def sums(model, original, batch, heads):
    return divergence(model, heads[0], original, heads[1], batch)


@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_equal_the_whole_with_all_gradients(family, small_chunks):
    model, original = pair(family)
    batch = {"input_ids": tokens(3, 21)}
    (value, gradients), (chunked, chunked_gradients) = both(model, original, batch)
    assert float(value) > 1
    torch.testing.assert_close(chunked, value, rtol=1e-5, atol=1e-4)
    assert gradients.keys() == chunked_gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(chunked_gradients[name], gradient, rtol=1e-3, atol=1e-4, msg=name)


def test_a_head_with_a_bias_of_its_own(small_chunks):
    model, original = pair("gpt_neox")
    for m in (model, original):
        head = torch.nn.Linear(32, 384)
        m.set_output_embeddings(head)
    (value, gradients), (chunked, chunked_gradients) = both(model, original, {"input_ids": tokens(2, 20)})
    torch.testing.assert_close(chunked, value, rtol=1e-5, atol=1e-4)
    (name,) = [n for n, p in model.named_parameters() if p is model.get_output_embeddings().bias]
    torch.testing.assert_close(chunked_gradients[name], gradients[name], rtol=1e-3, atol=1e-4)


def test_padding_counts_for_nothing():
    model, original = pair()
    heads = model.get_output_embeddings(), original.get_output_embeddings()
    ids = tokens(2, 16)
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    packed = {
        "input_ids": ids,
        "position_ids": torch.cat([torch.arange(9), torch.arange(7)])[None].repeat(2, 1),
        "tokens": torch.tensor([16, 9]),
    }
    for batch in ({"input_ids": ids, "attention_mask": mask}, packed):
        before = sums(model, original, batch, heads)
        assert int(before.tokens) == 25
        torch.testing.assert_close(before.nats, plain(model, original, batch), rtol=1e-5, atol=1e-4)
        changed = ids.clone()
        changed[1, 9:] = 3
        after = sums(model, original, {**batch, "input_ids": changed}, heads)
        torch.testing.assert_close(after.nats, before.nats)


def test_equal_models_do_not_diverge_and_agree_everywhere():
    model, _ = pair()
    twin = copy.deepcopy(model)
    heads = model.get_output_embeddings(), twin.get_output_embeddings()
    found = sums(model, twin, {"input_ids": tokens(2, 16)}, heads)
    assert abs(float(found.nats.detach())) < 1e-4
    assert int(found.agreed) == int(found.tokens) == 32


@pytest.mark.parametrize("family", ["gemma2", "cohere", "granite"])
def test_what_follows_the_head_is_found(family, small_chunks):
    """Gemma 2 caps its logits, Cohere and Granite scale them."""
    from transformers import AutoConfig, AutoModelForCausalLM

    own = {"gemma2": {"final_logit_softcapping": 5.0, "head_dim": 16}, "cohere": {"logit_scale": 0.25}}
    own["granite"] = {"logits_scaling": 3.0}
    config = AutoConfig.for_model(
        family,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        intermediate_size=64,
        vocab_size=384,
        max_position_embeddings=64,
        **own[family],
    )
    torch.manual_seed(0)
    original = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in original.parameters():
            parameter.mul_(8.0 if parameter.ndim == 2 else 1.0)
    model = copy.deepcopy(original)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    (value, gradients), (chunked, chunked_gradients) = both(model, original, {"input_ids": tokens(2, 20)})
    assert float(value) > 0.1
    torch.testing.assert_close(chunked, value, rtol=1e-4, atol=1e-4)
    for name, gradient in gradients.items():
        torch.testing.assert_close(chunked_gradients[name], gradient, rtol=5e-3, atol=2e-4, msg=name)


def test_an_unknown_way_from_head_to_logits_is_taken_whole(small_chunks):
    model, original = pair()

    class Odd(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, **inputs):
            out = self.inner(**inputs)
            out.logits = out.logits + 3 * torch.sin(out.logits)
            return out

    odd, odd_original = Odd(model), Odd(original)
    heads = model.get_output_embeddings(), original.get_output_embeddings()
    batch = {"input_ids": tokens(2, 20)}
    found = sums(odd, odd_original, batch, heads)
    torch.testing.assert_close(found.nats, plain(odd, odd_original, batch), rtol=1e-5, atol=1e-4)


def test_no_more_logits_than_a_chunk_are_held(small_chunks, monkeypatch):
    model, original = pair()
    heads = model.get_output_embeddings(), original.get_output_embeddings()
    rows = []
    logits = room.Output.logits
    monkeypatch.setattr(room.Output, "logits", lambda self, h: rows.append(len(h)) or logits(self, h))
    sums(model, original, {"input_ids": tokens(2, 20)}, heads)
    assert max(rows) == 7
    assert sum(rows) == 2 * 40


@pytest.mark.parametrize("known", [True, False])
def test_both_losses_are_measured_beside_the_divergence(small_chunks, monkeypatch, known):
    model, original = pair()
    heads = model.get_output_embeddings(), original.get_output_embeddings()
    if not known:
        monkeypatch.setattr(room, "_output_of", lambda *_: None)
    batch = {
        "input_ids": tokens(2, 16),
        "position_ids": torch.cat([torch.arange(9), torch.arange(7)])[None].repeat(2, 1),
        "tokens": torch.tensor([16, 13]),
    }
    found = compare(model, heads[0], original, heads[1], batch)
    with torch.no_grad():
        assert found.kl == pytest.approx(float(plain(model, original, batch)), rel=1e-4)
    follows = followed_tokens(batch)
    assert follows[0].tolist() == [True] * 8 + [False] + [True] * 6 + [False]
    assert follows[1].tolist() == [True] * 8 + [False] + [True] * 3 + [False] * 4
    assert (found.tokens, found.predicted) == (29, 25)
    for m, loss in ((model, found.loss), (original, found.original_loss)):
        with torch.no_grad():
            log_p = m(**inputs_of(batch), use_cache=False).logits.log_softmax(-1)
        expected = -log_p[:, :-1].gather(2, batch["input_ids"][:, 1:, None])[..., 0][follows[:, :-1]].sum()
        assert loss == pytest.approx(float(expected), rel=1e-5)
    labels = batch["input_ids"].clone()
    labels[:, :12] = -100
    answers = compare(model, heads[0], original, heads[1], {**batch, "labels": labels})
    assert (answers.kl, answers.agreed, answers.tokens) == (found.kl, found.agreed, found.tokens), "of all tokens"
    assert answers.predicted == 4 + 1
    kept = follows[:, :-1] & (labels[:, 1:] != -100)
    expected = -log_p[:, :-1].gather(2, batch["input_ids"][:, 1:, None])[..., 0][kept].sum()
    assert answers.original_loss == pytest.approx(float(expected), rel=1e-5)
