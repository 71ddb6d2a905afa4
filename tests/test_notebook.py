"""The notebook runs as Jupyter runs it: its kernel, its MPLBACKEND, no terminal."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parent.parent / "examples" / "hrm_fast.ipynb"


def test_it_runs_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parent.parent))
    (tmp_path / "csrc").mkdir()  # runs/ is written beside it
    book = nbformat.read(NOTEBOOK, 4)
    short, training = re.compile(r"UPDATES, RUN = (.*), 1500,"), book.cells[3]
    training["source"], found = short.subn(r"UPDATES, RUN = \1, 40,", training["source"])
    assert found == 1
    NotebookClient(book, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [out for cell in book.cells for out in cell.get("outputs", [])]
    shown = {kind for out in outputs for kind in out.get("data", {})}
    said = "".join(out.get("text", "") for out in outputs)
    assert {"image/png", "image/gif", "text/html"} <= shown
    assert "error:" not in said and "Traceback" not in said
    assert re.search(r"agent +success +\d+\.\d%", said)


def test_it_is_committed_without_outputs() -> None:
    cells = [cell for cell in nbformat.read(NOTEBOOK, 4).cells if cell.cell_type == "code"]
    assert cells and not any(cell.outputs or cell.execution_count for cell in cells)
