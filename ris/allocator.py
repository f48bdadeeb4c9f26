"""Memory on the CPU: what is freed is kept, and large blocks lie in huge pages.

By default glibc gives every large block back to the kernel when it is freed, and the next layer's
activations fault the same pages in again, one by one and zeroed. A network frees and takes blocks
of the same sizes at every pass, so keeping them costs the peak of memory, for the whole run, and
nothing more. `mallopt` says at run time what MALLOC_MMAP_MAX_, MALLOC_TRIM_THRESHOLD_ and
MALLOC_TOP_PAD_ say at start; no process has to be started anew.

glibc does not always find a freed block again: an aligned request is a little larger than the block
it leaves behind. In huge pages (2 MiB in place of 4 KiB) a block costs up to 512 times fewer
faults, and a matrix product looks up fewer addresses. torch has a switch for that, off unless it is
set.
"""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from pathlib import Path

SWITCH = "RIS_KEEP_HEAP"
TOP_PAD = 1 << 28  # bytes asked of the kernel beyond a request: address space until they are used
# environment variable of glibc's -> (mallopt parameter of <malloc.h>, value)
SETTINGS = {
    "MALLOC_MMAP_MAX_": (-4, 0),  # no block is mapped on its own
    "MALLOC_TRIM_THRESHOLD_": (-1, -1),  # never trim
    "MALLOC_TOP_PAD_": (-2, TOP_PAD),
}
HUGE_PAGES = "THP_MEM_ALLOC_ENABLE"  # torch's own, for tensors of 2 MiB and more
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")  # always, on demand, never
_state = "the system's"


def huge_pages() -> bool:
    """Have torch ask for huge pages, in this process and those it starts; whether it will.

    To be called before the first tensor is made: torch looks once. Only where the system offers
    them. With RIS_KEEP_HEAP=0 the variable is left as it is; one that the user has set stays.
    """
    if os.environ.get(SWITCH, "1") != "0" and offered():
        os.environ.setdefault(HUGE_PAGES, "1")
    return offered() and os.environ.get(HUGE_PAGES) == "1"


def offered() -> bool:
    """Whether the system has huge pages for those who ask."""
    return ENABLED.is_file() and "[never]" not in ENABLED.read_text()


def keep_heap() -> bool:
    """Keep freed memory from now on, in this process and those forked from it; whether it is so.

    Only on Linux with glibc. RIS_KEEP_HEAP=0 leaves the allocator alone. A variable of glibc's own
    that the user has set (MALLOC_..., or glibc.malloc in GLIBC_TUNABLES) wins over ours.
    """
    global _state
    if os.environ.get(SWITCH, "1") == "0" or not _is_glibc():
        return False
    if "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    wanted = {name: pair for name, pair in SETTINGS.items() if name not in os.environ}
    if mallopt is None or not wanted:
        return False
    done = [mallopt(*pair) for pair in wanted.values()] == [1] * len(wanted)
    if done:
        _state = "keeps its heap"
    return done


def give_back() -> bool:
    """Return to the system, once, what the heap keeps free; whether anything was.

    For a moment after which much less is needed: what a block leaves behind is of use to others
    only where it is as large as what they ask for. Linux with glibc only.
    """
    if not _is_glibc():
        return False
    return bool(ctypes.CDLL(None).malloc_trim(0))


def described() -> str:
    """What metrics.json says of the allocator: `keeps its heap` or `the system's`, and the
    variables that are set."""
    names = (*SETTINGS, HUGE_PAGES)
    own = [f"{name}={os.environ[name]}" for name in names if name in os.environ]
    return ", ".join([_state, *own])


def _is_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"
