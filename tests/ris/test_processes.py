"""Two processes: what each task trains is one model, and its scores are those of one process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from refer.shapes import generate
from ris.cli import main

Launch = Callable[..., None]
TASKS = [("grefshapes", "gres"), ("phraseshapes", "phrase"), ("refshapes", "rec")]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    generate(folder, train=8, val=3, test_a=2, test_b=2, size=64, workers=1, progress=False,
             extras=True)  # fmt: skip
    return folder


def common(dataset: str, task: str, root: Path) -> list[str]:
    return [
        "--dataset", dataset, "--task", task, "--backbone", "tiny", "--device", "cpu",
        "--refer_data_root", str(root), "--img_size", "64", "--workers", "0",
        "--set", "data.eval_pictures=1",  # the batch then owes nothing to who has which picture
    ]  # fmt: skip


def command_of(dataset: str, task: str, root: Path, folder: Path, name: str) -> list[str]:
    best = folder / dataset / f"model_best_{dataset}"
    return ["test", *common(dataset, task, root), "--checkpoint", str(best), "--split", "val",
            "--logdir", str(folder / dataset / name)]  # fmt: skip


@pytest.fixture(scope="module")
def runs(root: Path, launch: Launch, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every task trained and tested on two processes; a folder of each, by its data set."""
    folder = tmp_path_factory.mktemp("runs")
    commands = []
    for dataset, task in TASKS:
        own = folder / dataset
        commands.append(["train", *common(dataset, task, root), "--epochs", "1", "--batch-size",
                         "4", "--logdir", str(own / "run"), "--output-dir", str(own)])  # fmt: skip
        commands.append(command_of(dataset, task, root, folder, "2"))
    launch(2, *commands)
    return folder


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("dataset", "task"), TASKS)
def test_two_processes_do_as_one(dataset, task, root, runs):
    own = runs / dataset
    trained = json.loads((own / "run/metrics.json").read_text())
    assert trained["world_size"] == 2
    assert trained["total_batch"] == 8
    # Three pictures for two processes: one of them has one more.
    assert main(command_of(dataset, task, root, runs, "1")) == 0
    alone, together = (json.loads((own / n / "metrics.json").read_text()) for n in "12")
    assert together["world_size"] == 2
    assert alone["scores"] == together["scores"]
    assert answers(own / "1") == answers(own / "2") != {}


def answers(folder: Path) -> dict[str, list[str]]:
    """The lines of what a test leaves, in an order of their own: which process had an item is not
    what counts."""
    found = [path for path in folder.glob("*.json*") if path.name != "metrics.json"]
    return {path.name: sorted(path.read_text().splitlines()) for path in found}
