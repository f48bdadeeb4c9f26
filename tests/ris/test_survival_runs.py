"""Whole runs that are killed, starved, poisoned and scattered over processes."""

from __future__ import annotations

import json
import logging
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from refer.evaluation import load_records
from ris.cli import main
from ris.engine.store import Store
from ris.errors import EXIT_RESUMABLE

LOG = logging.getLogger("test")


def final_state(folder: Path) -> dict[str, torch.Tensor]:
    found = Store(folder / "resume").latest(LOG)
    assert found is not None
    return {
        f"{part}.{name}": value
        for part in ("model", "optimizer")
        for name, value in found.tensors[part].items()
    }


def same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def losses_of(folder: Path) -> list[float]:
    """The loss of every step of a run that printed each."""
    (scalars,) = folder.glob("*/vis_data/scalars.json")
    lines = [json.loads(line) for line in scalars.read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def environment(repo: Path) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(repo)}


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_where_an_unbroken_run_ends(
    train_arguments, tmp_path, repo
):
    """kill -9 again and again, in loading, stepping and saving; `--resume auto` each time."""
    common = [*train_arguments, "--epochs", "4", "--set", "schedule.val_interval=4",
              "survival.save_every=1"]  # fmt: skip
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert main([*common, "--logdir", str(whole), "--output-dir", str(whole)]) == 0
    command = [sys.executable, "-m", "ris.cli", *common, "--logdir", str(parts), "--output-dir",
               str(parts), "--resume", "auto"]  # fmt: skip
    chance, kills = random.Random(0), 0
    while True:
        run = subprocess.Popen(
            command, env=environment(repo), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        before = len(Store(parts / "resume").steps())
        if kills < int(os.environ.get("RIS_KILLS", "3")):
            # Counted from its first save of this life, so that every life gets a little further.
            deadline = time.monotonic() + 120
            latest = max(Store(parts / "resume").steps(), default=0) if before else 0
            while run.poll() is None and time.monotonic() < deadline:
                if max(Store(parts / "resume").steps(), default=0) > latest:
                    break
                time.sleep(0.005)
            time.sleep(chance.uniform(0, 0.4))
            run.send_signal(signal.SIGKILL)
            kills += 1
        if run.wait(timeout=250) == 0:
            break
        assert run.returncode == -signal.SIGKILL
    assert kills >= 1
    assert same(final_state(whole), final_state(parts))


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_ends_train_sh_with_the_code_to_requeue(train_arguments, tmp_path, repo, name):
    options = train_arguments[train_arguments.index("--refer_data_root") :]
    command = [
        "bash", str(repo / "train.sh"), "refshapes", str(tmp_path), "0", "--backbone", "tiny",
        *options, "--epochs", "500", "--output-dir", str(tmp_path),
    ]  # fmt: skip
    run = subprocess.Popen(
        command, env={**environment(repo), "PYTHON": sys.executable},
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        # Tests run in the background inherit an ignored SIGINT, which a shell cannot trap.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip
    log = tmp_path / "log.txt"
    deadline = time.monotonic() + 100
    while "Epoch(train)" not in (log.read_text() if log.is_file() else ""):
        assert time.monotonic() < deadline
        assert run.poll() is None
        time.sleep(0.1)
    run.send_signal(getattr(signal, name))
    assert run.wait(timeout=60) == EXIT_RESUMABLE
    assert "stopped by SIGTERM after step" in log.read_text()  # all are passed on as that
    assert "init_weights" not in log.read_text()  # mmengine's page of parameters
    assert Store(tmp_path / "resume").latest(LOG) is not None


@pytest.fixture(scope="module")
def on_two(train_arguments, launch, tmp_path_factory) -> Path:
    """Runs on two processes: `steps`, and an UNet fine-tuned `whole` and `sharded`, by one sentence
    a picture and (`_rec`) by several."""
    folder = tmp_path_factory.mktemp("two")
    common = [*train_arguments, "--print-freq", "1", "--output-dir", str(folder)]
    tuned = [*common, "--epochs", "1", "--unet_mode", "finetune"]
    boxes, shared = [*tuned, "--task", "rec"], ["survival.shard=True"]
    launch(
        2,
        [*common, *STEPS, "--batch-size", "4", "--logdir", str(folder / "steps")],
        [*tuned, "--logdir", str(folder / "whole"), "--set", *SMALL],
        [*tuned, "--logdir", str(folder / "sharded"), "--set", *SMALL, *shared],
        [*boxes, "--logdir", str(folder / "whole_rec"), "--set", *SMALL],
        [*boxes, "--logdir", str(folder / "sharded_rec"), "--set", *SMALL, *shared],
        # At rate 0 the second validation is no new best, and nothing is gathered for saving.
        [
            *tuned,
            "--epochs",
            "2",
            "--logdir",
            str(folder / "averaged"),
            "--set",
            *SMALL,
            *shared,
            "optim.lr=0.0",
            "optim.ema=0.5",
            "schedule.val_interval=1",
        ],
    )
    return folder


# Muon's bfloat16 matrices round too coarsely for the tolerances below.
SMALL = ["optim.lr=1e-4", "optim.muon=None"]
STEPS = ["--epochs", "2", "--set", "model.loss_over_processes=True", *SMALL]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_two_processes_step_as_one(train_arguments, on_two, tmp_path):
    """The same total batch: the same losses and the same global order."""
    arguments = [*train_arguments, *STEPS, "--print-freq", "1", "--batch-size", "8"]
    assert main([*arguments, "--logdir", str(tmp_path), "--output-dir", str(tmp_path)]) == 0
    for folder, number in ((tmp_path, 1), (on_two / "steps", 2)):
        metrics = json.loads((folder / "metrics.json").read_text())
        assert (metrics["world_size"], metrics["total_batch"]) == (number, 8)
    one, two = losses_of(tmp_path), losses_of(on_two / "steps")
    assert len(one) == len(two) == 12
    assert one[:6] == pytest.approx(two[:6], abs=1e-6)
    # What is rounded otherwise grows from step to step, on some processors beyond 2e-6.
    assert one == pytest.approx(two, abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("task", ["", "_rec"])
def test_sharded_weights_learn_as_whole_ones(on_two, task):
    """FSDP2 on two processes against DDP on two: the same losses, and a state either resumes."""
    whole, sharded = on_two / f"whole{task}", on_two / f"sharded{task}"
    assert losses_of(whole) == pytest.approx(losses_of(sharded), abs=1e-5)
    one, two = final_state(whole), final_state(sharded)
    assert one.keys() == two.keys()
    # Adam moves by its rate, 1e-4, even where a gradient is nothing but rounding.
    assert all(torch.allclose(one[name], two[name], atol=5e-4) for name in one)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_an_average_of_sharded_weights_gives_way_to_them_again(on_two):
    metrics = json.loads((on_two / "averaged/metrics.json").read_text())
    assert metrics["epochs"] == 2
    logs = "".join(path.read_text() for path in (on_two / "averaged").glob("*/*.log"))
    # Two validations, of which only the first was a new best.
    assert "Epoch(val) [1]" in logs
    assert "Epoch(val) [2]" in logs
    assert logs.count("best oIoU so far") == 1
    state = final_state(on_two / "averaged")
    assert all(value.isfinite().all() for value in state.values())


@pytest.mark.slow
def test_a_killed_rank_comes_back(train_arguments, tmp_path, repo):
    """One of two processes is killed once; torchrun starts both again, from the saved state."""
    marker = tmp_path / "killed"
    inject = tmp_path / "sitecustomize.py"
    inject.write_text(
        "import os\n"
        "if os.environ.get('RANK') == '1':\n"
        "    import signal, threading, time, pathlib\n"
        f"    marker, store = pathlib.Path({str(marker)!r}), pathlib.Path({str(tmp_path)!r})\n"
        "    def kill():\n"
        "        while not list((store / 'run/resume').glob('step_*')):\n"
        "            time.sleep(0.01)\n"
        "        if not marker.exists():\n"
        "            marker.touch()\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "    threading.Thread(target=kill, daemon=True).start()\n"
    )
    folder = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
        "--max_restarts", "2", "-m", "ris.cli", *train_arguments, "--logdir", str(folder),
        "--epochs", "3", "--output-dir", str(folder), "--set", "survival.save_every=2",
    ]  # fmt: skip
    paths = {**environment(repo), "PYTHONPATH": f"{tmp_path}{os.pathsep}{repo}"}
    run = subprocess.run(command, env=paths, capture_output=True, text=True, timeout=280)
    assert run.returncode == 0, run.stderr[-3000:]
    assert marker.exists()
    log = "".join(path.read_text() for path in folder.glob("*/*.log"))
    assert "resumed after step" in log
    assert json.loads((folder / "metrics.json").read_text())["world_size"] == 2


def test_poisoned_steps_are_skipped_and_too_many_stop_the_run(
    train_arguments, tmp_path, monkeypatch, capsys
):
    from ris import losses

    original = losses.WeightedCrossEntropy.forward
    calls: list[int] = []
    poisoned = {3, 4}

    def forward(self, logits, mask):
        calls.append(1)
        loss = original(self, logits, mask)
        return loss * float("nan") if len(calls) in poisoned else loss

    monkeypatch.setattr(losses.WeightedCrossEntropy, "forward", forward)
    common = [*train_arguments, "--epochs", "2", "--output-dir", str(tmp_path)]
    assert main([*common, "--logdir", str(tmp_path / "a")]) == 0
    (file,) = (tmp_path / "a" / "faults").glob("*.jsonl")
    records = [json.loads(line) for line in file.read_text().splitlines()]
    assert [record["batch"][0]["step"] for record in records] == [3, 4]
    assert all(len(record["batch"][0]["ref_id"]) == 8 for record in records)
    assert all(torch.isfinite(v).all() for v in final_state(tmp_path / "a").values())

    calls.clear()
    poisoned.update(range(1, 100))
    bound = ["--set", "survival.max_streak=3"]
    assert main([*common, "--logdir", str(tmp_path / "b"), *bound]) == 2
    error = capsys.readouterr().err
    assert "4 steps were skipped" in error
    assert "faults_rank0.jsonl" in error


@pytest.mark.parametrize("damage", ["truncated", "empty", "no picture"])
def test_broken_pictures_are_named_counted_and_bounded(
    train_arguments, shapes_root, tmp_path, capsys, damage
):
    root = tmp_path / "data"
    shutil.copytree(shapes_root, root)
    victims = sorted((root / "images/refshapes").glob("*.jpg"))[:2]
    for victim in victims:
        content = victim.read_bytes()
        victim.write_bytes(
            {"truncated": content[:400], "empty": b"", "no picture": b"x" * 99}[damage]
        )
    arguments = [str(root) if a == str(shapes_root) else a for a in train_arguments]
    common = [*arguments, "--epochs", "1", "--output-dir", str(tmp_path)]
    assert main([*common, "--logdir", str(tmp_path / "a")]) == 2
    assert victims[0].name in (error := capsys.readouterr().err) or victims[1].name in error
    assert main([*common, "--logdir", str(tmp_path / "b"), "--set", "data.max_broken=2"]) == 0
    (file,) = (tmp_path / "b" / "faults").glob("*.jsonl")
    assert all(victim.name in file.read_text() for victim in victims)
    assert main([*common, "--logdir", str(tmp_path / "c"), "--set", "data.max_broken=1"]) == 2
    assert "more than" in capsys.readouterr().err


def test_a_full_disk_keeps_the_last_good_state(train_arguments, tmp_path, monkeypatch, capsys):
    """A limit on the size of files stands in for a full disk: the system refuses the write."""
    common = [*train_arguments, "--output-dir", str(tmp_path), "--logdir", str(tmp_path / "a")]
    assert main([*common, "--epochs", "1"]) == 0
    good = final_state(tmp_path / "a")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        code = main([*common, "--epochs", "2", "--resume", "auto"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert code == 2
    assert "could not be written" in capsys.readouterr().err
    assert same(final_state(tmp_path / "a"), good)


@pytest.mark.slow
def test_a_stalled_process_is_named(train_arguments, tmp_path, repo):
    """A loader that never gives its batch: the watchdog says who stands where, and ends it."""
    inject = tmp_path / "stall.py"
    inject.write_text(
        "import sys, time\n"
        "from refer.datasets import RefDataset\n"
        "original = RefDataset.__getitem__\n"
        "def slow(self, index):\n"
        "    if slow.calls > 20:\n"
        "        time.sleep(600)\n"
        "    slow.calls += 1\n"
        "    return original(self, index)\n"
        "slow.calls = 0\n"
        "RefDataset.__getitem__ = slow\n"
        "from ris.cli import main\n"
        "raise SystemExit(main(sys.argv[1:]))\n"
    )
    command = [sys.executable, str(inject), *train_arguments, "--logdir", str(tmp_path / "a"),
               "--output-dir", str(tmp_path), "--set", "survival.stall_timeout=10"]  # fmt: skip
    run = subprocess.run(
        command, env=environment(repo), capture_output=True, text=True, timeout=120
    )
    assert run.returncode == 70
    assert "process 0 has made no progress" in run.stdout + run.stderr
    assert "loading the batch after step 2" in run.stdout + run.stderr


@pytest.mark.slow
def test_sharded_evaluation_gives_the_integers_of_one_process(trained, tmp_path, launch):
    """Seven pictures on three processes, which do not divide them; none is counted twice."""
    from refer.shapes import generate

    root = tmp_path / "data"
    generate(root, train=0, val=7, test_a=0, test_b=0, size=128, workers=1, progress=False)
    arguments = [
        "test", "--dataset", "refshapes", "--backbone", "tiny", "--device", "cpu", "--split",
        "val", "--checkpoint", str(trained / "best/model_best_refshapes"), "--refer_data_root",
        str(root), "--img_size", "64", "--workers", "0", "--set", "data.eval_pictures=1",
        "--logdir",
    ]  # fmt: skip
    assert main([*arguments, str(tmp_path / "1")]) == 0
    launch(3, [*arguments, str(tmp_path / "3")])
    alone, together = (load_records(tmp_path / n / "records_val.jsonl").records for n in "13")
    assert alone == together
