"""What adds to the residual stream."""

import pytest

import unnorm
from surgery.architectures import architecture
from unnorm.surgery.writers import stream_sum


def _found(model, swapped=None):
    sites = unnorm.find_sites(model)
    return stream_sum(model, sites, [site.path for site in sites if swapped is None or swapped(site.path)])


@pytest.mark.parametrize(
    "name", ["gpt2", "gpt_neox", "llama", "phi", "qwen2", "starcoder2", "olmo", "gptj", "bloom", "gemma3_text", "olmo2"]
)
def test_the_stream_is_the_sum_of_its_writers(name):
    model = architecture(name)
    found = _found(model)
    assert len(found.writers) == 4
    assert all(c == pytest.approx(1.0, abs=1e-2) for c in found.writers.values())
    assert found.scale == pytest.approx(1.0, abs=1e-2)
    behind_norms = name in ("gemma3_text", "olmo2")
    assert all(("norm" in path) == behind_norms for path in found.writers)


def test_a_scaled_stream_has_scaled_writers():
    model = architecture("granite")
    model.config.residual_multiplier = 0.3
    for layer in model.model.layers:
        layer.residual_multiplier = 0.3
    found = _found(model)
    assert len(found.writers) == 4
    assert all(c == pytest.approx(0.3, abs=1e-2) for c in found.writers.values())


def test_a_stream_that_no_norm_reads_before_the_first_writer_starts_at_the_embeddings():
    found = _found(architecture("olmo2"))
    assert (found.start, found.start_is_input) == ("model.embed_tokens", False)


@pytest.mark.parametrize(("name", "first"), [("llama", "self_attn.o_proj"), ("gemma2", "post_attention_layernorm")])
def test_what_was_written_before_the_first_swapped_site_does_not_count(name, first):
    found = _found(architecture(name), lambda path: "layers.0" not in path)
    assert found.start == "model.layers.1.input_layernorm"
    assert next(iter(found.writers)) == f"model.layers.1.{first}"
    assert len(found.writers) == 2


@pytest.mark.parametrize("name", ["mixtral", "bert", "opt, post-norm"])
def test_a_stream_that_is_no_such_sum_is_none(name):
    assert _found(architecture(name)) is None
