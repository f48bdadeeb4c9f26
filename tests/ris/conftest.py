"""A small generated data set and one trained run, shared by the tests of the systems."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ris.cli import main


@pytest.fixture(scope="session")
def shapes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RefShapes with 24 training and 6 validation pictures."""
    from refer.shapes import generate

    root = tmp_path_factory.mktemp("shapes")
    generate(root, train=24, val=6, test_a=3, test_b=3, size=128, workers=1, progress=False)
    return root


@pytest.fixture(scope="session")
def train_arguments(shapes_root: Path) -> list[str]:
    """`ris train` on that data with the tiny backbone; a --logdir must follow."""
    return [
        "train", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu",
        "--refer_data_root", str(shapes_root), "--img_size", "64", "--workers", "0",
        "--batch-size", "8", "--print-freq", "2",
    ]  # fmt: skip


@pytest.fixture(scope="session")
def general_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RefShapes and GRefShapes, small."""
    from refer.shapes import generate

    root = tmp_path_factory.mktemp("general")
    generate(root, train=12, val=5, test_a=2, test_b=2, size=128, workers=1, progress=False,
             extras=True)  # fmt: skip
    return root


@pytest.fixture(scope="session")
def trained(train_arguments: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run of two epochs; its best weights are in `best/model_best_refshapes`."""
    folder = tmp_path_factory.mktemp("run")
    arguments = [*train_arguments, "--logdir", str(folder), "--epochs", "2"]
    assert main([*arguments, "--output-dir", str(folder / "best")]) == 0
    return folder


SEVERAL = """import json, sys
from ris.cli import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    if code:
        raise SystemExit(code)
"""


@pytest.fixture(scope="session")
def launch(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., None]:
    """`launch(3, one, two)`: these commands of `ris`, one after the other, on three processes.

    Several in one launch, since loading the libraries takes longer than a command does. The
    processes find a free port by themselves.
    """
    program = tmp_path_factory.mktemp("launch") / "several.py"
    program.write_text(SEVERAL)

    def launched(processes: int, *commands: list[str]) -> None:
        command = [
            sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
            str(processes), str(program), json.dumps(commands),
        ]  # fmt: skip
        run = subprocess.run(
            command, capture_output=True, text=True, timeout=500,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo)},
        )  # fmt: skip
        assert run.returncode == 0, run.stderr[-3000:]

    return launched
