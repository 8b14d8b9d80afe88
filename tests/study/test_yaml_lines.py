"""`<<` in a study file: it is written out before files are merged, and each key stands once."""

import pytest

from unnorm.foundation.errors import SettingsError
from unnorm.study.yaml_lines import locate, read_yaml

BASE = """\
training: &t {tokens: 100_000, lora: {r: 4}}
evaluation: {<<: {every_tokens: 1000, tokens: 2000}, tokens: 3000}
overrides:
  - where: {arm: dyt}
    set:
      training:
        <<: *t
        tokens: 200_000
"""
CONTENT = {
    "training": {"tokens": 100_000, "lora": {"r": 4}},
    "evaluation": {"every_tokens": 1000, "tokens": 3000},
    "overrides": [{"where": {"arm": "dyt"}, "set": {"training": {"tokens": 200_000, "lora": {"r": 4}}}}],
}


@pytest.fixture
def extended(tmp_path):
    """A function from a text that extends BASE to what is read of it."""
    (tmp_path / "base.yaml").write_text(BASE)
    return lambda text: read_yaml(f"extends: base.yaml\n{text}", "child.yaml", tmp_path)


def test_the_text_of_a_file_that_extends_another_can_be_read_again(extended):
    found = extended("name: b\n")
    assert found.content == {**CONTENT, "name": "b"}
    assert read_yaml(found.text, "again.yaml").content == found.content
    assert "200_000" in found.text
    assert found.text.count("&") == 1, "only the mapping that stands twice is an anchor; keys and numbers are not"


def test_null_takes_out_what_came_from_a_merge(extended):
    assert extended("evaluation: {every_tokens: null}\n").content["evaluation"] == {"tokens": 3000}


def test_the_mappings_own_keys_win_and_then_the_first_that_it_takes_over():
    text = "a: &a {x: 1, y: 2}\nb: &b {<<: *a, x: 3, z: 4}\nc: {<<: [{x: 5}, *b], y: null}\n"
    assert read_yaml(text, "x.yaml").content == {
        "a": {"x": 1, "y": 2},
        "b": {"x": 3, "y": 2, "z": 4},
        "c": {"x": 5, "y": None, "z": 4},
    }


def test_a_key_has_the_line_where_it_holds():
    tree = read_yaml(BASE, "x.yaml").tree
    assert locate(tree, ("overrides", 0, "set", "training", "tokens")) == "x.yaml, line 8"
    assert locate(tree, ("overrides", 0, "set", "training", "lora", "r")) == "x.yaml, line 1"


def test_what_cannot_be_taken_over_is_named_with_its_line():
    with pytest.raises(SettingsError, match=r"x\.yaml, line 2: not valid YAML: expected a mapping"):
        read_yaml("name: x\ntraining: {<<: 3}\n", "x.yaml")
