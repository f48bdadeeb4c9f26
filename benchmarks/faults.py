"""What a training run survives, tried out: every fault is really caused, on small runs on the CPU.

    python benchmarks/faults.py [--kills 20] [--csv FILE] [--docs]

Each scenario trains the tiny backbone on generated data, breaks something, repeats the command with
`--resume auto`, and compares the final weights and optimizer with those of a run that nothing
befell. "Steps done twice" are those computed before the fault and lost by it.
"""

from __future__ import annotations

import argparse
import csv
import logging
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from refer.shapes import generate
from ris.engine.store import Store

REPO = Path(__file__).resolve().parents[1]
RESULTS = REPO / "benchmarks" / "results" / "faults.csv"
DOCS = REPO / "docs" / "reliability.md"
BEGIN, END = "<!-- faults:begin -->", "<!-- faults:end -->"
LOG = logging.getLogger("faults")
STEPS_AN_EPOCH, EPOCHS = 6, 5
_STEP = re.compile(r"Epoch\(train\)\s+\[(\d+)\]\[(\d+)/")
# Run in every process before the program: causes faults that cannot be caused from outside.
INJECT = """
import os
what = os.environ.get("FAULT")
if what == "nan":
    from ris import losses
    original, calls = losses.WeightedCrossEntropy.forward, []
    def forward(self, logits, mask):
        calls.append(1)
        loss = original(self, logits, mask)
        return loss * float("nan") if len(calls) in (4, 9) else loss
    losses.WeightedCrossEntropy.forward = forward
if what == "full":
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
"""


@dataclass
class Outcome:
    """A row of the table."""

    fault: str
    times: int
    survived: str
    lost: str
    seconds: float = 0.0


