"""The notebooks run from top to bottom in a kernel, and show what is stored in them, which a code host shows, too."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

import nextscale
from nextscale.checkpoints.load import bundled_names

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.ipynb"))

# What jupyter's own packages say to one another.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:(jupyter|zmq|tornado|nbclient|nbformat).*")


@pytest.fixture(autouse=True)
def _away_from_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is this Python's, whatever others a user has installed, and leaves its files here."""
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def carried_out(notebook: Any, folder: Path) -> Any:
    """The notebook with its outputs. Raises ``CellExecutionError`` where a cell fails."""
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    return client.execute()


def printed_by(cells: list[Any]) -> str:
    """All that cells wrote to standard output."""
    outputs = [output for cell in cells for output in cell.outputs]
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def code(notebook: Any) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
@pytest.mark.skipif(not {"emoji", "emoji-m-var"} <= set(bundled_names()), reason="the bundled models are not there")
def test_every_cell_runs_and_pictures_are_shown(path: Path, tmp_path: Path) -> None:
    done = carried_out(nbformat.read(path, as_version=4), tmp_path)
    cells = [cell for cell in done.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 5
    printed = printed_by(cells)
    for words in (
        "the same picture: True",
        "memory MiB",
        "M-VAR",
        "needs less memory than var-d30-1024 from 2 pictures on",
    ):
        assert words in printed
    stored = nbformat.read(path, as_version=4)
    assert printed == printed_by([cell for cell in stored.cells if cell.cell_type == "code"])
    complaints = [output.text for output in outputs if output.output_type == "stream" and output.name == "stderr"]
    told = ("is drawn as", " scales")  # which class words were taken for, and the bar
    assert [text for text in complaints if text.strip() and not any(words in text for words in told)] == []
    assert [file.name for file in tmp_path.iterdir() if "dir" not in file.name] == []  # a first look leaves nothing


def test_a_cell_that_fails_is_seen(tmp_path: Path) -> None:
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("import nextscale\nnextscale.draw")])
    with pytest.raises(CellExecutionError, match="module 'nextscale' has no attribute 'draw'"):
        carried_out(broken, tmp_path)


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_a_notebook_is_small_public_and_has_its_outputs(path: Path) -> None:
    assert path.stat().st_size < 400_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert sum("image/jpeg" in output.get("data", {}) for cell in cells for output in cell.outputs) >= 5
    told = [cell.cell_type for cell in notebook.cells]
    assert "code code" not in " ".join(told)  # every cell of code has its words before it
    names = set(re.findall(r"\bnextscale\.([a-zA-Z_]\w*)", code(notebook)))
    assert names <= {*nextscale.__all__, "pictures", "price"}
    assert re.findall(r"\b\w+\._\w+", code(notebook)) == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_pages_that_a_notebook_names_are_there(path: Path) -> None:
    pages = re.findall(r"`(docs/[\w./-]+)`", path.read_text(encoding="utf-8"))
    assert pages
    assert [page for page in pages if not (path.parent.parent / page).is_file()] == []
