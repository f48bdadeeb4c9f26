"""The tables of measurements in the pages are those of the CSVs, and every CSV has its table."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest


def benchmark(repo: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A module of benchmarks/, which is no package."""
    monkeypatch.syspath_prepend(str(repo / "benchmarks"))
    spec = importlib.util.spec_from_file_location(name, repo / "benchmarks" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_csvs_say(repo, monkeypatch):
    tables = benchmark(repo, "tables", monkeypatch)
    page = (repo / "docs" / "results.md").read_text()
    assert tables.filled(page) == page, "run python benchmarks/tables.py"


def test_every_csv_has_its_place_in_a_page(repo):
    pages = [repo / "README.md", *(repo / "docs").glob("*.md")]
    text = "".join(page.read_text() for page in pages)
    for path in (repo / "benchmarks" / "results").glob("*.csv"):
        assert f"<!-- {path.stem}:begin -->" in text, f"{path.name} stands in no page"


def test_a_table_shows_its_rows_and_their_columns(repo, monkeypatch, tmp_path):
    tables = benchmark(repo, "tables", monkeypatch)
    table = tables.Table({"what": "{a}, {b} px", "time": "{s} s"})
    assert table.of(tmp_path / "absent.csv") == "Not measured yet."
    (tmp_path / "one.csv").write_text("a,b,s\nfull,512,2.5\n")
    assert table.of(tmp_path / "one.csv") == (
        "| what | time |\n| --- | --- |\n| full, 512 px | 2.5 s |"
    )
    with pytest.raises(ValueError, match="predictor:begin"):
        tables.filled("no marks")


@pytest.mark.slow
def test_only_the_first_expression_of_a_picture_runs_the_vae(repo, monkeypatch):
    predictor = benchmark(repo, "predictor", monkeypatch)
    row = predictor.measure("tiny", 64, 2, "cpu", "float32")
    assert (row["first_vae"], row["second_vae"]) == ("1", "0")
    assert float(row["first_s"]) > 0
