"""The data inside each figure's Vega-Lite spec is the ledger's, and the caption says how much of it."""

import itertools
import re
from dataclasses import replace

import pytest

from report.views import ARMS, CATEGORIES, QUESTIONS, SITES, STRATEGIES, study, timed
from unnorm.report.export import export
from unnorm.report.figures import figures
from unnorm.report.figures.gap import gap_by_strategy
from unnorm.report.pairs import compared
from unnorm.report.theme import COLOURS, DARK, HATCH, looks
from unnorm.study.compare import compare_arms

ALL = ["gap", "loss", "train-loss", "accuracy", "grad-norm", "curves", "fit", "recovery", "alpha", "alpha-sigma",
       "saturation", "preference", "length", "latency", "pareto"]  # fmt: skip
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def made():
    return study(seeds=SEEDS, pairs=True)


@pytest.fixture(scope="module")
def drawn(made):
    return {figure.name: figure for figure in figures(made)}


def values(figure) -> list[dict]:
    """The data inside a spec: that of the whole, not of its marks of zero."""
    return figure.spec["data"]["values"]


def test_every_figure_there_is_something_for_is_drawn(drawn):
    assert list(drawn) == ALL


def test_rule_18_curves_hold_the_ledgers_numbers(made, drawn):
    for name, key in (("loss", "loss"), ("accuracy", "token_accuracy")):
        known = {(c.arm, c.strategy, c.seed, e["step"]): e[key] for c in made.cells for e in c.evaluations}
        found = {(r["arm"], r["strategy"], r["tokens"]): r for r in values(drawn[name])}
        assert len(found) == len(ARMS) * len(STRATEGIES) * 5
        for arm, strategy, step in itertools.product(ARMS, STRATEGIES, (0, 10, 20, 30, 40)):
            each = [known[arm, strategy, seed, step] for seed in SEEDS]
            row = found[arm, strategy, 5_000 * step]
            assert row["value"] == pytest.approx(sum(each) / 2)
            assert (row["low"], row["high"]) == (min(each), max(each))
    for name, key in (("train-loss", "loss"), ("grad-norm", "grad_norm")):
        cells = [c for c in made.cells if (c.arm, c.strategy) == ("dyt", "full")]
        found = [r for r in values(drawn[name]) if (r["arm"], r["strategy"]) == ("dyt", "full")]
        assert len(found) == 40
        assert found[7]["value"] == pytest.approx(sum(c.steps[7][key] for c in cells) / 2)


def test_rule_18_gaps_are_those_of_the_table(made, drawn):
    bars = {(r["strategy"], r["arm"]): (r["gap"], r["low"], r["high"]) for r in values(drawn["gap"])}
    assert bars == {(r.strategy, r.arm): (r.value, r.low, r.high) for r in compared(made) if r.metric == "loss"}
    points = {(r["panel"].split(":")[0], r["arm"]): r["gap"] for r in values(drawn["pareto"]) if r["arm"] != "original"}
    assert points == {key: bar[0] for key, bar in bars.items()}


