"""The documentation site: all pages in the menu, all snippets and modules there, built strictly."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml


def leaves(menu: Any) -> list[str]:
    """The files of a nested menu."""
    if isinstance(menu, str):
        return [menu]
    entries = menu.values() if isinstance(menu, dict) else menu
    return [leaf for entry in entries for leaf in leaves(entry)]


def test_the_menu_has_every_page_and_no_other(repo):
    menu = leaves(yaml.safe_load((repo / "mkdocs.yml").read_text())["nav"])
    docs = repo / "docs"
    assert sorted(menu) == sorted(str(p.relative_to(docs)) for p in docs.rglob("*.md"))


def test_pictures_of_the_pages_exist(repo):
    pages = [repo / "README.md", *(repo / "docs").rglob("*.md")]
    shown = [(page, name) for page in pages
             for name in re.findall(r"!\[[^]]*\]\(([^):]+)\)", page.read_text())]  # fmt: skip
    assert shown
    assert not [f"{page}: {name}" for page, name in shown if not (page.parent / name).is_file()]


def test_modules_and_snippets_exist(repo):
    readme = (repo / "README.md").read_text()
    for page in (repo / "docs").rglob("*.md"):
        text = page.read_text()
        for module in re.findall(r"^::: (\S+)", text, re.M):
            path = repo / module.replace(".", "/")
            assert path.with_suffix(".py").is_file() or (path / "__init__.py").is_file(), module
        for name in re.findall(r'--8<-- "README.md:(\w+)"', text):
            assert readme.count(f"--8<-- [start:{name}]") == 1
            assert readme.count(f"--8<-- [end:{name}]") == 1


def test_generated_tables_stay_inside_their_snippets(repo):
    readme = (repo / "README.md").read_text()
    for name in ("claim", "demo"):
        marks = [f"[start:{name}]", f"<!-- {name}:begin", f"<!-- {name}:end", f"[end:{name}]"]
        places = [readme.index(mark) for mark in marks]
        assert places == sorted(places)


@pytest.mark.slow
@pytest.mark.skipif(
    not all(map(find_spec, ("mkdocs", "material", "mkdocstrings"))), reason="extra 'docs' not there"
)
def test_it_builds_strictly_and_fetches_nothing(repo, tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    run = subprocess.run(command, cwd=repo, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    assert "set_image" in (tmp_path / "api/ris.html").read_text()
    for page in Path(tmp_path).rglob("*.html"):
        fetched = re.findall(
            r'<(?:script|link|img)[^>]*(?:src|href)="(https?:[^"]*)', page.read_text()
        )
        assert fetched == [], page
