"""The notebooks run from top to bottom, and lie in the repository without their outputs."""

from __future__ import annotations

import json
import os
from importlib.util import find_spec
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).resolve().parents[1] / "docs" / "notebooks").glob("*.ipynb"))


def test_there_is_one_and_the_pages_lead_to_it(repo):
    assert NOTEBOOKS
    pages = "".join(page.read_text() for page in (repo / "README.md", repo / "docs" / "index.md"))
    for path in NOTEBOOKS:
        assert pages.count(f"notebooks/{path.name}") == 2


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_no_output_is_kept(path):
    for cell in json.loads(path.read_text())["cells"]:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(find_spec, ("nbclient", "nbformat", "ipykernel"))), reason="extra 'notebook'"
)
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, repo, tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("PYTHONPATH", f"{repo}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    book = nbformat.read(path, as_version=4)
    client = NotebookClient(
        book, timeout=280, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute()  # raises CellExecutionError with the cell and its traceback
    shown = [
        output for cell in book.cells for output in cell.get("outputs", [])
        if "image/png" in output.get("data", {})
    ]  # fmt: skip
    assert len(shown) == 3
