"""The page on speed: made from what was measured, and saying so where nothing was."""

from __future__ import annotations

import csv
import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture(scope="module")
def page(repo: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("speed_page", repo / "benchmarks/speed_page.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_absent_results_are_said_to_be_absent(page, repo, tmp_path):
    text = page.fill((repo / "docs/speed.md").read_text(), tmp_path, tmp_path)
    assert text.count(page.ABSENT) == len(page.TABLES)
    assert page.PLOT not in text


def test_rows_become_a_table_and_a_second_run_changes_nothing(page, repo, tmp_path):
    head = "size,side,sentences,device,precision,allocator,pairs_per_s,slowest,fastest,machine"
    rows = [
        "tiny,128,4,cpu,fp32,kept,13.39,12,14,a slow one",
        "full,512,4,cuda,bf16,default,90,80,95,one",
    ]
    (tmp_path / "cost_curve.csv").write_text("\n".join([head, *rows]) + "\n")
    (tmp_path / page.PLOT).touch()
    text = page.fill((repo / "docs/speed.md").read_text(), tmp_path, tmp_path)
    assert "| tiny, 128 px, cpu, fp32 | 4 | kept | 13.39 (12 to 14) |" in text
    slow, fast = text.split("On a slow one.")
    assert "| full, 512 px, cuda, bf16 | 4 | default | 90 (80 to 95) |" in fast.split("On one.")[0]
    assert "cuda" not in slow.split("| size, picture, device, precision | sentences")[-1]
    assert f"]({page.PLOT})" in text
    assert page.fill(text, tmp_path, tmp_path) == text


def test_the_page_stands_as_the_command_writes_it(page, repo):
    text = (repo / "docs/speed.md").read_text()
    assert page.fill(text, page.RESULTS, repo / "docs") == text


def test_the_readme_says_what_was_measured(repo):
    rows = csv.DictReader((repo / "benchmarks" / "results" / "eval_speed.csv").open())
    ratios = [
        float(row["ratio_to_default"])
        for row in rows
        if (row["size"], row["device"], row["precision"], row["allocator"])
        == ("full", "cpu", "fp32", "huge")
    ]
    page = (repo / "README.md").read_text()
    (said,) = re.findall(r"([\d.]+) to ([\d.]+) times as many pairs a second", page)
    assert said == (f"{min(ratios):.1f}", f"{max(ratios):.1f}")
