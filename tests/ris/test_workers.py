"""Loader workers: signals of a group leave them at work, and they end when their parent does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from ris.engine import settings
from ris.engine.data import open_refer, picture_loader, workers_end

SCRIPT = """
import os, signal, sys, time
from ris.engine import settings
from ris.engine.data import open_refer, picture_loader
entries = {"data.root": sys.argv[1], "data.image_size": 64, "data.workers": 2}
entries |= {"data.eval_pictures": 1}
config = settings.load(settings.find_config("res", "refshapes", "tiny", None), entries).to_dict()
loader = picture_loader(open_refer(config["data"]), "val", config, "cpu")
pictures = iter(loader)
next(pictures)
workers = [worker.pid for worker in pictures._workers]
for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1):
    for worker in workers:
        os.kill(worker, number)
time.sleep(0.5)
print(1 + sum(1 for _ in pictures), all(worker.is_alive() for worker in pictures._workers))
if sys.argv[2] == "fails":
    raise RuntimeError("as meant")
"""


@pytest.mark.parametrize("how", ["ends", "fails"])
def test_workers_outlive_signals_and_not_their_parent(repo, shapes_root, how):
    """A parent that waits for workers that ignore it would never end."""
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(shapes_root), how],
        env=os.environ | {"PYTHONPATH": str(repo), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert run.stdout.split() == ["6", "True"], run.stderr
    assert ("as meant" in run.stderr) == (how == "fails")
    assert run.returncode == (how == "fails")


@pytest.fixture
def loader(shapes_root: Path) -> DataLoader:
    entries = {"data.root": str(shapes_root), "data.image_size": 64, "data.workers": 1}
    config = settings.load(settings.find_config("res", "refshapes", "tiny", None), entries)
    return picture_loader(open_refer(config.to_dict()["data"]), "val", config.to_dict(), "cpu")


def stopped_within(loader: DataLoader) -> list:
    """The workers of a run that an exception ended."""
    with pytest.raises(KeyboardInterrupt):
        interrupt(loader)
    return interrupt.workers


def interrupt(loader: DataLoader) -> None:
    with workers_end(loader):
        next(iter(loader))
        interrupt.workers = loader._iterator._workers
        raise KeyboardInterrupt


def test_workers_end_with_the_block_however_it_is_left(loader):
    with workers_end(loader):
        batches = list(loader)
        workers = loader._iterator._workers
        assert all(worker.is_alive() for worker in workers)
    assert not any(worker.is_alive() for worker in workers)
    workers = stopped_within(loader)
    assert not any(worker.is_alive() for worker in workers)
    with workers_end(loader):  # and can be used again
        assert len(list(loader)) == len(batches)


def test_a_worker_that_hangs_is_told_to_end(loader):
    with workers_end(loader):
        next(iter(loader))
        (worker,) = loader._iterator._workers
        loader.worker_init_fn.obey(True)
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(20)
        assert not worker.is_alive()
        loader.worker_init_fn.obey(False)


def test_a_loader_without_workers_has_none_to_end(loader):
    plain = DataLoader([1, 2])
    with workers_end(plain):
        assert len(list(plain)) == 2
