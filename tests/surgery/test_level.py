"""A stream without large tokens, and layers that are corrected to give it."""

import copy

import torch

import unnorm
from conftest import tiny_model, tokens
from sinks import sink_model, toy_text
from unnorm import DyT
from unnorm.surgery import correct
from unnorm.surgery.level import levelled
from unnorm.surgery.outliers import sizes
from unnorm.tuning.distance import distance


def stream(seed=0):
    return torch.randn(50, 64, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_large_token_is_scaled_to_the_median_and_no_other():
    x = stream()
    median = sizes(x).median()
    x[7] *= 900
    found = levelled(x)
    rest = torch.arange(50) != 7
    assert torch.equal(found[rest], x[rest])
    torch.testing.assert_close(sizes(found)[7], median, rtol=0.05, atol=0.0)
    torch.testing.assert_close(found[7] / found[7].norm(), x[7] / x[7].norm())


def test_without_large_tokens_nothing_changes():
    x = stream()
    assert levelled(x) is x


def test_the_originals_norms_read_the_same_in_it():
    x = stream()
    x[7] *= 900
    for norm in (torch.nn.LayerNorm(64, dtype=torch.float64), torch.nn.RMSNorm(64, dtype=torch.float64)):
        torch.testing.assert_close(norm(levelled(x)), norm(x), rtol=1e-4, atol=1e-5)


def test_a_sink_is_as_large_as_other_tokens_once_layers_are_corrected():
    original = sink_model()
    model = copy.deepcopy(original)
    unnorm.swap_(model, DyT(alpha="channel"), calibrate_on=toy_text(32), correct="all")
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
    for aim in (levelled, lambda x: x):
        monkeypatch.setattr(correct, "levelled", aim)
        model = copy.deepcopy(original)
        unnorm.swap_(model, DyT(alpha="channel"), calibrate_on=ids, correct="all")
        found.append(distance(model, original, [held_out]).kl)
    assert found[0] < 0.9 * found[1]


def test_a_model_without_large_tokens_is_corrected_as_before(monkeypatch):
    ends = []
    for aim in (levelled, lambda x: x):
        monkeypatch.setattr(correct, "levelled", aim)
        model = tiny_model("gpt2")
        unnorm.swap_(model, DyT(), calibrate_on=tokens(64), correct="all")
        ends.append(model.state_dict())
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())
