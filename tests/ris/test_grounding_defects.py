"""Defects of RefTR's published programs, around the model, that must be absent here.

The numbers are those of the list of its defects. Those of data and scores ([1], [4], [9]) are
tested beside the evaluators, [2], [3], [7] and [8] also where the runs are
(test_grounding_system.py).
"""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

PACKAGES = ("vpd", "refer", "ris")


def sources(repo: Path) -> list[Path]:
    return [path for package in PACKAGES for path in (repo / package).rglob("*.py")]


def test_5_nothing_imports_names_that_newer_libraries_dropped(repo):
    """RefTR needs np.int, torch._six and collections.Iterable."""
    gone = re.compile(
        r"\bnp\.(int|float|bool|object|str)\b|torch\._six|collections import .*\bIterable\b(?<!abc)"
    )
    met = []
    for path in sources(repo):
        for number, line in enumerate(path.read_text().splitlines(), 1):
            if gone.search(line) and "collections.abc" not in line:
                met.append(f"{path}:{number}: {line.strip()}")
    assert not met


def test_6_every_library_that_is_imported_is_declared(repo):
    """RefTR's requirements leave out torch, transformers, opencv and matplotlib."""
    tomllib = pytest.importorskip("tomllib")
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    declared = {_plain(Requirement(text).name) for own in lists for text in own}
    distributions = packages_distributions()
    missing = {}
    for path in sources(repo):
        for module in _imported(path):
            own = {_plain(name) for name in distributions.get(module, ())}
            if own and not own & declared:
                missing[module] = str(path)
    assert not missing


def _plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _imported(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    return found - set(sys.stdlib_module_names) - set(PACKAGES)


def test_7_every_stage_begins_with_a_folder_that_an_earlier_one_writes(repo):
    """RefTR's second stage names a path that its first does not write."""
    text = (repo / "docs/grounding.md").read_text().replace("\\\n", " ")
    written: list[str] = []
    begun = []
    for line in text.splitlines():
        command = line.split("#")[0].split()
        if "--init" in command:
            begun.append(command[command.index("--init") + 1])
            assert begun[-1] in written, line
        if "--output-dir" in command:
            folder = command[command.index("--output-dir") + 1]
            written.append(f"{folder}/model_best_{command[2]}")
        for word in command:
            if word.endswith(".py") and "/" in word:
                assert (repo / word).is_file(), line
    assert len(begun) == 2
    # All stages share one token length, which the head's input channels depend on.
    assert len(set(re.findall(r"--token_length (\d+) --(?:init|output-dir)", text))) == 1
