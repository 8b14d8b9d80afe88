import pytest
import torch
import torch.nn.functional as F

from conftest import FAMILIES, tiny_model, tokens
from unnorm.metrics import output_layer
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


def plain(model, batch):
    """The weighted sum and how many are right, of all logits at once."""
    labels = batch["labels"][:, 1:].flatten()
    logits = model(input_ids=batch["input_ids"]).logits[:, :-1].flatten(0, 1).float()
    nats = F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORED)
    weights = batch.get("weights", torch.ones(batch["labels"].shape))[:, 1:].flatten()
    return (nats * weights).sum(), (logits.argmax(-1) == labels).sum()


def labelled(weighted: bool) -> dict[str, torch.Tensor]:
    ids = tokens(3, 21)
    labels = ids.clone()
    labels[:, :9] = IGNORED
    labels[1, 15:] = IGNORED
    weights = {"weights": torch.rand(ids.shape, generator=torch.Generator().manual_seed(1))} if weighted else {}
    return {"input_ids": ids, "labels": labels, **weights}


def check_gradients(model, batch):
    model.zero_grad()
    nats, correct = plain(model, batch)
    (2.5 * nats).backward()
    wanted = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    sums = token_sums(model, model.get_output_embeddings(), batch)
    (2.5 * sums.nats).backward()
    torch.testing.assert_close(sums.nats, nats, rtol=1e-5, atol=1e-4)
    assert int(sums.correct) == int(correct)
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-4, atol=1e-4, msg=name)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", FAMILIES)
def test_chunks_equal_the_whole_with_all_gradients(family, weighted, small_chunks):
    check_gradients(tiny_model(family), labelled(weighted))


def test_a_head_that_does_not_learn_takes_smaller_chunks(small_chunks, monkeypatch):
    model = tiny_model("llama")
    model.get_output_embeddings().weight.requires_grad_(False)
    rows = []
    logits = output_layer.Output.logits
    monkeypatch.setattr(output_layer.Output, "logits", lambda self, h: rows.append(len(h)) or logits(self, h))
    check_gradients(model, labelled(weighted=True))
    assert max(rows) == 3
    assert sum(rows) == 12 + 6 + 12


def test_a_head_with_a_bias_of_its_own(small_chunks):
    model = tiny_model("gpt_neox")
    model.set_output_embeddings(torch.nn.Linear(32, 384))
    check_gradients(model, labelled(weighted=False))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`")
def test_a_head_of_another_kind_is_taken_whole(small_chunks):
    """What an adapter wraps is no plain layer: its own weights learn, too."""
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(tiny_model("llama"), LoraConfig(target_modules=["lm_head"], init_lora_weights=False))
    check_gradients(model, labelled(weighted=False))
    assert model.get_output_embeddings().lora_A["default"].weight.grad.abs().sum() > 0


def test_an_unknown_way_from_head_to_logits_is_taken_whole(small_chunks):
    model = tiny_model("llama")

    def forward(**inputs):
        out = model(**inputs)
        out.logits = out.logits + 3 * torch.sin(out.logits)
        return out

    batch = labelled(weighted=False)
    found = token_sums(forward, model.get_output_embeddings(), batch)
    logits = forward(input_ids=batch["input_ids"]).logits[:, :-1].flatten(0, 1)
    wanted = F.cross_entropy(logits, batch["labels"][:, 1:].flatten(), ignore_index=IGNORED, reduction="sum")
    torch.testing.assert_close(found.nats, wanted, rtol=1e-5, atol=1e-4)


def test_a_head_that_gives_nothing_learns_all_the_same(small_chunks):
    """As one that begins with zeros does."""
    model = tiny_model("gpt_neox")
    model.set_output_embeddings(torch.nn.Linear(32, 384, bias=False))
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    check_gradients(model, labelled(weighted=False))
    assert model.get_output_embeddings().weight.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_product_is_in_the_dtype_that_the_model_computes_it_in(dtype, small_chunks):
    """The loss is taken outside of the model's autocast, where the hidden states may be fp32."""
    model = tiny_model("llama")
    batch = labelled(weighted=False)
    with torch.autocast("cpu", dtype):
        nats, _ = plain(model, batch)

    def forward(**inputs):
        with torch.autocast("cpu", dtype):
            out = model(**inputs)
        out.logits = out.logits.float()
        return out

    found = token_sums(forward, model.get_output_embeddings(), batch)
    torch.testing.assert_close(found.nats, nats, rtol=1e-5, atol=1e-4)
    found.nats.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_a_batch_without_labels_sums_to_nothing():
    model = tiny_model("gpt2")
    ids = tokens()
    sums = token_sums(model, model.get_output_embeddings(), {"input_ids": ids, "labels": torch.full_like(ids, IGNORED)})
    assert float(sums.nats.detach()) == 0
    assert int(sums.tokens) == 0
