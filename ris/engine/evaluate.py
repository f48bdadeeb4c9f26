"""Scoring a checkpoint on a split. One function for every task."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config, ConfigDict
from mmengine.dist import is_main_process
from mmengine.evaluator import Evaluator

from refer.files import write_json
from ris import checkpoints
from ris.engine import launch, optim
from ris.engine.data import workers_end
from ris.engine.runner import (
    describe_files,
    device_kind,
    make_runner,
    name_trades,
    of_checkpoint,
    result_of,
)
from ris.engine.tasks import TASKS, task_of
from ris.errors import OptionError


def evaluate(
    config: Config,
    checkpoint: str,
    work_dir: Path,
    *,
    split: str,
    device: str = "auto",
    keep_masks: bool = False,
    precision: str = "fp32",
    fast_convolutions: bool = True,
    load_options: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Score a checkpoint on a split; writes metrics.json and records_<split>.jsonl.

    precision: `fp32`, or `bf16` for the pictures, the UNet and the head.
    fast_convolutions: see `VPDRefer.fast_convolutions`; no effect on CUDA.
    load_options: what `ris.checkpoints.load` takes beside the token length.
    """
    started = time.time()
    launcher = launch.setup(device, config.survival.collective_timeout)
    task = task_of(config)
    model = checkpoints.load(
        checkpoint, token_length=config.data.token_length, **(load_options or {})
    )
    if type(model) is not task.system:
        fitting = [name for name, row in TASKS.items() if type(model) is row.system]
        raise OptionError(
            f"{checkpoint} holds a {type(model).__name__}, for task {' or '.join(fitting)}, not "
            f"{config.task}; pass --task {fitting[0]}"
        )
    config.model.head = ConfigDict(model.head_config)  # what it answers, it says itself
    settings = config.to_dict()
    refer = task.open(settings["data"])
    model.sentence_batch = config.model.sentence_batch
    model.lower_precision(optim.precision(precision) or torch.float32)
    if fast_convolutions:
        model.fast_convolutions()
    loader = task.val(refer, split, settings, device_kind(device))
    scores: dict[str, Any] = {}

    def keep(result: dict[str, Any], seconds: float) -> None:
        scores.update(result, seconds=seconds)

    metric = task.metric(config, loader, work_dir, keep, keep_masks)
    metric.header = of_checkpoint(metric.header, checkpoint)
    name_trades(metric, model)
    runner = make_runner(
        config,
        work_dir,
        launcher,
        model,
        test_dataloader=loader,
        test_evaluator=Evaluator(metric),
        test_cfg={},
    )
    describe_files(runner, refer)
    with workers_end(loader):
        runner.test()
    result = of_checkpoint(result_of(config, model, scores, loader, started), checkpoint)
    result |= {"checkpoint": str(checkpoint), "precision": precision}
    result |= {"fast_convolutions": fast_convolutions}
    if is_main_process():
        write_json(work_dir / "metrics.json", result, default=str)
    return result