def test_rule_18_sites_hold_the_ledgers_numbers(made, drawn):
    cell = next(c for c in made.cells if (c.arm, c.strategy) == ("dyt", "full"))
    sites = cell.calibration["calibration"]["sites"]
    alpha = [r for r in values(drawn["alpha"]) if r["panel"] == "dyt, full"]
    assert {r["panel"] for r in values(drawn["alpha"])} == {"dyt-bare, full", "dyt, full"}  # where α moves
    assert {r["site"]: r["alpha"] for r in alpha} == pytest.approx(cell.steps[-1]["alpha"], rel=1e-4)
    against = {r["site"]: r for r in values(drawn["alpha-sigma"]) if r["panel"] == "dyt, full"}
    for site in sites:
        row = against[site["path"]]
        assert row["inverse"] == pytest.approx(1 / site["sample"]["sigma"], rel=1e-4)
        assert row["start"] == pytest.approx(cell.steps[0]["alpha"][site["path"]], rel=1e-4)
    assert {r["site"]: r["r2"] for r in values(drawn["fit"])} == {site["path"]: site["r2"] for site in sites}
    flat = [r for r in values(drawn["saturation"]) if (r["panel"], r["site"]) == ("dyt, full", SITES[5])]
    first = [s["saturation"][SITES[5]] for s in cell.steps[: 40 // len(flat) + (40 % len(flat) > 0)]]
    assert flat[0]["share"] == pytest.approx(sum(first) / len(first), rel=1e-4)
    curve = sites[0]["sample"]["channels"][-1]
    rows = [r for r in values(drawn["curves"]) if r["site"] == SITES[0]]
    assert [(r["x"], r["old"]) for r in rows if "old" in r] == list(zip(curve["x"], curve["old"], strict=True))
    assert [(r["x"], r["y"]) for r in rows if "y" in r] == list(zip(curve["x"], curve["new"], strict=True))


def test_rule_18_recovery_holds_the_ledgers_numbers(made, drawn):
    known = next(c.recovery for c in made.cells if c.recovery)
    rows = values(drawn["recovery"])
    curve = [(at["train_tokens"], at["gap"], at["kl"]) for at in known["curve"]]
    assert [(r["tokens"], r["gap"], r["kl"]) for r in rows] == curve
    assert {r["arm"] for r in rows} == {"dyt"}
    caption = drawn["recovery"].caption
    assert "dyt, all, 30,720 tokens: +180.0% to +2.5%, KL 0.9000 to 0.0125" in caption
    marks = drawn["recovery"].spec["layer"][0]["encoding"]
    assert marks["x"]["axis"]["values"] == [0, 10_240, 30_720]
    assert marks["y"]["axis"]["values"] == [0, 0.02, 0.1, 0.5]


def test_rule_18_judgements_are_those_of_the_verdicts(made, drawn):
    rows = [r for r in values(drawn["preference"]) if r["panel"] == "dyt, full"]
    pairs = [p for p in made.pairs if (p.arm, p.strategy) == ("dyt", "full")]
    for part in ("all", *CATEGORIES):
        verdicts = [v for p in pairs for v in p.verdicts if part in ("all", v["category"])]
        counts = {r["outcome"]: r["count"] for r in rows if r["category"] == part}
        assert counts == {
            "wins": sum(v["value"] == 1 for v in verdicts),
            "ties": sum(v["value"] == 0.5 for v in verdicts),
            "losses": sum(v["value"] == 0 for v in verdicts),
        }
    scored = [(v["a_length"] - v["b_length"], v["score"]) for p in pairs for v in p.verdicts]
    points = [(r["length"], r["score"]) for r in values(drawn["length"]) if r["panel"] == "dyt, full"]
    assert points == scored
    assert len(points) == 2 * QUESTIONS


def test_rule_18_a_figures_win_rate_is_that_of_the_comparison(made, drawn):
    rows = {(r["panel"], r["category"]): r for r in values(drawn["preference"])}
    found = [row for row in compare_arms(made) if row.metric == "preference"]
    assert len(found) == 4
    for row in found:
        shown = rows[f"{row.arm}, {row.strategy}", "all"]
        assert (shown["rate"], shown["low"], shown["high"]) == (row.value, row.low, row.high)


def test_with_one_seed_judgements_are_the_judges_own_numbers():
    one = study(pairs=True)
    rows = {
        (r["panel"], r["category"]): r
        for r in values(next(f for f in figures(one) if f.name == "preference"))
        if r["outcome"] == "wins"
    }
    for pair in one.pairs:
        whole = pair.judge["parts"]["whole"]
        for category, part in (("all", whole), *whole["categories"].items()):
            row = rows[f"{pair.arm}, {pair.strategy}", category]
            assert (row["rate"], row["low"], row["high"]) == tuple(part["win_rate"].values())


def test_a_first_seed_without_a_judge_leaves_the_judgements_of_the_others(made):
    pairs = [replace(p, judge=None, verdicts=[]) if p.seed == SEEDS[0] else p for p in made.pairs]
    found = {f.name: f for f in figures(replace(made, pairs=pairs))}
    assert f"{4 * QUESTIONS} judgements, seed {SEEDS[1]}." in found["preference"].caption
    assert f"Seed {SEEDS[1]}." in found["length"].caption
    assert {row["doubt"] for row in values(found["preference"])} == {"incomplete"}


def test_a_judge_without_any_verdict_has_no_figure():
    def unanswered(pair):
        whole = {**pair.judge["parts"]["whole"], "win_rate": None, "categories": {}}
        return replace(pair, judge={**pair.judge, "parts": {"whole": whole}}, verdicts=[])

    made = study(pairs=True)
    names = {f.name for f in figures(replace(made, pairs=[unanswered(pair) for pair in made.pairs]))}
    assert not {"preference", "length"} & names


def test_rule_15_ratios_stand_beside_their_floor_and_their_bound(made, drawn):
    rows = {(r["arm"], r["strategy"], r["workload"]): r for r in values(drawn["latency"])}
    pair = next(p for p in made.pairs if p.latency and (p.arm, p.strategy) == ("dyt", "frozen"))
    for found in pair.latency["comparisons"]:
        row = rows["dyt", "frozen", found["name"]]
        if found["model"] == "dyt":
            assert (row["value"], row["low"]) == (found["ratio"]["value"] - 1, found["ratio"]["low"] - 1)
            assert row["floor_high"] == max(abs(found["floor"]["low"] - 1), abs(found["floor"]["high"] - 1))
        elif found["model"] == "no norms":
            assert row["bound"] == found["ratio"]["value"] - 1
    assert "noise floor" in drawn["latency"].caption


def test_captions_say_which_seeds_and_machines_times_are_of(made):
    def elsewhere(pair):
        found = timed(pair.arm, "original", 1.2, seed=pair.seed)
        about = {**found["environment"], "processor": f"machine {pair.seed}"}
        return replace(pair, latency={**found, "environment": about})

    drawn = {f.name: f for f in figures(replace(made, pairs=[elsewhere(pair) for pair in made.pairs]))}
    assert "Seeds 0, 1. Processor: machine 0, 1 thread; machine 1, 1 thread." in drawn["latency"].caption
    times = {(r["panel"], r["arm"]): r["value"] for r in values(drawn["pareto"])}
    first = next(c for c in timed("dyt", "original", 1.2, seed=0)["comparisons"] if c["model"] == "dyt")
    assert times[f"full: {first['name']}", "dyt"] == first["ratio"]["value"] - 1
    assert "Times are of seed 0; losses, of all seeds compared." in drawn["pareto"].caption


def test_captions_say_which_cells_and_how_sure(made, drawn):
    for name, figure in drawn.items():
        assert "seed" in figure.caption.lower(), name
        cells = figure.spec["usermeta"]["cells"]
        assert set(cells) <= {cell.cell for cell in made.cells}
        if "Drawn from" in figure.caption:
            assert f"Drawn from {len(cells)} finished cells" in figure.caption
    assert "band: lowest to highest seed" in drawn["loss"].caption
    assert "95 % t interval over seeds" in drawn["gap"].caption


def test_rule_07_a_cell_that_is_not_done_is_never_drawn():
    made = study(broken={("dyt", "full", 0): "running", ("dyt-bare", "frozen", 0): "failed"}, pairs=True)
    drawn = figures(made)
    for figure in drawn:
        assert not {"dytfull0tiny", "dyt-barefrozen0tiny"} & set(figure.spec["usermeta"]["cells"])
        for row in values(figure):
            assert (row.get("arm"), row.get("strategy")) not in {("dyt", "full"), ("dyt-bare", "frozen")}
            assert row.get("panel") not in ("dyt, full", "dyt-bare, frozen")
    assert "2 cells not done and left out" in next(f for f in drawn if f.name == "loss").caption


def test_rule_07_doubtful_comparisons_are_hatched_and_say_so(tmp_path):
    made = study(seeds=SEEDS, broken={("dyt", "full", 1): "failed"}, matched=False)
    gap = next(f for f in figures(made) if f.name == "gap")
    assert {(r["strategy"], r["arm"]): r["doubt"] for r in values(gap) if r["doubt"]} == {
        ("frozen", "dyt"): "not matched", ("full", "dyt"): "incomplete",
    }  # fmt: skip
    assert "Hatched" in gap.caption
    export([gap], tmp_path, quiet=True)
    svg = (tmp_path / "gap.svg").read_text()
    assert svg.count(f"url(#{HATCH})") == 2
    assert svg.count(f'id="{HATCH}"') == 1
    assert (tmp_path / "gap.pdf").read_bytes().startswith(b"%PDF")
    sound = next(f for f in figures(study(seeds=SEEDS)) if f.name == "gap")
    assert "Hatched" not in sound.caption
    assert HATCH not in str(sound.spec)


def test_several_models_have_their_sizes_and_figures_of_their_own():
    found = {f.name: f for f in figures(study(models=("tiny", "larger")))}
    sizes = {(r["model"], r["parameters"]) for r in values(found["gap-size"])}
    assert sizes == {("tiny", 16_800_000), ("larger", 25_200_000)}
    titles = [panel["title"] for panel in found["gap"].spec["concat"]]
    assert titles == ["tiny, 16.8 M parameters", "larger, 25.2 M parameters"]
    assert {"loss-tiny-rows", "loss-larger-rows"} <= set(found)


@pytest.mark.parametrize("models", [("模型甲", "模型乙"), ("a b", "a,b"), ("tiny", "Tiny")])
def test_no_two_figures_share_a_file(models):
    found = [f.name.lower() for f in figures(study(models=models))]
    assert len(set(found)) == len(found)
    assert {"loss-" in name for name in found} == {True, False}


def test_an_arm_keeps_its_colour_and_no_two_of_seven_share_one():
    known = ["original", "dyt", "dyt-bare", "dyt-inherit", "dyt-corrected", "dyt-paper", "dyt-plain"]
    assert looks(known)["dyt"] == looks(["dyt", "something"])["dyt"] == looks(["dyt"])["dyt"]
    assert len({look.colour for look in looks(known).values()}) == 7
    own = looks(["original", "dyt", "derf", "derf-bare", "mine"])
    assert len({look.colour for look in own.values()}) == 5
    assert len({look.shape for look in own.values()}) == 5


def test_a_gap_that_dwarfs_the_others_has_a_panel_without_it():
    made = study(seeds=SEEDS)
    assert len(gap_by_strategy(made, "rows").spec["concat"]) == 1
    cells = [replace(c, result={**c.result, "eval_loss": 30.0}) if c.arm == "dyt-bare" else c for c in made.cells]
    gap = gap_by_strategy(replace(made, cells=cells), "rows")
    near, whole = gap.spec["concat"]
    rows = {r["arm"]: r for r in values(gap) if r["strategy"] == "full"}
    end = near["layer"][0]["encoding"]["x"]["scale"]["domain"][1]
    assert rows["dyt"]["high"] < end < 2 * rows["dyt"]["high"] < rows["dyt-bare"]["gap"]
    assert whole["layer"][0]["encoding"]["x"]["scale"]["domain"][1] > rows["dyt-bare"]["high"]
    assert near["title"] == f"magnified: gaps up to ± {end:.1%}"
    assert f"ends at ± {end:.1%}" in gap.caption
    arrows = [layer for layer in near["layer"] if layer["mark"].get("text") == "▸"]
    assert len(arrows) == 1
    assert f"datum.gap > {end}" in str(arrows)


def test_a_gap_far_below_the_reference_is_marked_on_its_own_side(tmp_path):
    made = study(seeds=SEEDS)
    cells = [replace(c, result={**c.result, "eval_loss": 1.0}) if c.arm == "dyt-bare" else c for c in made.cells]
    gap = gap_by_strategy(replace(made, cells=cells), "rows")
    near = gap.spec["concat"][0]
    end = near["layer"][0]["encoding"]["x"]["scale"]["domain"][0]
    (arrow,) = [layer for layer in near["layer"] if layer["mark"].get("text") == "◂"]
    assert arrow["encoding"]["x"]["datum"] == end
    assert f"datum.gap < {end}" in str(arrow)
    assert "▸ or ◂ marks bars that go on beyond it" in gap.caption
    export([gap], tmp_path, quiet=True)
    assert (tmp_path / "gap.svg").read_text().count(">◂<") == len(STRATEGIES)


def test_an_arm_has_its_shape_in_the_legend_of_every_figure_that_it_is_in(drawn):
    """Their legends merge colour and shape; a mark without a shape would give a legend of squares or lines."""
    for name, figure in drawn.items():
        spec = str(figure.spec)
        if "'field': 'arm'" in spec and "'color': {'field': 'arm'" in spec:
            assert "'shape': {'field': 'arm'" in spec, name
    dashes = str(drawn["curves"].spec)
    assert "'strokeDash': {'field': 'arm'" in dashes
    assert looks(["dyt", "derf"])["dyt"].dash != looks(["dyt", "derf"])["derf"].dash


def test_axes_are_named_in_words(drawn):
    titles = re.findall(r"'title': '([^']+)'", " ".join(str(figure.spec) for figure in drawn.values()))
    assert titles
    assert not [title for title in titles if "_" in title]


def test_every_colour_of_a_figure_has_one_in_the_dark(drawn):
    for name, figure in drawn.items():
        used = set(re.findall(r"#[0-9a-fA-F]{6}", str({k: v for k, v in figure.spec.items() if k != "data"})))
        assert used <= DARK.keys(), name


def linear(colour: str) -> list[float]:
    """sRGB without its gamma."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


# Machado, Oliveira and Fernandes 2009, severity 1
SIGHT = {
    "usual": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": ((0.152, 1.053, -0.205), (0.115, 0.786, 0.099), (-0.004, -0.048, 1.052)),
    "deuteranopia": ((0.367, 0.861, -0.228), (0.280, 0.673, 0.047), (-0.012, 0.043, 0.969)),
}


def oklab(rgb) -> list[float]:
    """Ottosson 2020: a space in which distance is difference to the eye."""
    cone = ((0.4122, 0.5363, 0.0514), (0.2119, 0.6807, 0.1074), (0.0883, 0.2817, 0.6300))
    seen = ((0.2105, 0.7936, -0.0041), (1.9780, -2.4286, 0.4506), (0.0259, 0.7828, -0.8087))
    roots = [max(0, sum(a * b for a, b in zip(row, rgb, strict=True))) ** (1 / 3) for row in cone]
    return [sum(a * b for a, b in zip(row, roots, strict=True)) for row in seen]


@pytest.mark.parametrize("sight", SIGHT)
@pytest.mark.parametrize("ground", ["#ffffff", DARK["#ffffff"]])
def test_colours_are_told_apart(sight, ground):
    colours = COLOURS if ground == "#ffffff" else [DARK[colour] for colour in COLOURS]

    def seen(colour):
        turned = (sum(a * b for a, b in zip(row, linear(colour), strict=True)) for row in SIGHT[sight])
        return oklab([min(1, max(0, value)) for value in turned])

    for one, other in itertools.combinations(colours, 2):
        apart = sum((a - b) ** 2 for a, b in zip(seen(one), seen(other), strict=True)) ** 0.5
        assert apart > 0.07, (sight, one, other)
    for colour in colours:
        low, high = sorted((luminance(colour), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3, colour


def luminance(colour: str) -> float:
    return sum(a * b for a, b in zip((0.2126, 0.7152, 0.0722), linear(colour), strict=True))
