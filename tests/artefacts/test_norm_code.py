"""The code that a package carries computes what the norm itself computes, with torch alone."""

import pytest
import torch
from torch import nn

from unnorm.artefacts.norm_code import norm_code
from unnorm.foundation.errors import SettingsError
from unnorm.norms import spec as registry
from unnorm.norms.spec import known_norms, spec_from

SETTINGS = [
    *({"norm": norm} for norm in known_norms()),
    {"norm": "dyt", "alpha": "channel", "bias": False},
    {"norm": "derf", "affine": False},
    {"norm": "fixedscale", "center": False},
    {"norm": "layernorm", "eps": 0.1},
]
OWN = '''
"""A norm of a user's own, with helpers, constants and imports."""
import math
from math import pi as PI
from typing import ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field

from unnorm.norms.affine import AffineSpec
from unnorm.norms.spec import Norm, NormSpec, register

HALF = 0.5
LIMIT: float = 2 * HALF


def squash(x):
    return F.softsign(x) * LIMIT


class SquashNorm(Norm):
    def __init__(self, spec: "Squash", width: int) -> None:
        super().__init__()
        self.spec, self.width = spec, width
        self.gain = torch.nn.Parameter(torch.ones(width))
        self.register_buffer("count", torch.tensor([math.sqrt(4.0)]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.gain * squash(x) * self.spec.strength + self.spec.offset() + PI * self.count


@register
class Squash(NormSpec):
    norm: ClassVar[str] = "squash-NAME"
    strength: float = Field(default=1.5)

    def build(self, width, device=None):
        return SquashNorm(self, width).to(device)

    def offset(self):
        return HALF

    def fit_(self, module, x, y):
        raise ValueError("never reached")
'''


def built(code: str, spec, width: int) -> nn.Module:
    """What the code, alone in a file with torch, builds for the spec."""
    names = {"torch": torch, "nn": nn}
    exec("from __future__ import annotations\n" + code, names)
    settings = spec.to_dict()
    settings.pop("norm")
    return names[type(spec).__name__](**settings).build(width)


def moved(module: nn.Module) -> nn.Module:
    torch.manual_seed(3)
    for tensor in module.state_dict().values():
        tensor.add_(0.5 * torch.rand_like(tensor))
    return module


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_norm(settings, dtype):
    spec = spec_from(settings)
    ours = moved(spec.build(16))
    theirs = built(norm_code([type(spec)]), spec, 16)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(2, 3, 16).to(dtype)
    assert torch.equal(theirs(x), ours(x))
    assert theirs(x).dtype == dtype
    assert str(theirs) == str(ours)


def test_all_at_once_name_no_unnorm():
    code = norm_code(type(spec_from({"norm": norm})) for norm in known_norms())
    assert "unnorm" not in code
    assert "pydantic" not in code
    names = {"torch": torch, "nn": nn}
    exec("from __future__ import annotations\n" + code, names)
    assert {"DyT", "Derf", "DyISRU", "FixedScale", "Identity", "LayerNorm", "RMSNorm"} <= set(names)


def own(tmp_path, monkeypatch, text: str):
    name = "".join(c for c in tmp_path.name if c.isalnum())
    path = tmp_path / f"{name}.py"
    path.write_text(text.replace("NAME", name))
    monkeypatch.setenv("UNNORM_NORMS", str(path))
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    return spec_from({"norm": f"squash-{name}"})


def test_a_norm_of_the_users_own_is_taken_from_the_users_file(tmp_path, monkeypatch):
    spec = own(tmp_path, monkeypatch, OWN)
    ours = moved(spec.build(8))
    code = norm_code([type(spec), type(spec_from({"norm": "dyt"}))])
    assert "never reached" not in code
    assert "unnorm" not in code
    theirs = built(code, spec, 8)
    theirs.load_state_dict(ours.state_dict(), strict=True)
    x = torch.randn(4, 8)
    assert torch.equal(theirs(x), ours(x))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("LIMIT: float = 2 * HALF", "if True:\n    LIMIT = 1.0", "'LIMIT' is not defined at the top"),
        ("        return HALF", "        return super().offset()", r"'offset' calls super\(\)"),
        ("    strength: float", "    table: ClassVar[dict] = {}\n    strength: float", "'table' is no plain value"),
    ],
)
def test_what_cannot_be_taken_is_named(old, new, message, tmp_path, monkeypatch):
    text = OWN.replace(old, new).replace("self.spec.offset()", "self.spec.offset() + len(self.spec.table)")
    if "table" not in new:
        text = text.replace(" + len(self.spec.table)", "")
    spec = own(tmp_path, monkeypatch, text)
    with pytest.raises(SettingsError, match=message):
        norm_code([type(spec)])


def test_a_norm_from_no_file_is_refused():
    names = {"__name__": "nowhere"}
    exec(OWN.replace("squash-NAME", "squash-nowhere"), names)
    try:
        with pytest.raises(SettingsError, match="has no source file"):
            norm_code([names["Squash"]])
    finally:
        registry._REGISTRY.pop("squash-nowhere")
