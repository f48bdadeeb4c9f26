"""metrics.json: what a run scored, on what, how, at what cost, with which versions."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from mmengine.device import get_device

from ris import allocator

PACKAGES = (
    "vpd-ris", "torch", "diffusers", "transformers", "mmengine", "mmsegmentation", "mmcv-lite",
    "numpy", "pillow", "pycocotools", "safetensors", "peft",
)  # fmt: skip


def environment() -> dict[str, Any]:
    """Versions, git revision and machine class."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    device = torch.cuda.get_device_name() if get_device() == "cuda" else _processor()
    return {
        "python": platform.python_version(),
        "versions": versions,
        "git_revision": git_revision(),
        "device": device,
        "threads": torch.get_num_threads(),
        "allocator": allocator.described(),
    }


def git_revision() -> str:
    """Revision of the checkout this package runs from, with `-dirty` behind local changes."""
    here = Path(__file__).resolve().parent
    try:
        run = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            cwd=here,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return "unknown (not a git checkout)"
    return run.stdout.strip()


def peak_memory() -> dict[str, float]:
    """Peak resident memory of this process, and of its GPU, in MiB."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes there, KiB on Linux
    peak = {"host_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20}
    if get_device() == "cuda":
        # mmengine resets this at every log line: the peak since the last one.
        peak["cuda_mib_since_last_log"] = torch.cuda.max_memory_allocated() / 2**20
    return {name: round(value, 1) for name, value in peak.items()}


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        name = platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
