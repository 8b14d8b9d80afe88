"""Noise in the stream while layers are corrected: what it is, and that a disturbed sink does less harm with it."""

import copy

import torch

import unnorm
from sinks import sink_model, toy_text
from unnorm import DyT
from unnorm.surgery import correct
from unnorm.surgery.inputs import with_pieces
from unnorm.surgery.noise import StreamNoise
from unnorm.surgery.outliers import sizes
from unnorm.tuning.distance import distance


def written(seed=0):
    return torch.randn(4000, 32, generator=torch.Generator().manual_seed(seed))


def test_noise_is_a_share_of_what_is_written_channel_by_channel_and_token_by_token():
    x = written().sign()
    x[:, 3] *= 10
    x[5] *= 50
    noise = StreamNoise(0.1).of(x)
    ordinary = torch.arange(len(x)) != 5
    by_channel = noise[ordinary].square().mean(0).sqrt() / x[ordinary].square().mean(0).sqrt()
    torch.testing.assert_close(by_channel, torch.full((32,), 0.1), rtol=0.2, atol=0.0)
    assert sizes(noise)[5] > 20 * sizes(noise).median()


def test_noise_is_the_same_for_the_same_seed_and_another_each_time():
    x, one, other = written(), StreamNoise(), StreamNoise()
    first = one.of(x)
    assert torch.equal(first, other.of(x))
    assert not torch.equal(one.of(x), first)
    assert not torch.equal(StreamNoise(seed=1).of(x), first)


def test_half_of_the_rows_is_cut_to_pieces_and_a_single_row_is_taken_both_ways():
    batch = {"input_ids": torch.arange(40).view(4, 10), "position_ids": torch.arange(10).expand(4, 10)}
    found = with_pieces(batch, 4)["position_ids"]
    assert found[:2].tolist() == [list(range(10))] * 2
    assert found[2:].tolist() == [[0, 1, 2, 3, 0, 1, 2, 3, 0, 1]] * 2
    one = with_pieces({name: tensor[:1] for name, tensor in batch.items()}, 4)
    assert one["input_ids"].tolist() == [list(range(10))] * 2
    assert one["position_ids"].tolist() == [list(range(10)), [0, 1, 2, 3, 0, 1, 2, 3, 0, 1]]


def test_pieces_begin_with_the_token_that_begins_every_text():
    batch = {"input_ids": 50 + torch.arange(20).view(2, 10), "position_ids": torch.arange(10).expand(2, 10)}
    found = with_pieces(batch, 4, bos=2)["input_ids"]
    assert found.tolist() == [list(range(50, 60)), [2, 61, 62, 63, 2, 65, 66, 67, 2, 69]]
    assert batch["input_ids"].min() == 50


def test_a_sink_that_is_disturbed_or_another_word_does_less_harm_with_noise(monkeypatch):
    original, ids, held_out = sink_model(layers=8, steps=100), toy_text(64), toy_text(32, seed=9)
    ids[:, 0] = 5  # one word begins every text, as a template has it
    harm, kl = [], []
    for share in (0.0, 0.1):
        monkeypatch.setattr(correct, "StreamNoise", lambda share=share: StreamNoise(share))
        model = copy.deepcopy(original)
        unnorm.swap_(model, DyT(alpha="channel"), calibrate_on=ids, correct="all")
        harm.append(_moved_by_the_first_token(model, held_out))
        kl.append(distance(model, original, [{"input_ids": held_out}]).kl)
    assert harm[1] < 0.5 * harm[0]
    assert kl[1] < 0.85 * kl[0]


@torch.no_grad()
def _moved_by_the_first_token(model, ids):
    """How far the logits of later tokens move, as a share of them, if the first embedding changes by a hundredth."""
    embedded = model.get_input_embeddings()(ids)
    change = torch.randn(embedded[:, :1].shape, generator=torch.Generator().manual_seed(3))
    moved = embedded.clone()
    moved[:, :1] += 0.01 * embedded[:, :1].norm(dim=-1, keepdim=True) * change / change.norm(dim=-1, keepdim=True)
    before, after = (model(inputs_embeds=each).logits[:, 1:] for each in (embedded, moved))
    return float((after - before).norm() / before.norm())
