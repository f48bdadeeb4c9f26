"""Every command and program of the pages runs, in the order of its page, or says why it does not.

A comment on the line before a block says how it is run:

    <!-- not run: REASON -->          it needs what no test machine has
    <!-- run in: PAGE -->             all of its lines stand in blocks of that page, which run
    <!-- run with: A => B; C => D --> it runs with these parts exchanged, made smaller mostly

Without one it runs as it stands. `tests/snippets` holds the folder it runs in and what runs it.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

import pytest

REPO = Path(__file__).resolve().parents[1]
HERE = Path(__file__).parent / "snippets"
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (REPO / "docs").glob("*.md"))]
LANGUAGES = ("bash", "python")
BLOCK = re.compile(r"((?:^<!--(?:(?!-->).)*-->\n)?)^```(\w*)\n(.*?)^```$", re.M | re.S)
MARK = re.compile(r"<!-- (not run|run in|run with): (.+?) -->\n", re.S)
# `expect 1 COMMAND`: it shall end with that code.
BEGIN = """set -euo pipefail
expect() { local want=$1 code=0; shift; "$@" || code=$?; [ "$code" = "$want" ]; }
"""


@dataclass
class Block:
    """A fenced block of a page; `line` is that of its fence."""

    page: str
    line: int
    language: str
    text: str
    not_run: str = ""
    run_in: str = ""
    run_with: list[tuple[str, str]] = field(default_factory=list)

    def program(self) -> str:
        """The text that is run. Raises ValueError if it no longer has what shall be exchanged."""
        text = self.text
        for old, new in self.run_with:
            if old not in text:
                raise ValueError(f"{self.page}:{self.line}: there is no {old!r} to exchange")
            text = text.replace(old, new)
        return text


def blocks(page: str, text: str) -> list[Block]:
    """The blocks of a page that are programs. Raises ValueError for a mark of another form."""
    found = []
    for match in BLOCK.finditer(text):
        comment, language, body = match.groups()
        if language not in LANGUAGES:
            continue
        block = Block(page, text.count("\n", 0, match.start(2)) + 1, language, body)
        mark = MARK.fullmatch(comment)
        if comment and mark is None and "run" in comment:
            raise ValueError(f"{page}:{block.line}: {comment.strip()} is no mark of a block")
        if mark is not None:
            kind, said = mark[1], " ".join(mark[2].split())
            if kind == "run with":
                pairs = [part.partition("=>") for part in said.split(";")]
                block.run_with = [(old.strip(), new.strip()) for old, _, new in pairs]
            elif kind == "run in":
                block.run_in = said
            else:
                block.not_run = said
        found.append(block)
    return found


def page_blocks(page: str) -> list[Block]:
    return blocks(page, (REPO / page).read_text())


def test_marks_are_read():
    one, two, three, four = blocks(
        "page", "```bash\na\n```\ntext\n<!-- not run: no GPU here -->\n```python\nb\n```\n"
        "<!-- run with: 8 => 0; --epochs 40 =>\n     --epochs 1 -->\n```bash\nc 8 --epochs 40\n```"
        "\n```\nno program\n```\n<!-- run in: README.md -->\n```bash\nd\n```\n"
    )  # fmt: skip
    assert (one.text, one.line, one.not_run, one.run_with) == ("a\n", 1, "", [])
    assert (two.language, two.line, two.not_run) == ("python", 6, "no GPU here")
    assert three.program() == "c 0 --epochs 1\n"
    assert four.run_in == "README.md"
    with pytest.raises(ValueError, match="no mark"):
        blocks("page", "<!-- never run: x -->\n```bash\na\n```\n")
    one.run_with = [("absent", "x")]
    with pytest.raises(ValueError, match="page:1: there is no 'absent'"):
        one.program()


def test_every_block_runs_or_says_why_not():
    every = [block for page in PAGES for block in page_blocks(page)]
    text = "".join((REPO / page).read_text() for page in PAGES)
    assert len(every) == sum(text.count(f"\n```{language}\n") for language in LANGUAGES)
    for block in every:
        where = f"{block.page}:{block.line}"
        if block.run_in:
            others = [other for other in page_blocks(block.run_in) if not other.run_in]
            there = {line for other in others if not other.not_run for line in lines(other)}
            assert set(lines(block)) <= there, f"{where}: {set(lines(block)) - there}"
        elif block.not_run:
            assert len(block.not_run.split()) >= 4, f"{where}: give the reason in words"
        else:
            assert block.program().strip(), where
    run = [block for block in every if not block.not_run]
    assert len(run) > 2 / 3 * len(every)


def lines(block: Block) -> list[str]:
    return [" ".join(line.split()) for line in block.text.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables under which `python`, `python3` and `ris` reach a server with torch loaded."""
    place = tmp_path_factory.mktemp("server")
    door = place / "door"
    server = subprocess.Popen([sys.executable, HERE / "server.py", door], cwd=place,
                              env={**os.environ, "PYTHONPATH": str(REPO)})  # fmt: skip
    programs = place / "bin"
    programs.mkdir()
    for name, first in (("python", ""), ("python3", ""), ("ris", "-m ris.cli")):
        (programs / name).write_text(
            f'#!/bin/sh\nexec {sys.executable} -I -S {HERE / "client.py"} {first} "$@"\n'
        )
        (programs / name).chmod(0o755)
    try:
        until = time.monotonic() + 250
        while not door.exists():
            assert server.poll() is None, "the server of the snippets ended"
            assert time.monotonic() < until, "the server of the snippets did not start"
            time.sleep(0.1)
        yield {
            **os.environ,
            "SNIPPET_SERVER": str(door),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHON": str(programs / "python"),
            "PYTHONPATH": str(REPO),
            "MPLBACKEND": "Agg",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }
    finally:
        server.terminate()
        server.wait(30)


@pytest.fixture(scope="module")
def sandbox(environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what a reader has by then; every page works in a copy."""
    folder = tmp_path_factory.mktemp("sandbox") / "base"
    execute(["python", str(HERE / "sandbox.py"), str(folder), str(REPO)], REPO, environment)
    return folder


def execute(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Run a command to its end; what it printed. Fails with that if it, or a part of it, fails."""
    done = subprocess.run(command, cwd=folder, env=environment, text=True, timeout=280,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)  # fmt: skip
    assert done.returncode == 0, f"code {done.returncode} of {command[-1]}\n{done.stdout[-5000:]}"
    assert "Traceback" not in done.stdout, done.stdout[-5000:]
    return done.stdout


def to_run(page: str) -> list[Block]:
    return [block for block in page_blocks(page) if not block.not_run and not block.run_in]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if to_run(page)])
def test_a_page_runs_from_its_first_block_to_its_last(page, environment, sandbox, tmp_path):
    if page == "docs/onnx.md" and not all(map(find_spec, ("onnx", "onnxscript", "onnxruntime"))):
        pytest.skip("extra 'onnx' not there")
    folder = tmp_path / "reader"
    shutil.copytree(sandbox, folder, symlinks=True)
    environment = {**environment, "TMPDIR": str(tmp_path)}
    for block in to_run(page):
        started = time.monotonic()
        if block.language == "bash":
            command = ["bash", "-c", BEGIN + block.program()]
        else:
            (tmp_path / "snippet.py").write_text(block.program())
            command = ["python", str(tmp_path / "snippet.py")]
        execute(command, folder, environment)
        print(f"{page}:{block.line}: {time.monotonic() - started:.1f} s")
