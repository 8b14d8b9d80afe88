"""What the docs import is public, and what is public stands in the docs."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import unnorm

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")), *sorted(ROOT.glob("recipes/**/*.md"))]
PUBLIC_MODULES = {"unnorm", "unnorm.data.repair", "unnorm.norms.kernels.ops"}
NO_CODE = {"json", "yaml", "py"}
"""What follows `unnorm.` in the name of a file."""


def names_in_code(code: str) -> set[tuple[str, str]]:
    """(module, name) of all that a piece of Python takes from unnorm."""
    found = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "unnorm":
            found |= {(node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {(alias.name, "") for alias in node.names if alias.name.startswith("unnorm.")}
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "unnorm":
            found.add(("unnorm", node.attr))
    return found


def names_in(page: Path) -> set[tuple[str, str]]:
    """The same of a page: its blocks of Python, and what stands between backquotes in its text.

    A block that is a file of unnorm's own, as its first line says, may take what it likes.
    """
    text = page.read_text()
    blocks = re.findall(r"^```(?:python|py)\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    quoted = " ".join(re.findall(r"`([^`]+)`", prose))
    paths = set(re.findall(r"(?<![\w.])unnorm((?:\.\w+)+)", quoted))
    found = {name for block in blocks if not block.startswith("# src/") for name in names_in_code(block)}
    for path in paths:
        first, *more = path.removeprefix(".").split(".")
        if first not in NO_CODE and f"unnorm{path}" not in PUBLIC_MODULES:
            found.add((".".join(["unnorm", first, *more[:-1]]), more[-1]) if more else ("unnorm", first))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_name_that_a_page_takes_from_unnorm_is_public(page):
    for module, name in names_in(page):
        assert module in PUBLIC_MODULES, f"{module}.{name} is private"
        assert name in import_module(module).__all__, f"{module}.{name} is private"


def test_pages_are_read_at_all():
    assert ("unnorm.data.repair", "repair_file") in names_in(ROOT / "docs" / "repair.md")
    assert ("unnorm", "swap_") in names_in(ROOT / "README.md")
    assert ("unnorm", "Workload") in names_in(ROOT / "docs" / "evaluation.md")
    assert names_in_code("import unnorm.norms\nfrom unnorm.norms.dyt import DyT") == {
        ("unnorm.norms", ""),
        ("unnorm.norms.dyt", "DyT"),
    }


def test_the_page_of_names_lists_each_that_is_public_and_no_other():
    text = (ROOT / "docs" / "python.md").read_text()
    listed = [name for row in re.findall(r"^\| (`.*?) \|", text, re.MULTILINE) for name in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(unnorm.__all__)
    assert all(f"`{name}`" in text for name in import_module("unnorm.data.repair").__all__)


def test_every_public_name_is_there():
    assert len(set(unnorm.__all__)) == len(unnorm.__all__)
    assert all(getattr(unnorm, name) is not None for name in unnorm.__all__)
    assert unnorm.Derf().norm == "derf"
    assert re.match(r"\d+\.\d+", unnorm.__version__)
    with pytest.raises(AttributeError, match="no attribute 'swop_'"):
        unnorm.swop_  # noqa: B018


def test_the_version_is_said_before_anything_heavy_is_imported():
    program = "import sys, unnorm; unnorm.__version__; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert not {"torch", "transformers", "numpy", "pydantic"} & set(done.stdout.split())
