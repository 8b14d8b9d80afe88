"""Tokens' sizes at the norms: what is penalized, and which rows say nothing."""

import copy

import pytest
import torch
from torch import nn

import unnorm
from conftest import tiny_model, tokens
from unnorm import DyT
from unnorm.metrics.divergence import divergence
from unnorm.norms.dyt import DyTNorm
from unnorm.tuning.objectives import Distillation
from unnorm.tuning.stream_sizes import StreamSizes


def judged(*streams, keep=None):
    """What is said of streams [B, T, C] that come into one norm after another."""
    norms = [nn.Identity() for _ in streams]
    sizes = StreamSizes(norms)
    batch = {"input_ids": torch.zeros(streams[0].shape[:2], dtype=torch.long)}
    if keep is not None:
        batch["attention_mask"] = keep
    with sizes.watching(batch):
        for norm, x in zip(norms, streams, strict=True):
            norm(x)
        return sizes.judged()


def stream(*sizes):
    """One row of tokens of these sizes, [1, T, 8]."""
    x = torch.tensor(sizes)[None, :, None] * torch.tensor([1.0, -1.0]).repeat(4)
    return x.requires_grad_()


def test_tokens_of_the_usual_size_cost_nothing_and_larger_ones_do():
    penalty, away = judged(stream(1.0, 1.0, 1.2, 0.1, 1.0))
    assert penalty.item() == 0
    assert away.tolist() == [False]
    x = stream(1.0, 1.0, 2.6, 1.0, 1.0)
    penalty, away = judged(x)
    assert penalty.item() == pytest.approx(3 * float(torch.tensor(2.0).log() ** 2))
    assert away.tolist() == [False]
    penalty.backward()
    assert x.grad[0].abs().sum(1).gt(0).tolist() == [False, False, True, False, False]
    assert float((x.grad * x).sum()) > 0  # a step against it makes the token smaller


def test_what_comes_after_a_token_ran_away_says_nothing_and_other_rows_do():
    first = torch.cat([stream(1.0, 1.0, 4.0, 1.0), stream(1.0, 1.0, 1.0, 2.6)]).detach().requires_grad_()
    second = torch.cat([stream(1.0, 1.0, 90.0, 1.0), stream(1.0, 1.0, 1.0, 1.0)]).detach().requires_grad_()
    third = torch.cat([stream(1.0, 1e9, 1e30, 5e7), stream(1.0, 1.0, 1.0, 2.6)]).detach().requires_grad_()
    penalty, away = judged(first, second, third)
    assert away.tolist() == [True, False]
    penalty.backward()
    assert all(bool(x.grad.isfinite().all()) for x in (first, second, third))
    assert float(third.grad[0].abs().max()) == 0
    assert float(third.grad[1].abs().max()) > 0
    assert float(first.grad[0].abs().max()) > 0


@pytest.mark.parametrize("odd", [0.0, float("inf"), float("nan")])
def test_a_token_without_a_size_leaves_the_gradient_of_the_others_a_number(odd):
    x = stream(1.0, 1.0, 2.6, 1.0, 1.0, 1.0)
    scale = torch.ones(6, requires_grad=True)
    penalty, _ = judged(x * torch.where(torch.arange(6) == 4, odd, scale)[None, :, None])
    penalty.backward()
    assert bool(x.grad[0, :4].isfinite().all())
    assert bool(scale.grad.isfinite().all())
    assert float(scale.grad[2]) > 0
    assert float(scale.grad[4]) == 0


def test_a_row_with_a_token_that_is_no_number_has_run_away():
    x = torch.cat([stream(1.0, 1.0, float("nan"), 1.0), stream(1.0, 1.0, 1.0, 1.2)])
    penalty, away = judged(x)
    assert away.tolist() == [True, False]
    assert not penalty.isnan()


def test_padding_neither_counts_nor_runs_away():
    keep = torch.tensor([[1, 1, 1, 0]])
    penalty, away = judged(stream(1.0, 1.0, 1.0, 1e6), keep=keep)
    assert penalty.item() == 0
    assert away.tolist() == [False]


