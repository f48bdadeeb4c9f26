"""The kept heap and huge pages: page faults counted in processes of their own, switches, and who
has the word."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ris import allocator

GLIBC = pytest.mark.skipif(not allocator._is_glibc(), reason="Linux with glibc only")


COUNT = """
import resource, sys
import torch
from ris import allocator
ways = {"keep": allocator.keep_heap, "huge": allocator.huge_pages, "leave": lambda: None}
said = ways[sys.argv[1]]()
def work(times):
    for _ in range(times):
        torch.ones(16 << 20)  # 64 MiB, 16,384 pages
work(20)  # the heap grows until it has a free place of that size below its reserve
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work(5)
print(said, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, allocator.described())
"""


def count(repo, how: str, **variables: str) -> tuple[str, int, str]:
    """What keep_heap said, page faults of the same work done again, and the description."""
    ours = ("MALLOC_", allocator.HUGE_PAGES)
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    environment |= {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1", **variables}
    environment = {k: v for k, v in environment.items() if v}
    command = [sys.executable, "-c", COUNT, how]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert run.returncode == 0, run.stderr
    said, faults, described = run.stdout.strip().splitlines()[-1].split(" ", 2)
    return said, int(faults), described


@GLIBC
def test_memory_once_taken_is_not_faulted_in_again(repo):
    _, plain, described = count(repo, "leave", RIS_KEEP_HEAP="", GLIBC_TUNABLES="")
    assert plain >= 5 * 16384 // 512  # every block anew, be it in huge pages
    assert described == "the system's"
    said, kept, described = count(repo, "keep", RIS_KEEP_HEAP="", GLIBC_TUNABLES="")
    assert (said, described) == ("True", "keeps its heap")
    assert kept < plain / 10


GAPS = """
import torch
from pathlib import Path
from ris import allocator
def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
allocator.keep_heap()
rows = [torch.ones(1 << 18) for _ in range(400)]  # 1 MiB each
del rows[::2]  # gaps of 1 MiB, the heap's end in use
before = resident()
print(allocator.give_back(), before - resident(), all(row.eq(1).all() for row in rows))
"""


@GLIBC
def test_gaps_of_a_kept_heap_can_be_given_back(repo):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("MALLOC_")}
    run = subprocess.run(
        [sys.executable, "-c", GAPS], capture_output=True, text=True, timeout=200,
        env=environment | {"PYTHONPATH": str(repo), allocator.SWITCH: "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    given, freed, whole = run.stdout.split()
    assert (given, whole) == ("True", "True")
    assert int(freed) > 150 << 20  # of 200 MiB


@pytest.mark.skipif(
    not allocator.offered() or "[madvise]" not in allocator.ENABLED.read_text(),
    reason="the kernel has huge pages always or never, not on demand",
)
def test_large_blocks_lie_in_huge_pages(repo):
    _, plain, _ = count(repo, "leave", RIS_KEEP_HEAP="", GLIBC_TUNABLES="")
    said, huge, described = count(repo, "huge", RIS_KEEP_HEAP="", GLIBC_TUNABLES="")
    assert said == "True"
    assert described == "the system's, THP_MEM_ALLOC_ENABLE=1"
    assert huge < plain / 10  # 512 to 1, but for the two ends of a block


def test_huge_pages_leave_the_user_the_word(monkeypatch, tmp_path):
    monkeypatch.setattr(allocator, "ENABLED", tmp_path / "enabled")
    allocator.ENABLED.write_text("always [madvise] never")
    monkeypatch.delenv(allocator.HUGE_PAGES, raising=False)
    monkeypatch.setenv(allocator.SWITCH, "0")
    assert not allocator.huge_pages()
    assert allocator.HUGE_PAGES not in os.environ
    monkeypatch.delenv(allocator.SWITCH)
    monkeypatch.setenv(allocator.HUGE_PAGES, "0")
    assert not allocator.huge_pages()
    assert os.environ[allocator.HUGE_PAGES] == "0"
    monkeypatch.delenv(allocator.HUGE_PAGES)
    for offers_none in (lambda: allocator.ENABLED.write_text("always madvise [never]"),
                        allocator.ENABLED.unlink):  # fmt: skip
        offers_none()
        assert not allocator.huge_pages()
        assert allocator.HUGE_PAGES not in os.environ


def test_every_command_asks_for_huge_pages_before_torch_comes(repo):
    script = """
import os, sys
from ris import cli
class Probe:
    "Says whether torch was there, and what is set."
    @staticmethod
    def add_arguments(part): pass
    @staticmethod
    def run(arguments): print("torch" in sys.modules, os.environ.get("THP_MEM_ALLOC_ENABLE"))
cli.COMMANDS["probe"] = Probe
cli.main(["probe"])
"""
    ours = (allocator.HUGE_PAGES, allocator.SWITCH)
    environment = {k: v for k, v in os.environ.items() if k not in ours}
    run = subprocess.run(
        [sys.executable, "-c", script],
        env=environment | {"PYTHONPATH": str(repo)}, capture_output=True, text=True, timeout=200,
    )  # fmt: skip
    assert run.stdout.split() == ["False", "1" if allocator.offered() else "None"], run.stderr


@GLIBC
def test_it_can_be_switched_off_and_the_users_own_variables_win(monkeypatch):
    called = []

    class Library:
        @staticmethod
        def mallopt(parameter: int, value: int) -> int:
            called.append(parameter)
            return 1

    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: Library)
    monkeypatch.setattr(allocator, "_state", "the system's")
    for name in (*allocator.SETTINGS, allocator.SWITCH, "GLIBC_TUNABLES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(allocator.SWITCH, "0")
    assert not allocator.keep_heap()
    monkeypatch.delenv(allocator.SWITCH)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.mmap_max=5")
    assert not allocator.keep_heap()
    assert not called
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setenv("MALLOC_MMAP_MAX_", "65536")
    assert allocator.keep_heap()
    assert -4 not in called
    assert len(called) == 2
    assert allocator.described() == "keeps its heap, MALLOC_MMAP_MAX_=65536"


def test_other_systems_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("", ""))
    assert not allocator.keep_heap()
    assert not allocator.give_back()


@pytest.mark.parametrize(("device", "kept"), [("cpu", [True]), ("auto", [True])])
def test_a_run_on_the_cpu_keeps_its_heap(monkeypatch, device, kept):
    from ris.engine import launch

    called = []
    monkeypatch.setattr(launch.allocator, "keep_heap", lambda: called.append(True))
    monkeypatch.setattr(launch.torch.cuda, "is_available", lambda: False)
    launch.setup(device)
    assert called == kept
