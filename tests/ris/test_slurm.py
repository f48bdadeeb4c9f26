"""The Slurm launchers, against an srun that writes down what it was told."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path

import pytest

from ris.engine import launch


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """A folder first on PATH with srun, scontrol and a python that only record their arguments."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("srun", "scontrol"):
        script = tools / name
        script.write_text(
            "#!/usr/bin/env python3\n"
            "import json, os, pathlib, sys\n"
            f"pathlib.Path({str(tmp_path)!r}, '{name}.json').write_text(json.dumps(sys.argv[1:]))\n"
            f"stop = os.environ.get('STUB_STOP')\n"
            f"if '{name}' == 'srun' and stop:\n"
            "    pathlib.Path(stop).mkdir(parents=True)\n"
            "    pathlib.Path(stop, 'stopped').touch()\n"
            "    sys.exit(1)\n"
        )
        script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHON", "python-of-mine")
    for name in ("GPUS_PER_NODE", "CPUS_PER_TASK", "SRUN_ARGS", "SLURM_JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def call(repo: Path, script: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(repo / "tools" / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_training_asks_slurm_for_what_was_said(cluster, repo, monkeypatch):
    monkeypatch.setenv("GPUS_PER_NODE", "4")
    monkeypatch.setenv("CPUS_PER_TASK", "6")
    monkeypatch.setenv("SRUN_ARGS", "--time 24:00:00 --qos=low")
    logdir = str(cluster / "log")
    run = call(
        repo, "slurm_train.sh", "gpu", "job7", "8", "refcoco", logdir, "--token_length", "40"
    )
    assert run.returncode == 0, run.stderr
    told = json.loads((cluster / "srun.json").read_text())
    assert told[: told.index("python-of-mine")] == [
        "--partition=gpu", "--job-name=job7", "--gres=gpu:4", "--ntasks=8", "--ntasks-per-node=4",
        "--cpus-per-task=6", "--kill-on-bad-exit=1", "--time", "24:00:00", "--qos=low",
    ]  # fmt: skip
    assert told[told.index("python-of-mine") + 1 :] == [
        "-m", "ris.cli", "train", "--dataset", "refcoco", "--logdir", logdir,
        "--resume", "auto", "--token_length", "40",
    ]  # fmt: skip


def test_a_place_to_resume_from_that_is_given_is_the_one_that_counts(cluster, repo):
    logdir = str(cluster / "log")
    run = call(repo, "slurm_train.sh", "gpu", "j", "1", "refcoco", logdir, "--resume", "step_5")
    assert run.returncode == 0, run.stderr
    told = json.loads((cluster / "srun.json").read_text())
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume")
    assert parser.parse_known_args(told)[0].resume == "step_5"


def test_testing_names_the_checkpoint(cluster, repo):
    run = call(repo, "slurm_test.sh", "gpu", "t", "2", "refcocog", "w.pth", "--split", "test")
    assert run.returncode == 0, run.stderr
    told = json.loads((cluster / "srun.json").read_text())
    assert "--gres=gpu:2" in told
    assert told[told.index("ris.cli") + 1 :] == [
        "test", "--dataset", "refcocog", "--checkpoint", "w.pth", "--split", "test",
    ]  # fmt: skip


def test_a_preempted_batch_job_goes_back_into_the_queue(cluster, repo, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    monkeypatch.setenv("STUB_STOP", str(cluster / "log" / "resume"))
    run = call(repo, "slurm_train.sh", "gpu", "j", "1", "refcoco", str(cluster / "log"))
    assert run.returncode == 75
    assert json.loads((cluster / "scontrol.json").read_text()) == ["requeue", "4711"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gpu", "j"], "PARTITION JOB_NAME NUM_GPUS"),
        (["gpu", "j", "8", "refcoco"], "PARTITION JOB_NAME NUM_GPUS"),
        (["gpu", "j", "none", "refcoco", "log"], "NUM_GPUS must be a number"),
        (["gpu", "j", "12", "refcoco", "log"], "no multiple of GPUS_PER_NODE 8"),
    ],
)
def test_wrong_arguments_are_explained(cluster, repo, arguments, message):
    run = call(repo, "slurm_train.sh", *arguments)
    assert run.returncode == 2
    assert message in run.stderr
    assert not (cluster / "srun.json").exists()


def test_ranks_come_from_slurms_variables(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    found = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "8", "SLURM_LOCALID": "1",
             "SLURM_NODELIST": "node[1-2]"}  # fmt: skip
    for name, value in found.items():
        monkeypatch.setenv(name, value)

    def hostnames(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        assert command == ["scontrol", "show", "hostnames", "node[1-2]"]
        return subprocess.CompletedProcess(command, 0, "node1\nnode2\n", "")

    monkeypatch.setattr("ris.engine.launch.subprocess.run", hostnames)
    launch._ranks_from_slurm()
    seen = [os.environ[n] for n in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR")]
    assert seen == ["5", "8", "1", "node1"]


def test_a_batch_script_waits_for_nobody(monkeypatch):
    """There Slurm says of how many tasks the job is, and that this is the first; it is the only."""
    for name in ("RANK", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in (("SLURM_NTASKS", "8"), ("SLURM_PROCID", "0"), ("SLURM_LOCALID", "0")):
        monkeypatch.setenv(name, value)
    launch._ranks_from_slurm()
    assert "RANK" not in os.environ
