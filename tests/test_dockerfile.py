"""What can be told of the Dockerfile without building it: its parts exist and fit the project."""

from __future__ import annotations

import re
import subprocess
from fnmatch import fnmatch

import pytest


def test_it_fits_the_project(repo):
    text = (repo / "Dockerfile").read_text()
    minor = int(re.search(r"^FROM python:3\.(\d+)-slim$", text, re.M)[1])
    low, high = re.search(
        r'requires-python = ">=3\.(\d+),<3\.(\d+)"', (repo / "pyproject.toml").read_text()
    ).groups()
    assert int(low) <= minor < int(high)
    assert re.search(r"^torch==\S+$", (repo / "requirements.txt").read_text(), re.M)
    for lock in re.findall(r"-c (\S+)", text):
        assert (repo / lock).is_file()
    for extra in re.findall(r"\.\[(\w+)\]", text):
        assert re.search(rf"^{extra} = \[", (repo / "pyproject.toml").read_text(), re.M)


def test_nothing_tracked_that_runs_is_left_out(repo):
    if not (repo / ".git").exists():
        pytest.skip("not a git checkout, so what is tracked is not known")
    tracked = subprocess.run(
        ["git", "ls-files", "vpd", "refer", "ris", "configs", "checkpoints/tiny-t2i"],
        cwd=repo, capture_output=True, text=True, check=True,
    ).stdout.split()  # fmt: skip
    assert tracked
    rules = (repo / ".dockerignore").read_text().split()
    for path in tracked:
        left_out = False
        for rule in rules:  # the last rule that fits counts, as docker reads them
            folders = rule.removeprefix("!").removeprefix("**/")
            whole = "/".join(path.split("/")[: folders.count("/") + 1])
            if fnmatch(whole, folders):
                left_out = not rule.startswith("!")
        assert not left_out, path
