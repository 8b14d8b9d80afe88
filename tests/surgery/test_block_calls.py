"""Blocks by themselves: their paths, stand-ins for them, and hidden states in files."""

import errno
import os

import pytest
import torch

from conftest import tiny_model, tokens
from unnorm.foundation.errors import DiskError
from unnorm.surgery.block_calls import Spill, block_of, standing_in


def test_block_of():
    assert block_of("model.layers.12.self_attn.q_layernorm.norms.3") == "model.layers.12"
    assert block_of("transformer.ln_f") == ""


def test_a_stand_in_is_gone_afterwards():
    model = tiny_model("gpt2")
    own = model.transformer.h[1].forward
    model.transformer.h[1].forward = own  # a forward of the module's own, as accelerate puts there
    before = model(tokens(1)).logits
    blocks = ["transformer.h.0", "transformer.h.1"]
    with standing_in(model, blocks, lambda path, forward: lambda hidden, *a, **k: 0 * hidden):
        assert not torch.equal(model(tokens(1)).logits, before)
    assert torch.equal(model(tokens(1)).logits, before)
    assert ["forward" in model.get_submodule(path).__dict__ for path in blocks] == [False, True]


def test_a_file_holds_its_parts_and_may_be_written_again(tmp_path):
    spill = Spill(tmp_path)
    for rows in (5, 2):
        parts = [torch.randn(rows, 3), torch.randn(1, 3)]
        stored = spill.put("x", parts)
        assert torch.equal(stored, torch.cat(parts))
        stored.add_(1)  # as long as it is mapped, it can be written to


def test_a_full_disk_is_an_error_and_no_crash(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(DiskError, match="the disk is full"):
        Spill(tmp_path).put("x", [torch.zeros(4, 4)])
