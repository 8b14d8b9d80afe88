"""What comes into each norm, and what is said of it: on planted sinks, large tokens and large channels, and on none."""

from dataclasses import replace

import pytest
import torch

import unnorm
from conftest import kl, tiny_model, tokens
from sinks import sink_model, toy_text
from surgery.architectures import architecture, architecture_tokens
from unnorm import DyT
from unnorm.foundation.errors import DataError, ModelError
from unnorm.surgery.anatomy import Spread
from unnorm.surgery.anatomy_verdict import SiteAnatomy, verdict
from unnorm.surgery.base import load_base


def inputs_of(model, ids) -> dict[str, torch.Tensor]:
    """Path -> what comes into the site, [B, T, C]."""
    seen: dict[str, torch.Tensor] = {}
    handles = [
        model.get_submodule(site.path).register_forward_pre_hook(
            lambda _, args, path=site.path: seen.update({path: args[0]})
        )
        for site in unnorm.find_sites(model)
    ]
    with torch.no_grad():
        model(ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return seen


def packed(ids: torch.Tensor, length: int, lengths: list[int]) -> dict[str, torch.Tensor]:
    """One row of `length`: the starts of the rows of ids, of `lengths`, and the rest padding of token 0."""
    row, positions = torch.zeros(1, length, dtype=torch.long), torch.zeros(1, length, dtype=torch.long)
    at = 0
    for one, count in zip(ids, lengths, strict=True):
        row[0, at : at + count], positions[0, at : at + count] = one[:count], torch.arange(count)
        at += count
    positions[0, at:] = torch.arange(length - at)
    return {"input_ids": row, "position_ids": positions, "tokens": torch.tensor([at])}


def found_of(anatomy) -> dict[str, tuple[str, ...]]:
    return {finding.what: finding.sites for finding in anatomy.verdict.findings}


@pytest.fixture(scope="module")
def planted():
    return sink_model()


def test_a_sink_is_found_where_it_is(planted):
    anatomy = unnorm.site_anatomy(planted, toy_text(16))
    assert (anatomy.tokens, anatomy.sequences) == (16 * 64, 16)
    with_sink = [
        "model.layers.2.input_layernorm", "model.layers.2.post_attention_layernorm",
        "model.layers.3.input_layernorm", "model.layers.3.post_attention_layernorm", "model.norm",
    ]  # fmt: skip
    assert found_of(anatomy) == {"sink": tuple(with_sink)}
    for site in anatomy.sites:
        assert (site.first > 200 * site.median) == (site.path in with_sink)
        assert site.largest < 3 * site.median  # the sink is at position 0 alone
    assert "Position 0 is an attention sink from layer 2 on" in anatomy.verdict.text[0]
    assert "unnorm recover" in anatomy.verdict.text[-1]


def test_no_sink_is_called_where_there_is_none():
    anatomy = unnorm.site_anatomy(sink_model(size=0), toy_text(16))
    assert found_of(anatomy) == {}
    assert "Nothing stands out" in anatomy.verdict.text[0]


@pytest.mark.parametrize(
    ("large", "where"),
    [
        ({"h.2.a", "h.2.b", "h.3.a", "h.3.b"}, "in layers 2 to 3"),
        ({"h.1.b"}, "in layer 1"),
        ({"h.0.a", "h.2.b", "h.3.a", "norm"}, "in layers 0, 2 to 3 and at the final norm"),
        ({"h.3.a", "h.4.a", "norm"}, "from layer 3 on"),
        ({"h.3.a", "h.4.b"}, "in layers 3 to 4"),
        ({"norm"}, "at the final norm"),
        ({f"h.{layer}.a" for layer in range(5)}, "in every layer"),
    ],
)
def test_where_a_sink_is_said_to_be(large, where):
    one = SiteAnatomy("", "mlp", "rmsnorm", 8, 0, 1.0, 1.0, 0.9, 1.1, 0.1, 2.0, 0.0, (), 0.0, 0.0, 0)
    paths = [f"h.{layer}.{part}" for layer in range(5) for part in "ab"] + ["norm"]
    sites = [
        replace(one, path=path, role="final" if path == "norm" else "mlp", first=30.0 if path in large else 19.0)
        for path in paths
    ]
    found = verdict(sites)
    assert set(found.findings[0].sites) == large
    assert f"Position 0 is an attention sink {where}: it is up to 30 times" in found.text[0]


def test_position_0_is_each_sequences_own_in_packed_rows_and_padding_is_left_out(planted):
    ids = toy_text(3)
    anatomy = unnorm.site_anatomy(planted, packed(ids, 96, [20, 30, 25]))
    assert (anatomy.tokens, anatomy.sequences) == (75, 3)
    last = anatomy.sites[-1]
    assert last.first > 200 * last.median
    assert last.largest < 3 * last.median
    without_count = {name: value for name, value in packed(ids, 96, [20, 30, 25]).items() if name != "tokens"}
    counted = unnorm.site_anatomy(planted, without_count)
    assert (counted.tokens, counted.sequences) == (96, 4)
    assert counted.sites[-1].largest > 200 * last.median  # padding that repeats its first token is all sink


@pytest.mark.parametrize("side", ["left", "right"])
def test_position_0_of_padded_rows(planted, side):
    ids = toy_text(4, 40)
    padding = torch.zeros(4, 8, dtype=torch.long)
    order = (padding, ids) if side == "left" else (ids, padding)
    mask = torch.cat([torch.full_like(part, int(part is ids)) for part in order], 1)
    anatomy = unnorm.site_anatomy(planted, {"input_ids": torch.cat(order, 1), "attention_mask": mask})
    assert (anatomy.tokens, anatomy.sequences) == (160, 4)
    assert anatomy.sites[-1].first > 200 * anatomy.sites[-1].median


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_the_figures_are_those_of_the_inputs_whatever_the_batches(family):
    model, ids = tiny_model(family), tokens(16)
    whole = unnorm.site_anatomy(model, ids)
    for site, (path, x) in zip(whole.sites, inputs_of(model, ids).items(), strict=True):
        assert site.path == path
        size = (x - x.mean(-1, keepdim=True) if family == "gpt2" else x).square().mean(-1).sqrt()
        others = size[:, 1:].flatten()
        assert site.first == pytest.approx(float(size[:, 0].median()), rel=0.01)
        assert site.median == pytest.approx(float(others.quantile(0.5)), rel=0.02)
        assert site.low == pytest.approx(float(others.quantile(0.05)), rel=0.03)
        assert site.high == pytest.approx(float(others.quantile(0.95)), rel=0.03)
        assert site.largest == pytest.approx(float(others.max()), rel=1e-5)
        assert site.variation == pytest.approx(float(others.std() / others.mean()), rel=0.01)
    parts = unnorm.site_anatomy(model, iter([ids[:10], {"input_ids": ids[10:]}]))
    for one, other in zip(whole.sites, parts.sites, strict=True):
        for field in ("first", "median", "low", "high", "variation", "largest"):
            assert getattr(one, field) == pytest.approx(getattr(other, field), rel=1e-4)


def test_saturation_is_that_of_a_fitted_dyt():
    model, ids = tiny_model("llama"), tokens(16)
    anatomy = unnorm.site_anatomy(model, ids)
    x = inputs_of(model, ids)
    for site in anatomy.sites:
        rows = x[site.path].flatten(0, 1)
        for alpha, share in (("scalar", site.saturation), ("channel", site.saturation_channel)):
            norm = DyT(alpha=alpha).build(site.width)
            DyT(alpha=alpha).fit_(norm, rows, model.get_submodule(site.path)(rows).detach())
            assert share == pytest.approx(float((norm.inner(rows).abs() > 2).float().mean()), abs=1e-3)


def test_large_tokens_and_large_channels_are_found():
    model, ids = tiny_model("llama"), tokens(16)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 5] *= 40
    anatomy = unnorm.site_anatomy(model, ids)
    assert [channel for channel, _ in anatomy.sites[0].channels] == [5]
    spread = inputs_of(model, ids)["model.layers.0.input_layernorm"][:, 1:].square().mean((0, 1)).sqrt()
    assert anatomy.sites[0].channels[0][1] == pytest.approx(float(spread[5] / spread.median()), abs=0.1)
    assert anatomy.sites[0].flat_channels == 1
    (finding,) = anatomy.verdict.findings
    assert finding.what == "large channels"
    assert finding.text.startswith("Channel 5 stands out")
    assert "unnorm recover" in anatomy.verdict.text[-1]
    model = tiny_model("llama")
    ids[3, 7] = 9
    with torch.no_grad():
        model.model.embed_tokens.weight[9] *= 40
    anatomy = unnorm.site_anatomy(model, ids)
    count = int((ids[:, 1:] == 9).sum())
    assert anatomy.sites[0].large == pytest.approx(count / (16 * 31))
    (finding,) = anatomy.verdict.findings
    assert (finding.what, finding.sites[0]) == ("large tokens", "model.layers.0.input_layernorm")


