"""The figure of sizes over depth shows the anatomy's own numbers, each site at its depth."""

import pytest

import unnorm
from sinks import sink_model, toy_text
from surgery.architectures import architecture, architecture_tokens
from unnorm.foundation.errors import SettingsError
from unnorm.report.export import KINDS, export_file
from unnorm.report.figures.anatomy import sizes


@pytest.fixture(scope="module")
def anatomy():
    return unnorm.site_anatomy(sink_model(), toy_text(8))


def test_it_shows_the_anatomy(anatomy):
    figure = sizes(anatomy, "tiny-sink")
    band, line, points = figure.spec["layer"]
    rows = line["data"]["values"]
    assert rows == points["data"]["values"]
    assert [row["depth"] for row in rows[:9]] == [0, 0.5, 1, 1.5, 2, 2.5, 3, 3.5, 4]
    for name, field in (("position 0", "first"), ("largest other token", "largest"), ("median token", "median")):
        shown = [row["size"] for row in rows if row["line"] == name]
        assert shown == pytest.approx([getattr(site, field) for site in anatomy.sites], rel=1e-4)
    assert band["data"]["values"][3]["high"] == pytest.approx(anatomy.sites[3].high, rel=1e-4)
    assert line["encoding"]["y"]["scale"]["type"] == "log"
    assert f"{anatomy.tokens:,} tokens in 8 sequences" in figure.caption


def test_norms_of_queries_and_keys_are_left_out():
    model = architecture("qwen3")
    figure = sizes(unnorm.site_anatomy(model, architecture_tokens()), "qwen3")
    assert len(figure.spec["layer"][0]["data"]["values"]) == 5
    assert "4 norms of queries and keys are left out" in figure.caption


def test_an_embedding_norm_stands_before_the_layers():
    figure = sizes(unnorm.site_anatomy(architecture("bloom"), architecture_tokens()), "bloom")
    assert [row["depth"] for row in figure.spec["layer"][0]["data"]["values"]] == [-1, 0, 0.5, 1, 1.5, 2]


def test_it_is_written_as_the_file_s_ending_says(anatomy, tmp_path):
    figure = sizes(anatomy, "tiny-sink")
    starts = {"svg": b"<svg", "png": b"\x89PNG", "pdf": b"%PDF"}
    assert set(starts) == set(KINDS)
    for kind, start in starts.items():
        export_file(figure, tmp_path / f"sizes.{kind}")
        assert (tmp_path / f"sizes.{kind}").read_bytes().startswith(start)
    with pytest.raises(SettingsError, match="png"):
        export_file(figure, tmp_path / "sizes.gif")
