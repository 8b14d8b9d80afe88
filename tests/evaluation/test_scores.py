"""Scores are what one token after the other gives, whatever the batches, the padding, the processes, the vocabulary."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import unnorm
import unnorm.metrics.output_layer as output_layer
import warm
from conftest import FAMILIES, tiny_model
from unnorm.data.encode import Encoded, encode
from unnorm.data.sources import conversations_of
from unnorm.evaluation.losses import by_group, by_position, compare, losses
from unnorm.evaluation.scores import Item, score
from unnorm.foundation.errors import DataError, NonFiniteError


@pytest.fixture(scope="module")
def items(tokenizer, data_file) -> list[Item]:
    reading = conversations_of(json.loads(Path(data_file).read_text()), "rows")
    rows = encode(reading.conversations, tokenizer, template="alpaca-short", max_length=64, quiet=True).rows
    return [Item(row, ("red", "blue")[n % 2], 1000 + n) for n, row in enumerate(rows[:40])]


def one_by_one(model, item: Item) -> np.ndarray:
    """nats, tokens, top1, top5 of each predicted token's position, by hand: [T − 1, 5], the last is trained."""
    with torch.no_grad():
        log_p = model(torch.from_numpy(item.row.ids)[None]).logits[0].double().log_softmax(-1)
    found = []
    for t in range(1, len(item.row.ids)):
        token = int(item.row.ids[t])
        best = log_p[t - 1].argsort(descending=True)[:5].tolist()
        found.append([-float(log_p[t - 1, token]), 1, best[0] == token, token in best, item.row.labels[t] != -100])
    return np.array(found, dtype=float)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("logits", [2**26, 384 * 7])
def test_they_are_what_one_by_one_gives(family, packed, logits, items, tokenizer, monkeypatch):
    monkeypatch.setattr(output_layer, "LOGITS", logits)
    model = tiny_model(family).train()
    scores = score(model, tokenizer, items, max_length=64, packed=packed)
    assert model.training
    model.eval()
    for n, item in enumerate(items):
        wanted = one_by_one(model, item)
        trained = wanted[wanted[:, 4] == 1]
        np.testing.assert_allclose(scores.all[n, :4], wanted[:, :4].sum(0), rtol=1e-5)
        np.testing.assert_allclose(scores.trained[n, :4], trained[:, :4].sum(0), rtol=1e-5)
        text = tokenizer.decode(item.row.ids[1:], skip_special_tokens=True)
        assert scores.all[n, 4] == len(text.encode())
    assert scores.keys.tolist() == [item.key for item in items]
    assert scores.groups.tolist() == [item.group for item in items]


def test_no_more_logits_are_held_than_allowed(items, tokenizer, monkeypatch):
    monkeypatch.setattr(output_layer, "LOGITS", 384 * 10)
    model = tiny_model("gpt2")
    seen = []
    model.lm_head.register_forward_hook(lambda module, args, out: seen.append(out.numel()))
    score(model, tokenizer, items, max_length=64, packed=True)
    assert max(seen) <= 384 * 10
    assert len(seen) > 10


def test_losses_are_sums_over_sums(items, tokenizer):
    scores = score(tiny_model("llama"), tokenizer, items, max_length=64, packed=True)
    for which in ("trained", "all"):
        sums = getattr(scores, which).sum(0)
        found = losses(scores, which)
        assert found.nats_per_token.value == pytest.approx(sums[0] / sums[1])
        assert found.perplexity.value == pytest.approx(np.exp(sums[0] / sums[1]))
        assert found.top1.value == pytest.approx(sums[2] / sums[1])
        assert found.top5.value == pytest.approx(sums[3] / sums[1])
        assert found.nats_per_byte.value == pytest.approx(sums[0] / sums[4])
        assert found.nats_per_token.low < found.nats_per_token.value < found.nats_per_token.high
        assert (found.tokens, found.bytes, found.conversations) == (sums[1], sums[4], 40)
    groups = by_group(scores)
    assert set(groups) == {"red", "blue"}
    assert sum(group.tokens for group in groups.values()) == losses(scores).tokens
    positions = by_position(scores, "all")
    assert sum(place["tokens"] for place in positions) == losses(scores, "all").tokens
    assert [place["from"] for place in positions] == [1, 2, 4, 8, 16, 32][: len(positions)]
    assert positions[0]["tokens"] == 40
    nats = sum(place["nats_per_token"] * place["tokens"] for place in positions)
    assert nats == pytest.approx(scores.all[:, 0].sum())


def test_a_model_against_itself_and_against_another(items, tokenizer):
    first = score(tiny_model("gpt2"), tokenizer, items, max_length=64, packed=True)
    again = score(tiny_model("gpt2"), tokenizer, items, max_length=64, packed=False)
    same = compare(first, again)
    assert same.per == "token"
    assert abs(same.difference.value) < 1e-5
    assert same.difference.low <= same.difference.high
    other = score(tiny_model("gpt2", seed=3), tokenizer, items[5:], max_length=64, packed=True)
    found = compare(first, other)
    assert (found.conversations, found.left_out) == (35, 5)
    a, b = first.trained[5:], other.trained
    assert found.difference.value == pytest.approx(a[:, 0].sum() / a[:, 1].sum() - b[:, 0].sum() / b[:, 1].sum())
    assert found.relative.value == pytest.approx(found.first / found.second - 1)
    assert compare(first, other) == found  # the same resamples
    with pytest.raises(DataError, match="no conversation in common"):
        compare(first, score(tiny_model("gpt2"), tokenizer, [items[0]._replace(key=5)], max_length=64, packed=True))


