"""Two processes: what each task trains is one model, and its scores are those of one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from refer.shapes import generate

FIRST_PORT = 29640


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generate(folder, train=8, val=3, test_a=2, test_b=2, size=64, workers=1, progress=False,
             extras=True)  # fmt: skip
    return folder


def run(repo: Path, processes: int, port: int, *arguments: str) -> None:
    launch = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--master_port",
              str(port)]  # fmt: skip
    command = [sys.executable, *(launch if processes > 1 else []), "-m", "ris.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo)}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280)
    assert ended.returncode == 0, ended.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "dataset", "task"),
    [(0, "grefshapes", "gres"), (1, "phraseshapes", "phrase"), (2, "refshapes", "rec")],
)
def test_two_processes_do_as_one(number, dataset, task, root, repo, tmp_path):
    port = FIRST_PORT + 2 * number
    common = [
        "--dataset", dataset, "--task", task, "--backbone", "tiny", "--device", "cpu",
        "--refer_data_root", str(root), "--img_size", "64", "--workers", "0",
        "--set", "data.eval_pictures=1",  # the batch then owes nothing to who has which picture
    ]  # fmt: skip
    train = ["train", *common, "--epochs", "1", "--batch-size", "4", "--logdir",
             str(tmp_path / "run"), "--output-dir", str(tmp_path)]  # fmt: skip
    run(repo, 2, port, *train)
    trained = json.loads((tmp_path / "run/metrics.json").read_text())
    assert trained["world_size"] == 2
    assert trained["total_batch"] == 8
    best = tmp_path / f"model_best_{dataset}"
    # Three pictures for two processes: one of them has one more.
    for processes in (1, 2):
        logdir = ["--logdir", str(tmp_path / str(processes))]
        run(repo, processes, port + 1, "test", *common, "--checkpoint", str(best), "--split",
            "val", *logdir)  # fmt: skip
    alone, together = (json.loads((tmp_path / n / "metrics.json").read_text()) for n in "12")
    assert together["world_size"] == 2
    assert alone["scores"] == together["scores"]
    assert answers(tmp_path / "1") == answers(tmp_path / "2") != {}


def answers(folder: Path) -> dict[str, list[str]]:
    """The lines of what a test leaves, in an order of their own: which process had an item is not
    what counts."""
    found = [path for path in folder.glob("*.json*") if path.name != "metrics.json"]
    return {path.name: sorted(path.read_text().splitlines()) for path in found}
