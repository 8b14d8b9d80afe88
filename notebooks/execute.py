"""Run every cell of the notebooks beside this file, and keep what they print: `make notebooks`.

A cell that raises ends it with that cell's traceback, and the file stays as it was. Pictures are kept small; progress
bars and warnings, which speak of this machine, are not kept.
"""

import base64
import io
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

HERE = Path(__file__).parent


def execute(path: Path) -> None:
    """Run one notebook in its own folder, and write its outputs into it."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=300, record_timing=False, resources=resources)
    client.execute()
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [small(output) for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata = {"kernelspec": notebook.metadata["kernelspec"], "language_info": {"name": "python"}}
    nbformat.write(notebook, path)


def small(output: Any) -> Any:
    """The same output, its picture with a palette of 128 colours."""
    picture = output.get("data", {}).get("image/png")
    if picture is not None:
        drawn = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB").quantize(128, dither=Image.Dither.NONE)
        drawn.save(packed := io.BytesIO(), "PNG", optimize=True)
        output.data["image/png"] = base64.b64encode(packed.getvalue()).decode()
    return output


def main() -> int:
    paths = sorted(HERE.glob("*.ipynb"))
    with ProcessPoolExecutor(len(paths)) as pool:  # at once: a kernel keeps about one core busy
        runs = [pool.submit(execute, path) for path in paths]
    for path, run in zip(paths, runs, strict=True):
        try:
            run.result()
        except CellExecutionError as error:
            print(f"{path.name}: {error}", file=sys.stderr)
            return 1
        print(f"{path.name}: every cell ran")
    return 0


if __name__ == "__main__":
    sys.exit(main())
