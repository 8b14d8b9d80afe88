"""PyTorch's attention over texts behind one another needs a GPU: a stand-in for it gets what it is promised here."""

from itertools import pairwise

import pytest
import torch
from torch.nn.attention import varlen as torch_varlen

from conftest import packed_positions, tiny_model, tokens
from unnorm.surgery import packed_attention as packed
from unnorm.surgery import varlen
from unnorm.surgery.packed_attention import packed_attention


def text_by_text(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False):
    """As torch's documentation has it: q [tokens, heads, D], k and v with as many heads or, grouped, fewer."""
    assert cu_seq_q.dtype == torch.int32
    assert torch.equal(cu_seq_q, cu_seq_k)
    assert (int(cu_seq_q[0]), int(cu_seq_q[-1])) == (0, len(q))
    assert max_q == max_k == int(cu_seq_q.diff().max())
    assert window_size == (-1, 0)
    assert enable_gqa == (q.shape[1] != k.shape[1])
    outs = []
    for first, end in pairwise(cu_seq_q):
        parts = [x[first:end].transpose(0, 1) for x in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(*parts, is_causal=True, scale=scale, enable_gqa=True)
        outs.append(out.transpose(0, 1))
    return torch.cat(outs)


@pytest.fixture(autouse=True)
def _asked_anew():
    varlen._serves.cache_clear()
    yield
    varlen._serves.cache_clear()


def qkv(dtype=torch.bfloat16, heads=4, key_heads=2):
    return [torch.randn(1, n, 24, 16, dtype=dtype) for n in (heads, key_heads, key_heads)]


def test_it_serves_where_it_gives_what_a_mask_gives(monkeypatch):
    monkeypatch.setattr(torch_varlen, "varlen_attn", text_by_text)
    assert varlen.varlen_serves(*qkv(), None)
    assert varlen.varlen_serves(*qkv(key_heads=4), 0.3)
    with torch.inference_mode():
        assert varlen.varlen_serves(*qkv(key_heads=1), None)


def test_it_does_not_serve_in_fp32(monkeypatch):
    monkeypatch.setattr(torch_varlen, "varlen_attn", text_by_text)
    assert not varlen.varlen_serves(*qkv(torch.float32), None)
    q, k, v = qkv()
    assert not varlen.varlen_serves(q, k, v.float(), None)


def larger(q, k, v, *args, **options):
    return text_by_text(q, k, v, *args, **options) * 1.05


def without_gradient(*args, **options):
    return text_by_text(*args, **options).detach()


def missing(*args, **options):
    raise RuntimeError("not for this device")


@pytest.mark.parametrize("other", [larger, without_gradient, missing])
def test_it_does_not_serve_where_it_fails_or_gives_something_else(monkeypatch, other):
    monkeypatch.setattr(torch_varlen, "varlen_attn", other)
    assert not varlen.varlen_serves(*qkv(), None)


def test_this_machine_is_asked_itself():
    assert not varlen.varlen_serves(*qkv(), None)  # a CPU has none


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_a_model_gives_the_same_with_it(monkeypatch, family):
    """The way of a GPU, taken on a CPU."""
    monkeypatch.setattr(torch_varlen, "varlen_attn", text_by_text)
    monkeypatch.setattr(packed, "_LONG", 1)
    monkeypatch.setattr(packed, "_one_by_one", None)
    monkeypatch.setattr(packed, "_on_cpu", lambda x: False)
    monkeypatch.setattr(packed, "varlen_serves", lambda *args: True)
    model, ids = tiny_model(family), tokens(2, 64)
    positions = packed_positions((24, 40), (17, 30, 17))
    with torch.no_grad():
        usual = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        with packed_attention(model):
            found = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    torch.testing.assert_close(found, usual, rtol=1e-4, atol=1e-4 * float(usual.std()))


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_it_serves_under_autocast_over_fp32_weights(monkeypatch, family):
    """Queries and keys leave their rotation in fp32, values a product in bf16: attention is in bf16 all the same."""
    dtypes = []

    def seen(*qkv, **options):
        dtypes.append([x.dtype for x in qkv[:3]])
        return text_by_text(*qkv, **options)

    monkeypatch.setattr(torch_varlen, "varlen_attn", seen)
    monkeypatch.setattr(packed, "_LONG", 1)
    monkeypatch.setattr(packed, "_one_by_one", None)
    monkeypatch.setattr(packed, "_on_cpu", lambda x: False)
    model, ids = tiny_model(family), tokens(2, 64)
    positions = packed_positions((24, 40), (17, 30, 17))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        usual = model(input_ids=ids, position_ids=positions, use_cache=False).logits
        with packed_attention(model):
            found = model(input_ids=ids, position_ids=positions, use_cache=False).logits
    trial, layers = 1, 2
    assert dtypes == [[torch.bfloat16] * 3] * (trial + layers)
    assert found.dtype == usual.dtype
    assert float((found - usual).norm()) < 0.02 * float(usual.norm())


def test_fp64_stays_fp64_under_autocast_as_in_attention_itself():
    q, k, v = (x.double() for x in qkv())
    with torch.autocast("cpu", torch.bfloat16):
        assert [x.dtype for x in packed._under_autocast(q, k, v)] == [torch.float64] * 3
        assert torch.nn.functional.scaled_dot_product_attention(q, q, q).dtype == torch.float64
