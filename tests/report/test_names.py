from dataclasses import replace

import pytest

from report.views import study
from unnorm.report.formats import FORMATS
from unnorm.report.names import display_name, named, without_folders
from unnorm.report.page import pages

BASE = "demo-base-6e24504db86ddad8"


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (BASE, "demo-base"),
        ("HuggingFaceTB/SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
        ("EleutherAI/pythia-14m@step143000", "pythia-14m@step143000"),
        ("me/tiny@0123456789abcdef0123456789abcdef01234567", "tiny"),
        ("alpaca", "alpaca"),
        ("6e24504db86ddad8", "6e24504db86ddad8"),  # better than nothing
        ("base-6e24504db86ddad8-tuned", "base-6e24504db86ddad8-tuned"),
    ],
)
def test_names_are_those_that_people_gave(name, shown):
    assert display_name(name) == shown


def test_hashes_stand_in_the_reproduction_alone():
    made = study(models=(BASE,), seeds=(0, 1))
    source = f"name: made-up\nmodels: [/root/.cache/unnorm/{BASE}]\n"
    shown = named(replace(made, source=source))
    page = pages(shown, [])["index.html"].decode()
    before, _, after = page.partition('id="reproduce"')
    assert "6e24504db86ddad8" not in before
    assert f"models: […/{BASE}]" in after
    assert "/root" not in page
    text = FORMATS["md"](replace(made, source=source))
    assert "6e24504db86ddad8" not in text.partition("## Reproduce")[0]
    assert "/root" not in text


def test_what_was_searched_is_found_by_the_names_that_are_shown():
    made = study(models=(BASE,))
    choices = [{**cell.place.slot._asdict(), "learning_rate": 1e-3} for cell in made.cells]
    shown = named(replace(made, choices=choices))
    assert shown.tuned == {cell.place.slot for cell in shown.cells}


def test_names_that_would_be_the_same_stay():
    two = ("one-6e24504db86ddad8", "one-6e24504db86ddad9")
    assert named(study(models=two)).models == list(two)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("models: [/tmp/smol]", "models: […/smol]"),
        ('{source: "/home/me/a b/x.json"}', '{source: "…/x.json"}'),
        ("path: ~/data/x.json # mine", "path: …/x.json # mine"),
        ("path: C:\\data\\x.json", "path: …/x.json"),
        (
            "models: [EleutherAI/pythia-14m, ${HERE}/tiny, ./tiny]",
            "models: [EleutherAI/pythia-14m, ${HERE}/tiny, ./tiny]",
        ),
        ("# see https://example.org/a/b", "# see https://example.org/a/b"),
        ("warmup: 1/2/3", "warmup: 1/2/3"),
    ],
)
def test_a_study_file_is_shown_without_the_machines_folders(text, left):
    assert without_folders(text) == left