def test_arbitrary_tokens_are_of_the_whole_vocabulary_and_the_batch_alone_decides_them():
    drawn = [StreamSizes.arbitrary({"input_ids": tokens(64, 64, seed)}, 384)["input_ids"] for seed in (0, 0, 1)]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    assert drawn[0].shape == (4, 64)
    assert int(drawn[0].min()) < 40
    assert int(drawn[0].max()) > 340


@pytest.mark.parametrize("large", [5.0, 1e30, float("nan")])
def test_the_worst_row_is_the_one_with_the_largest_token(large):
    norm = nn.Identity()
    sizes = StreamSizes([norm])
    batch = {"input_ids": torch.arange(12).reshape(3, 4)}
    x = torch.cat([stream(1.0, 1.0, 2.0, 1.0), stream(1.0, large, 1.0, 1.0), stream(1.0, 1.0, 1.0, 1.0)])
    assert sizes.worst(batch, lambda rows: norm(x))["input_ids"].tolist() == [[4, 5, 6, 7]]


def test_sizes_that_do_not_count_yet_leave_the_divergence_as_it_is():
    original = tiny_model("llama")
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(alpha="channel"), calibrate_on=tokens(16))
    norms = [module for module in model.modules() if isinstance(module, DyTNorm)]
    batch = {"input_ids": tokens(4)}
    sizes = StreamSizes(norms)
    plain = Distillation(model, original, "fp32").sums(model, batch).nats
    counted = Distillation(model, original, "fp32", sizes).sums(model, batch).nats
    sizes.counts = False
    left = Distillation(model, original, "fp32", sizes).sums(model, batch).nats
    assert left.item() == plain.item()
    assert counted.item() != plain.item()


def test_rows_that_ran_away_leave_the_divergence():
    original = tiny_model("llama")
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16))
    heads = model.get_output_embeddings(), original.get_output_embeddings()
    ids = tokens(3)
    rows = torch.tensor([False, True, False])
    some = divergence(model, heads[0], original, heads[1], {"input_ids": ids}, lambda: rows)
    expected = divergence(model, heads[0], original, heads[1], {"input_ids": ids[[0, 2]]})
    torch.testing.assert_close(some.nats, expected.nats)
    assert int(some.tokens) == int(expected.tokens) == 64


def test_the_weight_of_a_step_counts_the_rows_that_ran_away_too(monkeypatch):
    original = tiny_model("llama")
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16))
    sizes = StreamSizes([model.get_submodule(site.path) for site in unnorm.find_sites(model)])
    monkeypatch.setattr(StreamSizes, "judged", lambda self: (torch.zeros(()), torch.ones(len(self.keep)).bool()))
    found = Distillation(model, original, "fp32", sizes).sums(model, {"input_ids": tokens(3)})
    assert (found.nats.item(), int(found.tokens)) == (0.0, 0)
    assert found.weight.item() == tokens(3).numel(), "what the gradient is divided by"


def test_distillation_adds_the_penalty_and_the_worst_row_of_arbitrary_tokens():
    original = tiny_model("llama")
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(), calibrate_on=tokens(16))
    norms = [model.get_submodule(site.path) for site in unnorm.find_sites(model)]
    batch = {"input_ids": tokens(3)}
    sizes = StreamSizes(norms)
    watched = Distillation(model, original, "fp32", sizes).sums(model, batch)
    half = Distillation(model, original, "fp32", sizes).sums(model, batch, share=0.5)
    parts = []
    for each in (batch, sizes.worst(sizes.arbitrary(batch, 384), lambda rows: model(**rows))):
        with sizes.watching(each):
            model(**each)
            part, away = sizes.judged()
        assert not away.any()
        assert part.item() > 0
        plain = Distillation(model, original, "fp32").sums(model, each)
        parts.append(plain.nats + part)
    torch.testing.assert_close(watched.nats, parts[0] + parts[1])
    torch.testing.assert_close(half.nats, parts[0] + 0.5 * parts[1])  # of two such batches a step
    assert watched.tokens == batch["input_ids"].numel(), "the text alone"
    assert not sizes.seen
