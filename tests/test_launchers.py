"""train.sh and test.sh themselves: which Python they run, and what reaches it."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest


def chosen(repo: Path, home: Path, **environment: str) -> str:
    """The interpreter for a repository at `home`."""
    script = f"source {repo}/tools/interpreter.sh; choose_python {home}; echo $python"
    clean = {"PATH": os.environ["PATH"], **environment}
    run = subprocess.run(["bash", "-c", script], env=clean, capture_output=True, text=True)
    return run.stdout.strip()


def test_what_was_said_or_activated_goes_before_what_lies_there(repo, tmp_path):
    assert chosen(repo, tmp_path) == "python"
    own = tmp_path / ".venv/bin/python"
    own.parent.mkdir(parents=True)
    own.touch(mode=0o755)
    assert chosen(repo, tmp_path) == str(own)
    assert chosen(repo, tmp_path, CONDA_DEFAULT_ENV="base") == str(own)
    assert chosen(repo, tmp_path, CONDA_DEFAULT_ENV="torch") == "python"
    assert chosen(repo, tmp_path, VIRTUAL_ENV="/x") == "python"
    assert chosen(repo, tmp_path, VIRTUAL_ENV="/x", PYTHON="python3.12") == "python3.12"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_run_that_does_not_listen_yet_ends_too(repo, tmp_path, name):
    """While weights are read, say. A shell's background jobs are born deaf to SIGINT."""
    stub = tmp_path / "python"
    stub.write_text(f"#!/bin/sh\ntouch {tmp_path}/begun\nexec sleep 60\n")
    stub.chmod(0o755)
    process = subprocess.Popen(
        ["bash", str(repo / "train.sh"), "refcoco", str(tmp_path / "log"), "0"],
        env={**os.environ, "PYTHON": str(stub)},
        # Tests run in the background inherit an ignored SIGINT, which a shell cannot trap.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(getattr(signal, name))
    assert process.wait(timeout=30) == 128 + signal.SIGTERM


@pytest.mark.parametrize("gpus", ["0", "2"])
def test_usr1_reaches_the_run_as_a_signal_torchrun_passes_on(repo, tmp_path, gpus):
    """torchrun dies of USR1 itself, and leaves its processes behind."""
    stub = tmp_path / "python"
    stub.write_text(
        f"#!/bin/bash\ntrap 'echo TERM > {tmp_path}/heard; exit 3' TERM\n"
        f"echo $TORCH_ELASTIC_SHUTDOWN_TIMEOUT > {tmp_path}/begun\n"
        "while :; do sleep 0.05; done\n"
    )
    stub.chmod(0o755)
    process = subprocess.Popen(
        ["bash", str(repo / "train.sh"), "refcoco", str(tmp_path / "log"), gpus],
        env={**os.environ, "PYTHON": str(stub)},
    )
    deadline = time.monotonic() + 30
    while not (tmp_path / "begun").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGUSR1)
    assert process.wait(timeout=30) == 3
    assert (tmp_path / "heard").read_text() == "TERM\n"
    assert (tmp_path / "begun").read_text().strip() == ("" if gpus == "0" else "600")


def test_a_number_of_gpus_that_is_none_is_refused(repo):
    run = subprocess.run(
        ["bash", str(repo / "test.sh"), "refcoco", "m.pth"],
        env={**os.environ, "NUM_GPUS": "two", "PYTHON": "false"}, capture_output=True, text=True,
    )  # fmt: skip
    assert run.returncode == 2
    assert "NUM_GPUS must be a number, got 'two'" in run.stderr