class Ground:
    """A folder with data, the arguments of the run, and the unbroken run's final state."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.data = folder, folder / "data"
        generate(self.data, train=24, val=4, test_a=0, test_b=0, size=128, workers=1,
                 progress=False)  # fmt: skip
        (folder / "inject").mkdir()
        (folder / "inject" / "sitecustomize.py").write_text(INJECT)
        self.count = 0
        self.whole = self.new()
        assert self.run(self.whole).wait() == 0

    def new(self) -> Path:
        self.count += 1
        return self.folder / f"run{self.count}"

    def run(
        self, run: Path, *extra: str, data: Path | None = None, processes: int = 1,
        fault: str = "", restarts: int = 0,
    ) -> subprocess.Popen[bytes]:  # fmt: skip
        """Start `ris train` with `--resume auto`; output goes to `<run>/out.txt`."""
        run.mkdir(exist_ok=True)
        launcher = ["-m", "ris.cli"]
        if processes > 1:
            launcher = ["-m", "torch.distributed.run", "--nproc_per_node", str(processes),
                        "--master_port", "29671", "--max_restarts", str(restarts),
                        *launcher]  # fmt: skip
        command = [
            sys.executable, *launcher, "train", "--dataset", "refshapes", "--backbone", "tiny",
            "--weights", "random", "--device", "cpu", "--refer_data_root", str(data or self.data),
            "--img_size", "64", "--workers", "0", "--batch-size", str(8 // processes),
            "--print-freq", "1", "--epochs", str(EPOCHS), "--logdir", str(run), "--output-dir",
            str(run), "--resume", "auto", "--set", "schedule.val_interval=5",
            "survival.save_every=1", *extra,
        ]  # fmt: skip
        paths = os.pathsep.join([str(self.folder / "inject"), str(REPO)])
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths, "FAULT": fault}
        with open(run / "out.txt", "ab") as out:
            return subprocess.Popen(command, env=environment, stdout=out, stderr=out)

    def equal(self, run: Path) -> bool:
        """Whether a run ended bitwise where the unbroken one did."""
        one, two = (self.state(folder) for folder in (self.whole, run))
        return one.keys() == two.keys() and all(torch.equal(one[n], two[n]) for n in one)

    @staticmethod
    def state(run: Path) -> dict[str, torch.Tensor]:
        found = Store(run / "resume").latest(LOG)
        assert found is not None
        return {f"{part}.{name}": value for part in ("model", "optimizer")
                for name, value in found.tensors[part].items()}  # fmt: skip

    def steps_logged(self, run: Path) -> int:
        return len(_STEP.findall((run / "out.txt").read_text()))

    def wait_for_step(self, run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
        while process.poll() is None and max(Store(run / "resume").steps(), default=0) < step:
            time.sleep(0.005)


def verdict(ground: Ground, run: Path, code: int) -> tuple[str, str]:
    """What to write into the table about a run that was brought to its end."""
    twice = ground.steps_logged(run) - STEPS_AN_EPOCH * EPOCHS
    if code != 0:
        return f"no: exit code {code}", ""
    end = "yes, same bits" if ground.equal(run) else "NO: other weights"
    return end, f"{max(0, twice)} steps done twice"


def killed(ground: Ground, kills: int) -> Outcome:
    run, chance = ground.new(), random.Random(0)
    for _ in range(kills):
        before = max(Store(run / "resume").steps(), default=0)
        process = ground.run(run)
        ground.wait_for_step(run, before + 1, process)
        time.sleep(chance.uniform(0, 0.3))
        process.kill()
        if process.wait() == 0:
            break
    code = ground.run(run).wait()
    return Outcome("kill -9 at random moments", kills, *verdict(ground, run, code))


def signalled(name: str) -> Callable[[Ground, int], Outcome]:
    def scenario(ground: Ground, kills: int) -> Outcome:
        run, codes = ground.new(), []
        for step in (4, 15):
            process = ground.run(run)
            ground.wait_for_step(run, step, process)
            process.send_signal(getattr(signal, name))
            codes.append(process.wait())
        code = ground.run(run).wait()
        survived, lost = verdict(ground, run, code)
        if codes != [75, 75]:
            survived = f"NO: exit codes {codes} instead of 75"
        return Outcome(f"{name}, exit code 75", 2, survived, lost)

    return scenario


def truncated(ground: Ground, kills: int) -> Outcome:
    run = ground.new()
    process = ground.run(run)
    ground.wait_for_step(run, 12, process)
    process.kill()
    process.wait()
    store = Store(run / "resume")
    latest = store.path(store.steps()[-1]) / "model.safetensors"
    latest.write_bytes(latest.read_bytes()[: latest.stat().st_size // 2])
    code = ground.run(run).wait()
    return Outcome("newest state cut in half", 1, *verdict(ground, run, code))


def full(ground: Ground, kills: int) -> Outcome:
    run = ground.new()
    process = ground.run(run)
    ground.wait_for_step(run, 6, process)
    process.kill()
    process.wait()
    refused = ground.run(run, fault="full").wait()
    told = "could not be written" in (run / "out.txt").read_text()
    code = ground.run(run).wait()
    survived, lost = verdict(ground, run, code)
    if refused == 0 or not told:
        survived = "NO: the failed save went unnoticed"
    return Outcome("no room for the state (file size limit)", 1, survived, lost)


def poisoned(ground: Ground, kills: int) -> Outcome:
    run = ground.new()
    code = ground.run(run, fault="nan").wait()
    text = (run / "out.txt").read_text()
    skipped = text.count("its gradient is not finite; its batch")
    finite = all(torch.isfinite(value).all() for value in ground.state(run).values())
    survived = "yes, skipped and written down" if code == 0 and skipped == 2 and finite else "NO"
    return Outcome("NaN in the loss", 2, survived, f"{skipped} updates left out")


def broken(damage: str) -> Callable[[Ground, int], Outcome]:
    def scenario(ground: Ground, kills: int) -> Outcome:
        run, data = ground.new(), ground.folder / f"data_{damage}"
        shutil.copytree(ground.data, data)
        victim = sorted((data / "images/refshapes").glob("*.jpg"))[0]
        content = victim.read_bytes()
        victim.write_bytes(content[: len(content) // 3] if damage == "truncated" else b"")
        refused = ground.run(run, data=data).wait()
        code = ground.run(run, "data.max_broken=1", data=data).wait()
        named = victim.name in (run / "out.txt").read_text()
        survived = "yes, named and left out" if (refused, code, named) == (2, 0, True) else "NO"
        return Outcome(f"{damage} picture (data.max_broken=1)", 1, survived, "1 picture")

    return scenario


def killed_rank(ground: Ground, kills: int) -> Outcome:
    run = ground.new()
    process = ground.run(run, processes=2, restarts=3)
    ground.wait_for_step(run, 10, process)
    listed = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True)
    victims = [int(pid) for pid in listed.stdout.split()]
    os.kill(victims[-1], signal.SIGKILL)
    code = process.wait()
    back = "resumed after step" in (run / "out.txt").read_text()
    survived = "yes, torchrun brought both back" if code == 0 and back else f"NO: code {code}"
    twice = ground.steps_logged(run) - STEPS_AN_EPOCH * EPOCHS
    return Outcome("one of two processes killed", 1, survived, f"{max(0, twice)} steps done twice")


SCENARIOS: tuple[Callable[[Ground, int], Outcome], ...] = (
    killed, *(signalled(name) for name in ("SIGTERM", "SIGUSR1", "SIGINT")), truncated, full,
    poisoned, broken("truncated"), broken("empty"), killed_rank,
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--csv", type=Path, default=RESULTS)
    parser.add_argument("--docs", action="store_true", help="write the table into the docs")
    arguments = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        ground = Ground(Path(folder))
        for scenario in SCENARIOS:
            started = time.monotonic()
            row = scenario(ground, arguments.kills)
            row.seconds = round(time.monotonic() - started, 1)
            print(f"{row.fault}: {row.survived}; lost: {row.lost} ({row.seconds} s)", flush=True)
            rows.append(row)
    arguments.csv.parent.mkdir(parents=True, exist_ok=True)
    draft = arguments.csv.with_suffix(".partial")
    with open(draft, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(vars(rows[0])))
        writer.writeheader()
        writer.writerows(vars(row) for row in rows)
    os.replace(draft, arguments.csv)
    if arguments.docs:
        lines = ["| fault | times | survived | lost |", "|---|---|---|---|"]
        lines += [f"| {r.fault} | {r.times} | {r.survived} | {r.lost} |" for r in rows]
        before, rest = DOCS.read_text().split(BEGIN)
        table = "\n".join(lines)
        DOCS.write_text(f"{before}{BEGIN}\n{table}\n{END}{rest.split(END)[1]}")


if __name__ == "__main__":
    main()
