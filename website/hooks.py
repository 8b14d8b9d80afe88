"""What mkdocs is told beside `mkdocs.yml`: which pages are generated, and where links out of `docs/` lead.

The site is complete by itself: a file of the repository that a page links to is in the site too, a Markdown file as a
page, another as it is. So no link needs a forge, and `--strict` finds those that lead nowhere.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from command_line import command_line
from notebooks import notebooks
from public_names import public_names
from study_file import study_file

ROOT = Path(__file__).parents[1]
OUTSIDE = "repository/"
"""Where in the site the files lie that are not in `docs/`."""

GENERATED = {
    "reference/command-line.md": command_line,
    "reference/api.md": public_names,
    "reference/study-file.md": study_file,
}
FENCED = re.compile(r"(^ *`{3,}.*?^ *`{3,} *$)", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\[([^\[\]]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages, and what lies outside `docs/` and is linked to."""
    written = [_path(file.src_uri) for file in files.documentation_pages()]
    for uri, make in GENERATED.items():
        files.append(File.generated(config, uri, content=make()))
    for uri, content in notebooks().items():
        files.append(File.generated(config, uri, content=content))
    for path in sorted(_linked_outside(written)):
        if not path.endswith(".ipynb"):
            files.append(File.generated(config, _uri(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:
    """Let each link lead to where its file lies in the site."""
    here = page.file.src_uri
    folder = posixpath.dirname(here) or "."

    def moved(link: re.Match[str]) -> str:
        path = _target(_path(here), link[2])
        if path is None:
            return link[0]
        if (ROOT / path).is_dir():  # a folder of files is no page
            return link[1]
        return f"[{link[1]}]({posixpath.relpath(_uri(path), folder)}{link[3] or ''})"

    parts = FENCED.split(markdown)
    parts[::2] = [LINK.sub(moved, prose) for prose in parts[::2]]
    return "".join(parts)


def _linked_outside(pages: list[str]) -> set[str]:
    """The files outside `docs/` to which links lead from these pages, and from the pages among those."""
    found: set[str] = set()
    while pages:
        page = pages.pop()
        for _text, link, _anchor in LINK.findall("".join(FENCED.split((ROOT / page).read_text())[::2])):
            path = _target(page, link)
            if path and (ROOT / path).is_file() and not path.startswith("docs/") and path not in found:
                found.add(path)
                if path.endswith(".md"):
                    pages.append(path)
    return found


def _target(page: str, link: str) -> str | None:
    """What a link on a page leads to in the repository, a folder's README where it has one; None if nothing there."""
    path = posixpath.normpath(posixpath.join(posixpath.dirname(page), link))
    if (ROOT / path / "README.md").is_file():
        path = posixpath.join(path, "README.md")
    return path if not path.startswith("..") and (ROOT / path).exists() else None


def _path(uri: str) -> str:
    """Path in the repository of what lies at `uri` in the site."""
    return uri.removeprefix(OUTSIDE) if uri.startswith(OUTSIDE) else f"docs/{uri}"


def _uri(path: str) -> str:
    """Where in the site a file of the repository lies."""
    if path.endswith(".ipynb"):
        return path.removesuffix("ipynb") + "md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{OUTSIDE}{path}"
