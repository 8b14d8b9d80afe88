import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from unnorm.foundation import seeds
from unnorm.foundation.hashing import hash_json, hash_tensors, hash_text
from unnorm.foundation.terminal import plain, shorten


def test_hashes_are_pinned():
    """They name folders and decide splits: they must not change with a version or a machine."""
    assert hash_json({"b": [1, 2.5], "a": None}) == hash_json({"a": None, "b": [1, 2.5]})
    assert hash_json({"a": 1}) == "015abd7f5cc57a2d"
    assert hash_text("prompt") == 0xCF07194EE232EB53


def test_tensors_hash_by_name_shape_and_value_whatever_the_dtype():
    tensor = torch.randn(4, 6).bfloat16()
    assert hash_tensors({"x": tensor}) == hash_tensors({"x": tensor.float()})
    others = ({"y": tensor}, {"x": tensor.reshape(6, 4)}, {"x": tensor + 0.5}, {"x": tensor, "z": tensor})
    assert len({hash_tensors(other) for other in ({"x": tensor}, *others)}) == 5


def test_a_random_state_comes_back():
    seeds.seed_everything(7)
    state = seeds.capture()
    first = (torch.randn(3), random.random(), np.random.rand())
    seeds.restore(*state)
    again = (torch.randn(3), random.random(), np.random.rand())
    assert torch.equal(first[0], again[0])
    assert first[1:] == again[1:]


@given(st.text())
def test_untrusted_text_cannot_steer_a_terminal(text):
    shown = plain(text)
    assert not any(c in shown for c in "\x1b\x07\r\u202e\u2066\u200b\x9b")
    assert len(shorten(text, 20)) <= 20
