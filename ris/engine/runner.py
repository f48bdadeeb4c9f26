"""What training and testing share: the Runner, the content of metrics.json, what a log says."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import get_world_size
from mmengine.model import is_model_wrapper
from torch.utils.data import DataLoader

from refer import REFER
from refer.grefer import G_REFER
from ris.cards import read_config
from ris.engine import curves, data, hooks, report, shard
from ris.engine.merging import MergingMetric
from ris.engine.quiet import QuietRunner
from ris.engine.tasks import identity, task_of
from ris.models import VPDRefer


def make_runner(
    config: Config,
    work_dir: Path,
    launcher: str,
    model: VPDRefer | shard.RefFSDP,
    **parts: Any,
) -> QuietRunner:
    interval = config.schedule.print_freq
    if config.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    return QuietRunner(
        model=model,
        work_dir=str(work_dir),
        launcher=launcher,
        default_hooks={
            "runtime_info": hooks.LazyRuntimeInfoHook(interval),
            "logger": {"type": "LoggerHook", "interval": interval, "log_metric_by_epoch": False},
            "checkpoint": None,  # ours: ris.engine.survival
            "sampler_seed": None,  # the loop tells its batches the epoch
        },
        visualizer={
            "type": "Visualizer",
            "name": f"visualizer_{time.monotonic_ns()}",
            "vis_backends": [{"type": curves.ScalarLog}, {"type": "TensorboardVisBackend"}],
        },
        log_processor={"by_epoch": True, "window_size": interval},
        experiment_name=f"{work_dir.name}_{time.monotonic_ns()}",
        randomness={"seed": config.seed, "deterministic": config.deterministic},
        env_cfg={"cudnn_benchmark": not config.deterministic},
        cfg={
            "settings": config.to_dict(),
            **({} if is_model_wrapper(model) else {"model_wrapper_cfg": {"type": "RefDDP"}}),
        },
        **parts,
    )


def name_trades(metric: MergingMetric, model: VPDRefer) -> None:
    """Records and log say what was given up for speed; on the exact path there is nothing."""
    if model.backbone.trade_names:
        metric.header["trades"] = model.backbone.trade_names
        print(f"not the exact path: trades {', '.join(model.backbone.trade_names)}", flush=True)


def of_checkpoint(described: dict[str, Any], checkpoint: str | Path) -> dict[str, Any]:
    """What a test says of itself (`tasks.identity` and more), with 'trained_on' as the checkpoint's
    card has it: the settings of the test need not be those of its training. A released file says
    nothing."""
    found = {name: value for name, value in described.items() if name != "trained_on"}
    card = read_config(checkpoint)["info"] if Path(checkpoint).is_dir() else {}
    # A run that was scored on what it was trained on says it once.
    trained_on = card.get("trained_on") or card.get("dataset")
    if trained_on and trained_on != found["dataset"]:
        found["trained_on"] = trained_on
    return found


def result_of(
    config: Config,
    model: VPDRefer,
    scores: dict[str, Any],
    loader: DataLoader[Any],
    started: float,
) -> dict[str, Any]:
    evaluated, task = data.pictures_of(loader), task_of(config)
    trades = model.backbone.trade_names
    return {
        **identity(config),
        "split": evaluated.split,
        "scores": {name: value for name, value in scores.items() if name.startswith(task.scores)},
        "protocol": {**task.protocol(config), **({"trades": trades} if trades else {})},
        "data_hash": evaluated.data_hash,
        "counts": {
            "pictures": len(evaluated),
            **{name: scores[name] for name in scores if name.startswith("n_")},
        },
        "seconds": {
            "total": round(time.time() - started, 2),
            "evaluation": round(scores.get("seconds", 0.0), 2),
        },
        "peak_memory": report.peak_memory(),
        "world_size": get_world_size(),
        "environment": report.environment(),
        "settings": config.to_dict(),
    }


def describe_files(runner: QuietRunner, refers: list[REFER]) -> None:
    """What is in a generalized ref file, whose releases differ."""
    for refer in refers:
        if isinstance(refer, G_REFER):
            runner.logger.info(f"{refer.refs_path}: sha256 {refer.ref_sha256}")
            for split, counts in refer.counts.items():
                numbers = ", ".join(f"{count} {name}" for name, count in counts.items())
                runner.logger.info(f"  {split}: {numbers}")


def device_kind(device: str) -> str:
    return "cuda" if torch.cuda.is_available() and device != "cpu" else "cpu"
