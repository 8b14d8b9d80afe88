"""The notebooks as pages of the site: what was executed and committed, nothing is run."""

import re
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "notebooks"
STYLE = re.compile(r"<style scoped>.*?</style>\n?", re.DOTALL)


def notebooks() -> dict[str, str | bytes]:
    """Path in the site -> content, of each notebook's page and of its pictures."""
    import nbformat
    from nbconvert import MarkdownExporter

    found: dict[str, str | bytes] = {}
    for path in sorted(FOLDER.glob("*.ipynb")):
        named = {"unique_key": path.stem, "output_files_dir": path.stem}
        notebook = nbformat.read(path, as_version=4)
        page, made = MarkdownExporter().from_notebook_node(notebook, resources=named)
        page = STYLE.sub("", page).replace('<table border="1" class="dataframe">', "<table>")
        found[f"notebooks/{path.stem}.md"] = page
        found |= {f"notebooks/{name}": picture for name, picture in made["outputs"].items()}
    return found
