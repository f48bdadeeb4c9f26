"""The check of a data root by its own command line, on generated data."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from refer.shapes import generate


@pytest.fixture
def root(tmp_path) -> Path:
    generate(tmp_path, train=4, val=2, test_a=2, test_b=2, size=64, workers=1, extras=True,
             progress=False)  # fmt: skip
    return tmp_path


def call(repo: Path, *arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(repo / "tools/prepare_data.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_well_then_not(root, repo):
    report = root / "out" / "report.json"
    run = call(repo, root, "--open-pictures", "--to-json", "--report", report)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "all is well" in run.stdout
    content = json.loads(report.read_text())
    assert content["well"] is True
    assert {file["dataset"] for file in content["files"]} == {"refshapes", "grefcoco"}
    assert "refcoco" in content["absent"]
    assert (root / "refshapes" / "refs(unc).json").is_file()

    next((root / "images" / "refshapes").iterdir()).unlink()
    (root / "refshapes" / "refs(unc).p").unlink()  # the JSON stands in for it
    run = call(repo, root, "--datasets", "refshapes", "--report", report)
    assert run.returncode == 1
    assert "1 of 10 pictures missing" in run.stdout
    assert json.loads(report.read_text())["files"][0]["pictures_missing"] == 1


def test_an_empty_root_is_not_well(tmp_path, repo):
    run = call(repo, tmp_path)
    assert run.returncode == 1
    assert "refcoco.zip" in run.stdout
    run = call(repo, tmp_path / "none")
    assert run.returncode == 2
    assert "no folder" in run.stderr
    run = call(repo, tmp_path, "--datasets", "refcoco")
    assert run.returncode == 1
    assert "! no folder" in run.stdout
