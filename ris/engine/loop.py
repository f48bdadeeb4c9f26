"""The training loop: mmengine's, taught to begin an epoch in its middle."""

from __future__ import annotations

from mmengine.registry import LOOPS
from mmengine.runner import EpochBasedTrainLoop

from ris.engine.hooks import plain_model
from ris.engine.sampler import EpochBatches


@LOOPS.register_module()
class ResumableEpochLoop(EpochBasedTrainLoop):
    """Epochs over a loader whose `batch_sampler` is an `EpochBatches`."""

    @property
    def batches(self) -> EpochBatches:
        batches = self.dataloader.batch_sampler
        assert isinstance(batches, EpochBatches)
        return batches

    @property
    def place(self) -> dict[str, int]:
        """Epoch, and how many samples of it are used up, counted over all processes."""
        done = self._iter - self._epoch * len(self.batches)
        return {"epoch": self._epoch, "consumed": done * self.batches.total_batch}

    def go_to(self, step: int, place: dict[str, int]) -> None:
        """Continue behind `step`, at a place in the data that an earlier run reached."""
        self._iter, self._epoch = step, place["epoch"]
        self.batches.consumed = place["consumed"]

    def run_epoch(self) -> None:
        self.batches.set_epoch(self._epoch, self.batches.consumed)
        plain_model(self.runner).refresh_caches()
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        for index, batch in enumerate(self.dataloader, start=self.batches.first_batch):
            self.run_iter(index, batch)
        self.batches.consumed = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
