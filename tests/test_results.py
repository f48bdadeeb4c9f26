"""The measured tables of docs/results.md are those of their rows, and what they count is so."""

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


def test_the_page_is_what_the_rows_say(repo, monkeypatch):
    predictor = benchmark(repo, "predictor", monkeypatch)
    page = (repo / "docs" / "results.md").read_text()
    rows = repo / "benchmarks" / "results" / "predictor.csv"
    assert predictor.filled(page, rows) == page, "run python benchmarks/predictor.py --docs"


@pytest.mark.parametrize("name", ["general", "grounding"])
def test_a_study_shows_rows_of_the_recipe_as_it_is(repo, monkeypatch, name):
    """A recipe that was changed and not measured again must not keep its figures."""
    study = benchmark(repo, name, monkeypatch).STUDY
    trained = sys.modules["trained"]
    page = (repo / "docs" / f"{name}.md").read_text()
    inside = page.split(f"<!-- {name}:begin -->\n")[1].split(f"\n<!-- {name}:end -->")[0]
    assert inside == trained.shown(study, study.results, study.epochs)


def test_the_claim_shows_rows_of_the_recipe_as_it_is(repo, monkeypatch):
    claim = benchmark(repo, "claim", monkeypatch)
    expected = claim.table(claim.read(claim.RESULTS), claim.STEPS)
    for page in ("README.md", "docs/embedded.md"):
        text = (repo / page).read_text()
        assert text.split(claim.BEGIN)[1].split(claim.END)[0].strip() == expected


def test_a_table_shows_its_rows(repo, monkeypatch, tmp_path):
    predictor = benchmark(repo, "predictor", monkeypatch)
    assert predictor.table(tmp_path / "absent.csv") == "Not measured yet."
    monkeypatch.setattr(predictor, "COLUMNS", {"what": "{a}, {b} px", "time": "{s} s"})
    (tmp_path / "one.csv").write_text("a,b,s\nfull,512,2.5\n")
    assert predictor.table(tmp_path / "one.csv") == (
        "| what | time |\n| --- | --- |\n| full, 512 px | 2.5 s |"
    )


@pytest.mark.slow
def test_only_the_first_expression_of_a_picture_runs_the_vae(repo, monkeypatch):
    predictor = benchmark(repo, "predictor", monkeypatch)
    row = predictor.measure("tiny", 64, 2, "cpu", "float32")
    assert (row["first_vae"], row["second_vae"]) == ("1", "0")
    assert float(row["first_s"]) > 0