@pytest.mark.parametrize(
    "name",
    ["qwen3", "stablelm, parallel, qk norms", "cohere, qk norms", "olmo2", "deepseek_v3", "nanochat", "mpt", "mamba",
     "mixtral", "bert", "opt, post-norm", "gemma3_text"],
)  # fmt: skip
def test_every_site_of_any_architecture_has_an_anatomy(name):
    model, ids = architecture(name), architecture_tokens(4)
    anatomy = unnorm.site_anatomy(model, ids)
    assert [site.path for site in anatomy.sites] == [site.path for site in unnorm.find_sites(model)]
    assert all(0 < site.low <= site.median <= site.high for site in anatomy.sites)
    assert all(site.first > 0 for site in anatomy.sites)


@pytest.mark.parametrize("base", ["neox-4m", "gpt2-4m", "llama-3m"])
def test_stand_ins_have_no_sink(shared, base):
    from unnorm.data.prepare import Source
    from unnorm.data.settings import DataSettings
    from unnorm.surgery.base import load_tokenizer

    folder = str(shared / "bases" / base)
    settings = DataSettings(source=str(shared / "data" / "alpaca" / "alpaca_data.json"), rows=400)
    rows = Source(settings, load_tokenizer(folder), quiet=True).train(1500, seed=0)
    anatomy = unnorm.site_anatomy(load_base(folder), rows.batches(4))
    assert found_of(anatomy) == {}
    assert max(site.first / site.median for site in anatomy.sites) < 2


