"""A stream without massive activations, and layers that are corrected to give it."""

import copy

import torch

import unnorm
from conftest import tiny_model, tokens
from sinks import sink_model, toy_text
from unnorm import DyT
from unnorm.surgery import correct
from unnorm.surgery.calmer import LIMIT, calmer
from unnorm.surgery.outliers import sizes
from unnorm.tuning.distance import distance


def stream(seed=0):
    return torch.randn(50, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_only_large_tokens_change_and_only_where_they_stand_out():
    x = stream()
    x[7] *= 0.01
    x[7, 2] = -900.0
    x[7, 5] = 400.0
    found = calmer(x)
    rest = torch.arange(50) != 7
    assert torch.equal(found[rest], x[rest])
    limit = LIMIT * x[rest].square().mean(0).sqrt()
    assert torch.equal(found[7, [2, 5]], torch.stack([-limit[2], limit[5]]))
    others = [0, 1, 3, 4, 6, 7]
    assert torch.equal(found[7, others], x[7, others])
    assert x[7, 2] == -900.0  # a copy


def test_without_large_tokens_nothing_changes():
    x = stream()
    assert calmer(x) is x


def test_a_sink_is_as_large_as_other_tokens_once_layers_are_corrected():
    original = sink_model()
    ids = toy_text(32)
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(alpha="channel"), calibrate_on=ids, correct="all")
    largest = []
    for each in (original, model):
        with torch.no_grad():
            hidden = each(toy_text(8, seed=5), output_hidden_states=True).hidden_states[-2]  # before the last block
        size = sizes(hidden.flatten(0, 1))
        largest.append(float(size.max() / size.median()))
    assert largest[0] > 50
    assert largest[1] < 10


def test_a_model_with_a_sink_ends_nearer_than_with_the_original_stream_as_the_aim(monkeypatch):
    original, ids, held_out = sink_model(steps=100), toy_text(128), {"input_ids": toy_text(16, seed=9)}
    found = []
    for aim in (calmer, lambda x: x):
        monkeypatch.setattr(correct, "calmer", aim)
        model = copy.deepcopy(original)
        unnorm.swap_(model, DyT(alpha="channel"), calibrate_on=ids, correct="all")
        found.append(distance(model, original, [held_out]).kl)
    assert found[0] < 0.9 * found[1]


def test_a_model_without_large_tokens_is_corrected_as_before(monkeypatch):
    ends = []
    for aim in (calmer, lambda x: x):
        monkeypatch.setattr(correct, "calmer", aim)
        model = tiny_model("llama")
        unnorm.swap_(model, DyT(), calibrate_on=tokens(64), correct="all")
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())
