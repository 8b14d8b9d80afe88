import json

import pytest
import torch

from conftest import tiny_model, tokens
from unnorm import DyT, swap_
from unnorm.surgery.site_sample import sample_site
from unnorm.surgery.sites import find_sites


def test_sigma_is_what_the_old_norm_divides_by():
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(500, 64, generator=generator) + 2
    norm = DyT().build(64)
    by_hand = {True: x.std(-1, unbiased=False).median(), False: x.square().mean(-1).sqrt().median()}
    for centred, wanted in by_hand.items():
        assert sample_site(norm, x, x, centred=centred).sigma == pytest.approx(float(wanted), rel=1e-4)


def test_points_are_tokens_of_the_channel_of_median_and_of_widest_spread():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(3000, 5, generator=generator) * torch.tensor([1.0, 5.0, 3.0, 2.0, 4.0])
    y = torch.nn.functional.layer_norm(x, (5,))
    norm = DyT().build(5)
    DyT().fit_(norm, x, y)
    sample = sample_site(norm, x, y, centred=True)
    assert [part.channel for part in sample.channels] == [2, 1]
    for part in sample.channels:
        assert list(part.x) == sorted(part.x)
        assert 24 <= len(part.x) == len(part.old) == len(part.new) <= 48
        looked_at = x[::3, part.channel]
        assert part.x[0] == pytest.approx(float(looked_at.min()), rel=1e-4)
        assert part.x[-1] == pytest.approx(float(looked_at.max()), rel=1e-4)
        for value, old, new in zip(part.x, part.old, part.new, strict=True):
            at = int((x[:, part.channel] - value).abs().argmin())
            assert old == pytest.approx(float(y[at, part.channel]), abs=1e-3)
            assert new == pytest.approx(float(norm(x[at])[part.channel].detach()), abs=1e-3)


@pytest.mark.parametrize(("family", "mode"), [("gpt_neox", "one-pass"), ("llama", "sequential"), ("llama", "parallel")])
def test_a_calibration_keeps_a_sample_a_site(family, mode):
    model = tiny_model(family)
    kinds = {site.path: site.kind for site in find_sites(model)}
    report = swap_(model, DyT(), calibrate_on=tokens(), mode=mode).to_dict()
    sites = json.loads(json.dumps(report))["calibration"]["sites"]
    assert [site["path"] for site in sites] == list(kinds)
    if mode == "parallel":
        assert all(site["sample"] is None for site in sites)
    else:
        assert all(site["sample"]["sigma"] > 0 for site in sites)