def test_what_cannot_be_looked_at():
    model = tiny_model("llama")
    with pytest.raises(DataError, match="more than one token"):
        unnorm.site_anatomy(model, tokens(4, 1))
    with pytest.raises(DataError, match="more than one token"):
        unnorm.site_anatomy(model, [])
    with torch.no_grad():
        model.model.layers[1].self_attn.q_proj.weight[:] = torch.inf
    with pytest.raises(ModelError, match=r"layers\.1\.post_attention_layernorm is not finite"):
        unnorm.site_anatomy(model, tokens())
    model = tiny_model("llama")
    unnorm.swap_(model, {"final": DyT()}, calibrate_on=tokens())
    with pytest.raises(ModelError, match="look at the original"):
        unnorm.site_anatomy(model, tokens())


def test_the_model_is_left_as_it_was(planted):
    planted.train()
    before = {name: value.clone() for name, value in planted.state_dict().items()}
    unnorm.site_anatomy(planted, toy_text(2))
    assert planted.training
    assert all(torch.equal(value, before[name]) for name, value in planted.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in planted.modules())
    planted.eval()


def test_spread():
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).exp()
    spread = Spread()
    for part in values.split(700):
        spread.add(part)
    for share in (0.05, 0.5, 0.95):
        assert spread.quantile(share) == pytest.approx(float(values.quantile(share)), rel=0.01)
    assert spread.share_above(2.0) == pytest.approx(float((values > 2).float().mean()), abs=0.003)
    assert spread.variation == pytest.approx(float(values.std() / values.mean()), rel=1e-3)
    assert (spread.count, spread.largest) == (5000, pytest.approx(float(values.max())))


def test_the_planted_sink_is_what_hurts_an_elementwise_norm(planted):
    """Of the stand-in itself: other tokens hardly miss the sink, and a swap hurts through position 0."""
    ids = toy_text(8, seed=9)
    with torch.no_grad():
        reference = planted(ids).logits.log_softmax(-1)
        with_sink, without = (model(ids).logits[:, 1:] for model in (planted, sink_model(size=0)))
    assert float((with_sink - without).square().mean().sqrt()) < 0.5 * float(with_sink.std())
    old = {site.path: planted.get_submodule(site.path) for site in unnorm.find_sites(planted)}
    unnorm.swap_(planted, DyT(alpha="channel"), calibrate_on=toy_text(32, seed=3))
    swapped = kl(planted, ids, reference)
    handles = [
        planted.get_submodule(path).register_forward_hook(
            lambda _, args, out, norm=norm: torch.cat([norm(args[0])[:, :1], out[:, 1:]], 1)
        )
        for path, norm in old.items()
    ]
    spared = kl(planted, ids, reference)
    for handle in handles:
        handle.remove()
    unnorm.unswap_(planted)
    assert spared < 0.5 * swapped
