"""Packed rows run text by text: the same logits and gradients as with a mask, and the mask where it says more."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import packed_positions, tiny_model, tokens
from surgery.architectures import CONFIGS, VOCABULARY, architecture
from unnorm.surgery import packed_attention as packed
from unnorm.surgery.packed_attention import packed_attention

LONG = packed._LONG


@pytest.fixture(autouse=True, scope="module")
def _short_rows_too():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packed, "_LONG", 1)
        yield


def logits(model, ids, positions=None, **more):
    packed = {} if positions is None else {"position_ids": positions}
    return model(input_ids=ids, use_cache=False, **packed, **more).logits


def both(model, *args, **more):
    """Logits as they are always, and while it is open."""
    with torch.no_grad():
        usual = logits(model, *args, **more)
        with packed_attention(model):
            return usual, logits(model, *args, **more)


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_texts_of_a_row_are_run_one_by_one(family, attention_calls):
    model, ids = tiny_model(family), tokens(2, 64)
    usual, found = both(model, ids, packed_positions((24, 40), (17, 30, 17)))
    torch.testing.assert_close(found, usual, rtol=1e-4, atol=1e-4 * float(usual.std()))
    layers = 2
    assert attention_calls[:layers] == [(64, 64, True)] * layers
    assert attention_calls[layers:] == [(n, n, False) for n in (24, 40, 17, 30, 17)] * layers
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("family", ["gpt_neox", "gpt2", "llama"])
def test_gradients_are_those_with_a_mask(family):
    model, ids, positions = tiny_model(family), tokens(2, 64), packed_positions((24, 40), (20, 44))
    found = []
    for models in ((), (model,)):
        with packed_attention(*models):
            logits(model, ids, positions).log_softmax(-1)[..., 3].sum().backward()
        found.append({name: p.grad for name, p in model.named_parameters()})
        model.zero_grad()
    for name, usual in found[0].items():
        torch.testing.assert_close(found[1][name], usual, rtol=1e-3, atol=1e-4 * float(usual.std() + 1e-6))


def test_a_model_that_names_the_mask_it_gives_to_its_attention():
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes = {name: value for name, value in CONFIGS["llama"][1].items() if name != "max_position_embeddings"}
    config = AutoConfig.for_model("doge", **sizes, vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=0)
    torch.manual_seed(0)
    usual, found = both(AutoModelForCausalLM.from_config(config).eval(), tokens(2, 32) % VOCABULARY)
    torch.testing.assert_close(found, usual)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=6))
def test_rows_of_any_texts_give_the_same(lengths):
    model = tiny_model("llama")
    ids, positions = tokens(1, sum(lengths)), packed_positions(tuple(lengths))
    usual, found = both(model, ids, positions)
    torch.testing.assert_close(found, usual, rtol=1e-4, atol=1e-4 * float(usual.std()))


@pytest.mark.parametrize("name", [name for name, (kind, _) in CONFIGS.items() if "bert" not in kind])
def test_any_architecture_gives_what_it_gives_always(name):
    """Windows, sinks, soft caps and ALiBi among them, and those that have an attention of their own."""
    model = architecture(name)
    ids = torch.randint(1, VOCABULARY, (1, 32), generator=torch.Generator().manual_seed(0))
    for more in (
        {"positions": packed_positions((16, 16))},
        {"attention_mask": torch.ones(1, 32, dtype=torch.long)},
        {},
    ):
        try:
            usual, found = both(model, ids, **more)
        except (TypeError, ValueError):  # it takes no positions
            assert "positions" in more
            continue
        torch.testing.assert_close(found, usual, rtol=1e-4, atol=1e-4 * float(usual.std()))


@pytest.mark.parametrize(
    "how",
    [
        pytest.param({"positions": packed_positions((3,) * 20 + (4,))}, id="many short texts"),
        pytest.param({"attention_mask": (torch.arange(64) < 50).long()[None]}, id="padding behind"),
        pytest.param({"attention_mask": (torch.arange(64) > 9).long()[None]}, id="padding before"),
    ],
)
def test_a_mask_of_anything_else_is_used_as_it_is(how, attention_calls):
    usual, found = both(tiny_model("llama"), tokens(1, 64), **how)
    assert torch.equal(found, usual)
    assert attention_calls == [(64, 64, True)] * 4


def test_short_rows_are_run_whole(attention_calls, monkeypatch):
    monkeypatch.setattr(packed, "_LONG", LONG)
    model, ids = tiny_model("llama"), tokens(1, LONG - 1)
    usual, found = both(model, ids, packed_positions((200, LONG - 201)))
    assert torch.equal(found, usual)
    assert all(masked for _, _, masked in attention_calls)


def test_a_window_is_kept(attention_calls):
    model = architecture("mistral")
    model.config.sliding_window = 8
    usual, found = both(model, torch.arange(32)[None] + 1, packed_positions((16, 16)))
    assert torch.equal(found, usual)
    assert all(masked for _, _, masked in attention_calls)


def test_one_text_and_decoding_have_no_mask_and_stay_as_they_are(attention_calls):
    model, ids = tiny_model("gpt2"), tokens(1, 24)
    usual, found = both(model, ids)
    assert torch.equal(found, usual)
    assert not any(masked for _, _, masked in attention_calls)
    with packed_attention(model):
        written = model.generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(written, model.generate(ids, max_new_tokens=4, do_sample=False))


def test_another_attention_is_left_alone():
    model = tiny_model("llama", attention="eager")
    with packed_attention(model):
        assert model.config._attn_implementation == "eager"


def test_the_outermost_puts_it_back_after_an_error_too():
    model = tiny_model("llama")

    def fails():
        with packed_attention(model):
            with packed_attention(model):
                pass
            assert model.config._attn_implementation != "sdpa"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fails()
    assert model.config._attn_implementation == "sdpa"
