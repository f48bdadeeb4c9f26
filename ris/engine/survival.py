"""Hooks that let a long run survive: state saved and restored, stops obeyed, faults counted."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank, is_main_process
from mmengine.hooks import Hook

from ris.engine import state
from ris.engine.hooks import plain_model
from ris.engine.signals import StopRequest
from ris.engine.store import BackgroundWriter, Store
from ris.engine.watch import Watchdog
from ris.errors import CheckpointError, Stopped, TrainingError


class StateHook(Hook):
    """Saves the run every `every` steps, at the end of an epoch, and when it is asked to stop.

    Args:
        store: where to.
        stop: asked after every `ask_every` steps whether a signal came (each step where there is
            one process only).
        every: steps between two saves; 0 saves at the end of epochs only.
    """

    priority = "VERY_LOW"  # behind the schedules, which are part of the state

    def __init__(
        self, store: Store, stop: StopRequest, every: int = 0, ask_every: int = 10
    ) -> None:
        self.store, self.stop = store, stop
        self.every, self.ask_every = every, ask_every
        self.writer = BackgroundWriter(store)

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        step = runner.iter + 1
        if step % runner.optim_wrapper._accumulative_counts:
            return  # half an accumulated gradient cannot be saved
        last = batch_idx + 1 == len(runner.train_dataloader)
        signal = self._asked(runner, step)
        if signal is not None or last or (self.every and step % self.every == 0):
            self._save(runner, step, batch_idx)
        if signal is not None:
            self._finish_together(runner)
            raise Stopped(signal, step)

    def after_train(self, runner: Any) -> None:
        self._finish(runner)

    def _asked(self, runner: Any, step: int) -> int | None:
        if runner.world_size > 1 and step % self.ask_every:
            return None
        return self.stop.agreed()

    def _save(self, runner: Any, step: int, batch_idx: int) -> None:
        batches = runner.train_loop.batches
        place = {"epoch": runner.epoch, "consumed": (batch_idx + 1) * batches.total_batch}
        snapshot = state.capture(runner, plain_model(runner), step, place)
        if is_main_process():
            try:
                self.writer.submit(snapshot)
            except CheckpointError as error:
                runner.logger.error(f"{error}; training goes on, the last good one is kept")

    def _finish_together(self, runner: Any) -> None:
        """No process leaves before the first one has written the state: launchers end them all as
        soon as one is gone."""
        error: Exception | None = None
        try:
            self._finish(runner)
            if is_main_process():
                (self.store.folder / "stopped").touch()  # tells train.sh, past torchrun's own code
        except Exception as failed:  # whatever it is, the others wait to hear of it
            error = failed
        if not self.stop.all_well(error is None):
            raise error or CheckpointError("the first process could not write its last checkpoint")

    def _finish(self, runner: Any) -> None:
        """The last snapshot must be on disk; that it is not is an error."""
        if is_main_process():
            self.writer.wait()


class FaultHook(Hook):
    """Counts skipped steps and broken pictures, writes down what they were, stops past a bound.

    Args:
        folder: gets `faults_rank<r>.jsonl`: step, what, ids of the batch.
        interval: steps between two looks, which wait for the device.
        max_skipped: steps that may be skipped in all.
        max_streak: steps that may be skipped one after the other.
        max_broken: pictures that may be broken.
    """

    def __init__(
        self, folder: Path, interval: int, max_skipped: int, max_streak: int, max_broken: int
    ) -> None:
        self.file = folder / f"faults_rank{get_rank()}.jsonl"
        self.interval = interval
        self.max_skipped, self.max_streak, self.max_broken = max_skipped, max_streak, max_broken
        self.batches: list[dict[str, Any]] = []
        self.broken: set[str] = set()

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        batch = data_batch or {}
        names = ("ref_id", "sent_id", "image_id", "ids")  # 'ids' name captions
        ids = {name: batch[name] for name in names if name in batch}
        self.batches.append({"step": runner.iter + 1, "epoch": runner.epoch, **ids})
        for name in batch.get("broken", ()):
            self._count_broken(runner, name)
        last = batch_idx + 1 == len(runner.train_dataloader)
        if last or self.every_n_train_iters(runner, self.interval):
            self._look(runner)

    def _look(self, runner: Any) -> None:
        wrapper = runner.optim_wrapper
        flags = wrapper.take_flags()
        per_step = max(1, len(self.batches) // max(1, len(flags)))
        for number, skipped in enumerate(flags):
            if skipped:
                members = self.batches[number * per_step : (number + 1) * per_step]
                runner.logger.warning(
                    f"step {members[-1]['step'] if members else '?'} was skipped: its gradient is "
                    f"not finite; its batch is written to {self.file}"
                )
                self._write({"what": "gradient not finite", "batch": members})
        self.batches.clear()
        if not any(flags):
            return
        counts = wrapper.faults()
        if counts["skipped"] > self.max_skipped or counts["streak"] > self.max_streak:
            raise TrainingError(
                f"{counts['skipped']} steps were skipped because their gradient was not finite, "
                f"{counts['streak']} of them in a row just now (bounds {self.max_skipped} and "
                f"{self.max_streak}); their batches are in {self.file}; lower the learning rate, "
                "set optim.clip, or use --precision fp32"
            )

    def _count_broken(self, runner: Any, name: str) -> None:
        if name in self.broken:
            return
        self.broken.add(name)
        runner.logger.warning(f"broken picture left out ({len(self.broken)}): {name}")
        self._write({"what": "broken picture", "picture": name})
        if len(self.broken) > self.max_broken:
            raise TrainingError(
                f"{len(self.broken)} broken pictures, more than data.max_broken = "
                f"{self.max_broken}; they are listed in {self.file}; download them again"
            )

    def _write(self, record: dict[str, Any]) -> None:
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": round(time.time()), **record}) + "\n")


class WatchHook(Hook):
    """Tells the watchdog what the run does."""

    priority = "VERY_HIGH"

    def __init__(self, dog: Watchdog) -> None:
        self.dog = dog

    def before_train(self, runner: Any) -> None:
        self.dog.start()

    def before_train_epoch(self, runner: Any) -> None:
        self.dog.beat(f"loading the first batch of epoch {runner.epoch + 1}")

    def before_train_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.dog.beat(f"step {runner.iter + 1} (forward, backward, exchange of gradients)")

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.dog.beat(f"loading the batch after step {runner.iter + 1}")

    def before_val_iter(self, runner: Any, batch_idx: int, data_batch: Any = None) -> None:
        self.dog.beat(f"validation batch {batch_idx}")

    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        self.dog.beat(f"after validation batch {batch_idx}")

    def after_train(self, runner: Any) -> None:
        self.dog.stop()
