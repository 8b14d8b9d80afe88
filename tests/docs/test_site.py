"""The site holds every page and all that can be looked up, and needs no network."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

import unnorm
from docs.pages import ROOT
from unnorm.cli.main import app
from unnorm.study.spec import StudyFile

pytest.importorskip("mkdocs", reason="the site needs mkdocs: pip install -e '.[docs]'")


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT / "src")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def commands(verb: Any, path: str = "unnorm") -> dict[str, Any]:
    inner = getattr(verb, "commands", {})
    found = {path: verb}
    for name, each in inner.items():
        found |= commands(each, f"{path} {name}")
    return found


def test_it_asks_nobody_for_anything(site):
    loads = r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?(?:https?:)?//|<link[^>]*\shref=[\"']?(?:https?:)?//"
    pages = list(site.rglob("*.html"))
    assert len(pages) > 30
    assert [str(page) for page in pages if re.search(loads, page.read_text())] == []
    assert not [page for page in site.rglob("*.css") if re.search(r"url\([\"']?(?:https?:)?//", page.read_text())]
    assert re.search(loads, '<link rel="stylesheet" href="https://fonts.example/css">')


def test_every_page_of_the_docs_is_in_the_navigation(site):
    class Loader(yaml.SafeLoader):
        pass

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    nav = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader)["nav"]
    shown = set(re.findall(r"[\w/.-]+\.md", str(nav)))
    written = {str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md")}
    assert written <= shown
    assert all(page.startswith(("reference/", "notebooks/")) for page in shown - written)
    assert all((site / page).with_suffix(".html").is_file() for page in shown)


def test_the_command_line_is_there_verb_by_verb_and_option_by_option(site):
    page = (site / "reference" / "command-line.html").read_text()
    verbs = commands(typer.main.get_command(app))
    assert len(verbs) > 20
    for path, verb in verbs.items():
        assert path == "unnorm" or re.search(rf'<h2 id="{path.replace(" ", "-")}"', page), path
        section = page.split(f'id="{path.replace(" ", "-")}"')[-1].split("<h2")[0] if path != "unnorm" else page
        for option in (one for each in verb.params for one in each.opts if one.startswith("--") and one != "--help"):
            assert f"<code>{option}" in section, (path, option)


def test_every_public_name_is_there_with_what_it_does(site):
    page = (site / "reference" / "api.html").read_text()
    for name in unnorm.__all__:
        if name.startswith("__"):
            continue
        assert f'id="unnorm.{name}"' in page, name
        text = page.split(f'<h2 id="unnorm.{name}"')[1].split("<h2 ")[0]
        assert re.search(r"<p>\w", text), f"{name} has no docstring"
    assert 'id="unnorm.data.repair.repair_file"' in page
    assert all(f"<code>{key}</code>" in page for key in ("held_out", "norm_learning_rate", "new_tokens", "alpha_init"))


def test_every_key_of_a_study_file_is_there(site):
    page = (site / "reference" / "study-file.html").read_text()
    assert all(f"<code>{key}</code>" in page for key in StudyFile.model_fields)
    assert all(f"<code>{key}</code>" in page for key in ("batch_tokens", "budget_seconds", "leading_answer", "where"))


def test_the_notebooks_are_there_with_their_pictures(site):
    for notebook in ("surgery", "read_a_study"):
        page = (site / "notebooks" / f"{notebook}.html").read_text()
        pictures = re.findall(rf'src="({notebook}/[^"]+\.png)"', page)
        assert len(pictures) >= 2
        assert all((site / "notebooks" / picture).is_file() for picture in pictures)


def test_what_a_page_links_to_in_the_repository_is_in_the_site(site):
    assert (site / "repository" / "benchmarks" / "results" / "real" / "README.html").is_file() or (
        site / "repository" / "benchmarks" / "results" / "real" / "index.html"
    ).is_file()
    home = (site / "index.html").read_text()
    targets = re.findall(r'href="([^"#:]+\.html)', home)
    assert any("repository/benchmarks" in target for target in targets)
    assert [target for target in targets if not (site / target).is_file()] == []
