"""Stops of several processes: nobody leaves before the state is on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from ris.engine import signals, state, survival
from ris.engine.signals import StopRequest
from ris.engine.store import Snapshot, Store
from ris.errors import CheckpointError, Stopped

WRITING = 1.5  # seconds


def stop(rank: int, folder: str, full: bool) -> None:
    """A process of two whose run is stopped, where the first takes long to write."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    place = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=2)
    state.capture = lambda *_: Snapshot(10, {"model": {"a": torch.ones(2)}}, {})
    survival.plain_model = lambda runner: None
    write = Store.write

    def slowly(store: Store, snapshot: Snapshot) -> Path:
        time.sleep(WRITING)
        if full:
            raise CheckpointError("no space")
        return write(store, snapshot)

    Store.write = slowly
    asked = StopRequest(timeout=60)
    store = Store(Path(folder) / "resume")
    hook = survival.StateHook(store, asked)
    runner = SimpleNamespace(
        iter=9, epoch=0, world_size=2, train_dataloader=range(100),
        optim_wrapper=SimpleNamespace(_accumulative_counts=1),
        train_loop=SimpleNamespace(batches=SimpleNamespace(total_batch=2)),
    )  # fmt: skip
    with asked.listening():
        if rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        try:
            hook.after_train_iter(runner, 3)
        except (Stopped, CheckpointError) as error:
            found = {"error": type(error).__name__, "steps": store.steps()}
            found["stopped"] = (store.folder / "stopped").exists()
            Path(folder, f"{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


@pytest.mark.parametrize("full", [False, True])
def test_no_process_leaves_before_the_state_is_on_disk(repo, tmp_path, full):
    runs = [
        subprocess.Popen(
            [sys.executable, __file__, str(rank), str(tmp_path), str(int(full))],
            env={**os.environ, "PYTHONPATH": str(repo)},
        )
        for rank in range(2)
    ]
    assert [run.wait(timeout=200) for run in runs] == [0, 0]
    expected = (
        {"error": "CheckpointError", "steps": [], "stopped": False}
        if full
        else {"error": "Stopped", "steps": [10], "stopped": True}
    )
    for rank in range(2):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == expected


def test_launchers_may_repeat_a_signal_while_the_state_is_written(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(signals.time, "monotonic", lambda: now[0])
    killed: list[int] = []
    with StopRequest().listening() as asked:
        handler = signal.getsignal(signal.SIGTERM)
        monkeypatch.setattr(signals.os, "kill", lambda pid, number: killed.append(number))
        monkeypatch.setattr(signals.signal, "signal", lambda number, action: None)
        for seconds in (0, 3, 60):
            now[0] = seconds
            handler(signal.SIGTERM, None)
        assert asked.received == signal.SIGTERM
        assert not killed
        handler(signal.SIGINT, None)  # a person, a minute later
        assert killed == [signal.SIGINT]
        monkeypatch.undo()


if __name__ == "__main__":
    stop(int(sys.argv[1]), sys.argv[2], sys.argv[3] == "1")
