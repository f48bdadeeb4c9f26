"""Hooks: losses logged without a wait per step, epochs told to data sets, the best weights kept,
overlay pictures drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_reduce, broadcast_object_list, is_main_process, master_only
from mmengine.hooks import Hook, RuntimeInfoHook
from mmengine.model import is_model_wrapper
from torch import Tensor

from refer.boxes import to_pixels
from ris import cards, checkpoints
from ris.engine.shard import whole
from ris.grounding import GroundAnswer
from ris.models import VPDRefer
from ris.visual import overlay


def plain_model(runner: Any) -> VPDRefer:
    """The runner's model without its DDP wrapper."""
    return runner.model.module if is_model_wrapper(runner.model) else runner.model


class LazyRuntimeInfoHook(RuntimeInfoHook):
    """Reads losses from the device once per `interval` steps: a read waits for the device.

    Losses that are not finite stay out of the averages; `FaultHook` deals with them.
    """

    def __init__(self, interval: int) -> None:
        super().__init__()
        self.interval = interval
        self._pending: list[dict[str, Tensor]] = []

    def after_train_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        if outputs:
            # Detached: a kept graph would keep its activations.
            self._pending.append({name: value.detach() for name, value in outputs.items()})
        last = batch_idx + 1 == len(runner.train_dataloader)
        if last or self.every_n_train_iters(runner, self.interval):
            self._flush(runner)

    def _flush(self, runner: Any) -> None:
        for name in self._pending[0] if self._pending else ():
            values = torch.stack([step[name] for step in self._pending])
            all_reduce(values, "mean")  # what is logged is the mean over the processes
            for value in values.tolist():
                if np.isfinite(value):
                    runner.message_hub.update_scalar(f"train/{name}", value)
        self._pending.clear()


class EpochHook(Hook):
    """Tells the data set which epoch it is, so that its random sentences are reproducible."""

    def before_train_epoch(self, runner: Any) -> None:
        runner.train_dataloader.dataset.set_epoch(runner.epoch)


class BestWeightsHook(Hook):
    """Saves the weights whose validation score `key` is the best so far, as published.

    A resumed run goes on from the best score so far, which the published code forgets. All runs of
    a data set share a folder unless told otherwise: another run's weights there are no score to
    beat, and the log says that they will be replaced.
    """

    priority = "LOW"

    def __init__(self, folder: Path, card: dict[str, Any], key: str = "oIoU") -> None:
        self.folder, self.card, self.key = folder, card, key

    def before_train(self, runner: Any) -> None:
        """The resume checkpoint is written before its epoch is validated, so the folder of the best
        weights may know a better score."""
        # By the first process alone: each may have a disk of its own, and all must agree on what is
        # a new best, which they gather together where weights are sharded.
        said: list[Any] = [None]
        if is_main_process() and (self.folder / "config.json").is_file():
            said = [cards.read_config(self.folder)["info"]]
        broadcast_object_list(said)
        info = said[0]
        if info is None:
            return
        saved = info.get(f"val_{self.key}")
        if info.get("run") != runner.run_id or not runner.iter:
            runner.logger.warning(
                f"{self.folder} holds weights of another run ({self.key} {saved}); this run's "
                "first validation replaces them; --output-dir or --model_id name another place"
            )
            return
        best = runner.message_hub.runtime_info.get("best_score")
        if saved is not None and (best is None or saved > best):
            runner.message_hub.update_info("best_score", saved)

    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        score = (metrics or {})[self.key]
        best = runner.message_hub.runtime_info.get("best_score")
        if best is not None and score <= best:
            return
        runner.message_hub.update_info("best_score", float(score))
        # Sharded weights are gathered by all processes together.
        state = {name: whole(value) for name, value in plain_model(runner).state_dict().items()}
        self._save(runner, float(score), state)

    @master_only
    def _save(self, runner: Any, score: float, state: dict[str, Tensor]) -> None:
        card = {**self.card, "run": runner.run_id, "epoch": runner.epoch, f"val_{self.key}": score}
        checkpoints.save(plain_model(runner), self.folder, state, **card)
        runner.logger.info(f"best {self.key} so far, {score:.2f}: weights saved to {self.folder}")


class OverlayHook(Hook):
    """Each validation, a few pictures: expression, truth (outlined) and prediction (filled)."""

    def __init__(self, folder: Path, pictures: int = 4) -> None:
        self.folder, self.pictures = folder, pictures
        self._drawn = 0

    def before_val_epoch(self, runner: Any) -> None:
        self._drawn = 0

    @master_only
    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        batch = data_batch or {}
        asked = batch["text"] if "text" in batch else phrases_of(batch)
        picture_of = batch["picture_index"]
        if "text" not in batch:
            picture_of = picture_of[batch["caption_of_phrase"]]
        for index in range(len(asked)):
            if self._drawn >= self.pictures:
                return
            if index and picture_of[index] == picture_of[index - 1]:
                continue  # one expression of each picture is enough
            picture = batch["image"][picture_of[index]].permute(1, 2, 0).cpu().numpy()
            drawn = overlay(picture, labels=[asked[index]], **_answer(batch, outputs[index], index))
            name = f"val_{self._drawn}"
            self.folder.mkdir(parents=True, exist_ok=True)
            drawn.save(self.folder / f"epoch{runner.epoch:03d}_{name}.png")
            runner.visualizer.add_image(name, np.asarray(drawn), step=runner.iter)
            self._drawn += 1


def phrases_of(batch: dict[str, Any]) -> list[str]:
    """The words of the phrases of a batch of `collate_phrases`."""
    return [
        batch["captions"][caption][start:end]
        for caption, (start, end) in zip(
            batch["caption_of_phrase"].tolist(), batch["spans"].tolist(), strict=True
        )
    ]


def _answer(batch: dict[str, Any], found: Any, index: int) -> dict[str, Any]:
    """What `overlay` draws of one answer and its truth."""
    if isinstance(found, GroundAnswer):
        height, width = batch["image"].shape[-2:]

        def pixels(box: Tensor) -> np.ndarray:
            return to_pixels(box.float().cpu(), height, width).numpy()

        drawn: dict[str, Any] = {"masks": [None], "truth_boxes": [pixels(batch["boxes"][index])]}
        if found.box is not None:
            drawn["boxes"] = [pixels(found.box)]
        if found.probability is not None:
            drawn["masks"] = [(found.probability > 0.5).cpu().numpy()]
            drawn["truths"] = [batch["masks"][index].cpu().numpy()]
        return drawn
    truth = batch["masks"][batch["ref_of_text"][index]].cpu().numpy()
    mask = found if isinstance(found, Tensor) else found.probability > 0.5
    return {"masks": [mask.cpu().numpy()], "truths": [truth]}
