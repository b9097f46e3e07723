"""Run a notebook and store what it shows, so that a code host shows it, too: text as it is, pictures as small JPEGs.

    python tools/notebook.py examples/first_look.ipynb

needs the packages of the extra ``dev``. The tests run the notebook again and compare its text with what is stored.
"""

from __future__ import annotations

import base64
import io
import sys
import tempfile
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from PIL import Image

QUALITY = 80


def shrink(output: Any) -> None:
    """Replace the PNG of an output by a JPEG."""
    png = output.get("data", {}).pop("image/png", None)
    if png is not None:
        jpeg = io.BytesIO()
        Image.open(io.BytesIO(base64.b64decode(png))).convert("RGB").save(jpeg, "JPEG", quality=QUALITY)
        output["data"]["image/jpeg"] = base64.b64encode(jpeg.getvalue()).decode()
        output["data"].pop("text/plain", None)  # "<PIL.Image.Image ... at 0x7f...>" is another one every time


def run(path: Path) -> None:
    """Run the notebook in a folder of its own and write it back with its outputs."""
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        resources = {"metadata": {"path": folder}}
        NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # times of day
        if cell.cell_type == "code":  # what goes to standard error is a bar, there on slow machines alone
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
            for output in cell.outputs:
                shrink(output)
    nbformat.write(notebook, path)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        run(Path(name))
