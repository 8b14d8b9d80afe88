"""Norms are known by what they compute; names only narrow the search."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import unnorm
from surgery.architectures import architecture, architecture_config
from unnorm.foundation.errors import SiteError
from unnorm.surgery.norm_behaviour import behaviour_of, kind_of


class Weighted(nn.Module):
    def __init__(self, width: int = 8):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))


class NotScaleInvariantNorm(Weighted):
    def forward(self, x):
        return self.weight * torch.tanh(x)


class LinearNorm(Weighted):
    def forward(self, x):
        return self.weight * x


class SoftmaxNorm(Weighted):  # shift invariant, not scale invariant
    def forward(self, x):
        return self.weight * x.softmax(-1)


class SumNorm(Weighted):  # scale invariant, and yet no RMSNorm
    def forward(self, x):
        return self.weight * x / x.abs().sum(-1, keepdim=True)


class GroupedRMSNorm(Weighted):  # over halves of the channels
    def forward(self, x):
        halves = x.unflatten(-1, (2, -1))
        return self.weight * (halves * halves.square().mean(-1, keepdim=True).rsqrt()).flatten(-2)


class SequenceNorm(Weighted):  # over the tokens
    def forward(self, x):
        return self.weight * x * x.square().mean(-2, keepdim=True).rsqrt()


class BrokenNorm(Weighted):
    def forward(self, x):
        raise KeyError("no")


class Standardizer(nn.LayerNorm):
    pass


class Evener(nn.RMSNorm):
    pass


class ScaledRMSNorm(nn.Module):  # Nguyen and Salazar's ScaleNorm: one number for all channels
    def __init__(self):
        super().__init__()
        self.g = nn.Parameter(torch.tensor(3.0))

    def forward(self, x):
        return self.g * F.normalize(x, dim=-1)


class BareRMSNorm(nn.Module):
    def forward(self, x):
        return x * (x.square().mean(-1, keepdim=True) + 3e-4).rsqrt()


@pytest.mark.parametrize(
    "module",
    [
        NotScaleInvariantNorm(),
        LinearNorm(),
        SoftmaxNorm(),
        SumNorm(),
        GroupedRMSNorm(),
        SequenceNorm(),
        BrokenNorm(),
        nn.GroupNorm(1, 8),
        nn.GroupNorm(4, 8),
        nn.BatchNorm1d(8),
        nn.BatchNorm1d(8).eval(),
        nn.InstanceNorm1d(8, affine=True),
        nn.LayerNorm((3, 8)),
        nn.Linear(8, 8),
        nn.Identity(),
    ],
    ids=lambda module: repr(module),
)
def test_what_is_no_norm_over_channels(module):
    assert kind_of(module) is None


@pytest.mark.parametrize(
    ("module", "kind", "width", "eps", "affine"),
    [
        (nn.LayerNorm(8), "layernorm", 8, 1e-5, "weight, bias"),
        (nn.LayerNorm(8, eps=1e-12, bias=False), "layernorm", 8, 1e-12, "weight"),
        (nn.LayerNorm(8, elementwise_affine=False), "layernorm", 8, 1e-5, "none"),
        (nn.RMSNorm(8, eps=1e-3), "rmsnorm", 8, 1e-3, "weight"),
        (nn.RMSNorm(8), "rmsnorm", 8, 1.2e-7, "weight"),  # None: the dtype's own, here of fp32
        (Standardizer(7), "layernorm", 7, 1e-5, "weight, bias"),
        (Evener(5, eps=1e-6), "rmsnorm", 5, 1e-6, "weight"),
        (ScaledRMSNorm(), "rmsnorm", 0, 0.0, "weight"),
        (BareRMSNorm(), "rmsnorm", 0, 3e-4, "none"),
    ],
    ids=lambda value: repr(value) if isinstance(value, nn.Module) else "",
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is(module, kind, width, eps, affine, dtype):
    found = behaviour_of(module.to(dtype))
    assert (found.kind, found.width, found.affine) == (kind, width, affine)
    assert found.eps == pytest.approx(eps, rel=0.05, abs=1e-13)


@pytest.mark.parametrize("value", [0.0, 1e-4, 1.0, 1e4])
def test_the_values_of_parameters_do_not_matter(value):
    norm = nn.LayerNorm(8)
    nn.init.constant_(norm.weight, value)
    before = torch.get_rng_state()
    assert kind_of(norm) == "layernorm"
    assert torch.equal(torch.get_rng_state(), before)
    assert norm.weight.eq(value).all()


def test_a_module_is_not_run_with_its_hooks():
    norm = nn.LayerNorm(8)
    norm.register_forward_hook(lambda *_: pytest.fail("the hook ran"))
    assert kind_of(norm) == "layernorm"


class Gated(Weighted):
    """Stands for MambaRMSNormGated: an RMSNorm as long as it gets no gate."""

    def forward(self, x, gate=None):
        x = x if gate is None else x * F.silu(gate)
        return self.weight * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


Gated.__name__ = "GatedRMSNorm"


class Pair(nn.Module):
    def __init__(self, gate: bool):
        super().__init__()
        self.embedding, self.ln, self.gated, self.gate = nn.Embedding(16, 8), nn.LayerNorm(8), Gated(), gate

    def forward(self, input_ids):
        x = self.ln(self.embedding(input_ids))
        return self.gated(x, gate=x) if self.gate else self.gated(x)


def test_a_norm_called_with_a_gate_is_no_site_and_without_one_it_is():
    assert [site.path for site in unnorm.find_sites(Pair(gate=True))] == ["ln"]
    assert [site.path for site in unnorm.find_sites(Pair(gate=False))] == ["ln", "gated"]
    assert [site.path for site in unnorm.find_sites(Pair(gate=False).to("meta"))] == ["ln"]


def test_the_gated_norm_of_mamba2_is_no_site_with_one_group_either():
    from transformers import AutoModelForCausalLM

    config = architecture_config("mamba2")
    config.n_groups = 1
    paths = [site.path for site in unnorm.find_sites(AutoModelForCausalLM.from_config(config))]
    assert paths == ["backbone.layers.0.norm", "backbone.layers.1.norm", "backbone.norm_f"]


def test_norms_of_any_width_cannot_be_sites_where_no_forward_tells_it():
    with torch.device("meta"):
        model = architecture("nanochat")
    with pytest.raises(SiteError, match="do not tell their width"):
        unnorm.find_sites(model)