def test_a_loss_that_is_no_number_names_what_may_be_the_cause(items, tokenizer):
    for spec, may_run_away in ((unnorm.DyT(), False), (unnorm.FixedScale(center=False), True)):
        model = tiny_model("llama")
        unnorm.swap_(model, spec, calibrate_on=None)
        with torch.no_grad():
            model.get_input_embeddings().weight.fill_(float("inf"))
        with pytest.raises(NonFiniteError, match="has diverged") as error:
            score(model, tokenizer, items, max_length=64, packed=True)
        assert ("a token ran away" in str(error.value)) == may_run_away


def test_other_tokens_are_compared_by_the_byte(items, tokenizer):
    first = score(tiny_model("gpt2"), tokenizer, items, max_length=64, packed=True)
    letters = []  # the same text, a token a byte
    for item in items:
        ids, labels = [int(item.row.ids[0])], [-100]
        for token, label in zip(item.row.ids[1:].tolist(), item.row.labels[1:].tolist(), strict=True):
            parts = (
                [token] if token == 0 else tokenizer.convert_tokens_to_ids(list(tokenizer.convert_ids_to_tokens(token)))
            )
            ids += parts
            labels += [-100 if label == -100 else part for part in parts]
        letters.append(item._replace(row=Encoded(np.array(ids), np.array(labels))))
    other = score(tiny_model("llama"), tokenizer, letters, max_length=256, packed=True)
    np.testing.assert_array_equal(first.trained[:, 4], other.trained[:, 4])
    assert other.trained[:, 1].sum() > first.trained[:, 1].sum()
    found = compare(first, other)
    assert found.per == "byte"
    assert found.first == pytest.approx(first.trained[:, 0].sum() / first.trained[:, 4].sum())


def test_intervals_cover_the_truth():
    """Conversations of different length whose tokens share a conversation's difficulty: 95 % intervals, 300 times."""
    from unnorm.evaluation.scores import Scores

    generator = np.random.default_rng(0)
    truth, covered = 3.0, 0
    for seed in range(300):
        tokens = generator.integers(5, 60, 120)
        nats = tokens * (truth + generator.normal(0, 0.8, 120)) + generator.normal(0, 1, 120) * np.sqrt(tokens)
        sums = np.stack([nats, tokens, tokens / 2, tokens / 2, tokens * 4], 1).astype(float)
        count = np.arange(120)
        scores = Scores(sums, sums, count, np.full(120, "", dtype=object), count, np.zeros((2, 20, 4)))
        interval = losses(scores, seed=seed).nats_per_token
        covered += interval.low <= truth <= interval.high
    assert 0.91 <= covered / 300 <= 0.98


def test_one_conversation_has_no_interval(items, tokenizer):
    scores = score(tiny_model("gpt2"), tokenizer, items[:1], max_length=64, packed=True)
    found = losses(scores)
    assert found.nats_per_token.low is None
    with pytest.raises(DataError, match="no token"):
        losses(scores.of(np.array([False])))


# Each process ends without the interpreter's own clean-up: in it gloo's worker threads, which may still hold the last
# gathered tensors, now and then abort the process ("terminate called without an active exception").
DISTRIBUTED = """
import json, os, sys
sys.path.insert(0, {tests!r})
import numpy as np, torch, torch.distributed as dist
from conftest import tiny_model
from unnorm.data.encode import Encoded
from unnorm.evaluation.scores import Item, score
from transformers import AutoTokenizer
torch.set_num_threads(1)
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
tokenizer = AutoTokenizer.from_pretrained(sys.argv[3])
rows = json.load(open(sys.argv[4]))
items = [Item(Encoded(np.array(i), np.array(l)), g, k) for i, l, g, k in rows]
scores = score(tiny_model("llama"), tokenizer, items, max_length=64, packed=True)
if rank == 1:
    print(json.dumps([scores.trained.tolist(), scores.all.tolist(), scores.keys.tolist(), scores.positions.tolist()]))
dist.destroy_process_group()
sys.stdout.flush()
os._exit(0)
"""


def test_two_processes_give_what_one_gives(items, tokenizer, bases, tmp_path):
    rows = [[i.row.ids.tolist(), i.row.labels.tolist(), i.group, i.key] for i in items[:-1]]  # an odd number
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    program = DISTRIBUTED.format(tests=str(Path(__file__).parents[1]))
    common = [str(tmp_path / "meet"), bases["llama"], str(tmp_path / "rows.json")]
    started = [warm.start(program, rank, *common) for rank in (0, 1)]
    assert [process.wait() for process in started] == [0, 0]
    found = json.loads(started[1].stdout.splitlines()[-1])
    alone = score(tiny_model("llama"), tokenizer, items[:-1], max_length=64, packed=True)
    for mine, theirs in zip((alone.trained, alone.all, alone.keys, alone.positions), found, strict=True):
        np.testing.assert_allclose(theirs, mine, rtol=1e-6)


MEMORY = """
import re, sys
import numpy as np, torch
from conftest import tiny_model
from transformers import AutoTokenizer
from unnorm.data.encode import Encoded
from unnorm.evaluation.losses import losses
from unnorm.evaluation.scores import Item, score
torch.set_num_threads(1)
model, tokenizer = tiny_model("gpt2"), AutoTokenizer.from_pretrained(sys.argv[1])
def items(count):
    for n in range(count):
        ids = np.arange(4) + n % 300
        yield Item(Encoded(ids, ids.copy()), "g", n)
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) / 1024
found = []
for count in (1_000, 20_000):
    losses(score(model, tokenizer, items(count), max_length=64, packed=True))
    found.append(peak())
print(found[1] - found[0])
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's account of memory")
def test_memory_does_not_grow_with_the_data(bases):
    done = warm.run(MEMORY, bases["gpt2"])
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split()[-1]) < 40  # megabytes: a handful of sums a conversation, and their resamples
