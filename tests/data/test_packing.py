import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unnorm.data.encode import Encoded
from unnorm.data.packing import collate_packed, collate_padded, pack, token_count
from unnorm.metrics.token_sums import IGNORED

LENGTH = 32


def encoded(length: int, start: int) -> Encoded:
    ids = np.arange(start, start + length, dtype=np.int64)
    labels = ids.copy()
    labels[0] = IGNORED
    return Encoded(ids, labels)


@given(st.lists(st.integers(1, LENGTH), max_size=60))
@settings(max_examples=60, deadline=None)
def test_packing_loses_nothing_and_overfills_nothing(lengths):
    items = [encoded(length, 1000 * i) for i, length in enumerate(lengths)]
    rows, efficiency = pack(items, LENGTH)
    assert sorted(int(item.ids[0]) for row in rows for item in row) == [1000 * i for i in range(len(items))]
    assert all(token_count([row]) <= LENGTH for row in rows)
    if rows:
        assert efficiency == sum(lengths) / (len(rows) * LENGTH)
        # best-fit decreasing is within 11/9 of the best there could be, which is at least the total over the length
        assert len(rows) <= 11 / 9 * max(-(-sum(lengths) // LENGTH), sum(2 * n > LENGTH for n in lengths)) + 4


def test_packing_is_tight_on_lengths_like_alpacas():
    lengths = np.clip(np.random.Generator(np.random.PCG64(0)).lognormal(4.3, 0.5, 4000), 12, 256).astype(int)
    assert pack([encoded(int(n), 0) for n in lengths], 256).efficiency > 0.98


def test_a_packed_batch():
    batch = collate_packed([[encoded(3, 10), encoded(4, 20)], [encoded(8, 30)]], 8, pad_id=7)
    assert batch["input_ids"].tolist() == [[10, 11, 12, 20, 21, 22, 23, 7], list(range(30, 38))]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3, 0], list(range(8))]
    x = IGNORED
    assert batch["labels"].tolist() == [[x, 11, 12, x, 21, 22, 23, x], [x, 31, 32, 33, 34, 35, 36, 37]]
    assert batch["tokens"].tolist() == [7, 8]
    assert "attention_mask" not in batch


def test_a_padded_batch_masks_by_position():
    item = Encoded(np.array([5, 7]), np.array([IGNORED, 7]))  # 7 is eos and pad
    batch = collate_padded([[item], [encoded(4, 30)]], pad_id=7)
    assert batch["input_ids"].tolist() == [[5, 7, 7, 7], [30, 31, 32, 33]]
    assert batch["labels"].tolist()[0] == [IGNORED, 7, IGNORED, IGNORED]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert torch.equal(batch["tokens"], torch.tensor([2, 4]))


def test_weights_are_in_every_batch_of_weighted_rows():
    light = Encoded(np.array([5, 6]), np.array([IGNORED, 6]), np.array([0, 0.5], dtype=np.float32))
    packed = collate_packed([[light, encoded(3, 10)]], 8, pad_id=7, weighted=True)
    assert packed["weights"].tolist() == [[0, 0.5, 0, 1, 1, 0, 0, 0]]
    padded = collate_padded([[light], [encoded(3, 10)]], pad_id=7, weighted=True)
    assert padded["weights"].tolist() == [[0, 0.5, 0], [0, 1, 1]]
    assert "weights" not in collate_packed([[encoded(3, 10)]], 8, pad_id=7)
