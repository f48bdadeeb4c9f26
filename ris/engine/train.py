"""Training a system from its settings. One loop for every task."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.dist import barrier, get_rank, get_world_size, is_main_process
from mmengine.evaluator import Evaluator
from mmengine.logging import MMLogger
from torch import nn
from torch.utils.data import DataLoader

from refer.datasets import PictureDataset
from refer.files import write_json
from ris.engine import (
    curves,
    data,
    ema,
    hooks,
    launch,
    optim,
    resume,
    shard,
    survival,
    syncnorm,
)
from ris.engine.data import drawn_at, workers_end
from ris.engine.quiet import QuietRunner, initialise
from ris.engine.runner import describe_files, device_kind, make_runner, name_trades, result_of
from ris.engine.signals import StopRequest
from ris.engine.store import Snapshot, Store
from ris.engine.tasks import TASKS, best_score, identity, task_of
from ris.engine.watch import Watchdog
from ris.errors import CheckpointError, OptionError
from ris.frozen import fingerprint, frozen_names
from ris.models import VPDRefer
from ris.stages import start_from
from vpd import DiffusionBackbone


def train(
    config: Config, work_dir: Path, *, device: str = "auto", resume_from: str | None = None
) -> dict[str, Any]:
    """Train, validate as scheduled, keep the best weights; returns the content of metrics.json."""
    started = time.time()
    launcher = launch.setup(device, config.survival.collective_timeout)
    kind = device_kind(device)
    settings = config.to_dict()
    task = task_of(config)
    refer = task.open(settings["data"])
    torch.manual_seed(config.seed)
    model = build_model(settings)
    initialise(model)  # before `init`, over whose weights the Runner would draw them
    begun = start_from(model, config.init) if config.get("init") else None
    lowered = _lower_frozen(model, config) if config.optim.lower_frozen else 0
    if get_world_size() > 1:
        # Here and not by the Runner, which leaves sharded models out.
        syncnorm.convert(model) if kind == "cpu" else nn.SyncBatchNorm.convert_sync_batchnorm(model)
    # Before the optimizer is built: buffers are other tensors behind the move.
    model.to(get_device())
    wrapped: VPDRefer | shard.RefFSDP = model
    if config.survival.shard:
        if model.backbone.features.checkpointing == "light":
            raise OptionError(
                "survival.shard gathers whole blocks, which checkpointing=light takes apart; use "
                "model.backbone.checkpointing=True, or leave one of them out"
            )
        if model.park_encoders:
            raise OptionError(
                "survival.shard already shares the encoders' weights out over the processes; leave "
                "model.park_encoders out"
            )
        if config.model.backbone.channels_last:
            raise OptionError(
                "survival.shard cuts weights that lie in rows, and model.backbone.channels_last "
                "lays them otherwise; leave one of them out"
            )
        if get_world_size() == 1:
            raise OptionError("survival.shard needs several processes; this is one")
        wrapped = shard.RefFSDP(model)
    train_data = task.train(refer, settings, kind)
    val_data = task.val(refer, config.data.val_split, settings, kind)
    schedule = config.schedule
    best = best_folder(config)
    card = {"image_size": config.data.image_size, **identity(config)}
    scores: dict[str, Any] = {}

    def keep(result: dict[str, Any], seconds: float) -> None:
        scores.clear()
        scores.update(result, seconds=seconds)

    metric = task.metric(config, val_data, work_dir, keep, False)
    name_trades(metric, model)
    store, stop = (
        Store(work_dir / "resume", config.survival.keep_last),
        StopRequest(config.survival.collective_timeout),
    )
    steps = schedule.epochs * len(train_data)
    wanted = optim.of_mode(settings["optim"], config.model.backbone.unet_mode)
    rates = optim.at_batch(wanted, _total_batch(config))
    runner = make_runner(
        config,
        work_dir,
        launcher,
        wrapped,
        train_dataloader=train_data,
        val_dataloader=val_data,
        val_evaluator=Evaluator(metric),
        train_cfg={
            "type": "ResumableEpochLoop",
            "max_epochs": schedule.epochs,
            "val_interval": schedule.val_interval,
        },
        val_cfg={},
        optim_wrapper=optim.build_optimizer(model, rates, kind),
        param_scheduler=optim.schedule(
            settings["optim"], steps, min(config.optim.warmup, steps // 2), len(train_data)
        ),
        custom_hooks=[
            hooks.EpochHook(),
            hooks.BestWeightsHook(best, card, best_score(config)),
            hooks.OverlayHook(work_dir / "overlays"),
            *_survival_hooks(config, store, stop, work_dir),
            *_average_hooks(config.optim.ema),
        ],
        resume_state=lambda: _snapshot(resume_from, store, config),
    )
    _describe(runner, config, model, train_data, val_data)
    if is_main_process() and isinstance(val_data.dataset, PictureDataset):
        val_data.dataset.check()  # now, and not behind an epoch of training
    if parked := _park(model):  # behind the Runner's own move to the device
        runner.logger.info(
            f"VAE and text encoder wait in {config.model.cache_dir} while it has what they would "
            f"give: {parked / 2**30:.2f} GiB less in such steps"
        )
    if begun is not None:
        runner.logger.info(f"weights of {config.init}: {begun}")
    describe_files(runner, refer)
    with workers_end(train_data, val_data):
        with stop.listening():
            runner.train()
        if not metric.evaluated:  # resumed behind its last epoch: nothing was left to train
            runner.val_loop.run()
    result = {
        **result_of(config, model, scores, val_data, started),
        f"best_val_{best_score(config)}": runner.message_hub.runtime_info.get("best_score"),
        "best_weights": str(best),
        "epochs": schedule.epochs,
        "optimizer_steps": steps // config.optim.accumulate,
        "train_refs": len(data.refs_of(train_data)),
        "train_data_hash": data.refs_of(train_data).data_hash,
        "total_batch": _total_batch(config),
        "learning_rate": rates["lr"],
        "muon_rate": rates.get("muon"),
        "precision": config.optim.precision if lowered else "fp32",  # of the scores
    }
    if is_main_process():
        write_json(work_dir / "metrics.json", result, default=str)
        curves.draw(work_dir)
    return result


def _snapshot(resume_from: str | None, store: Store, config: Config) -> Snapshot | None:
    """Where the run goes on from; states of other runs no longer stand in its way then.

    Raises CheckpointError for a state that was trained on outlines drawn elsewhere.
    """
    found = resume.agreed(resume_from, store, launch.restarts(), logger())
    # Before it was an entry all outlines were drawn so.
    was = None if found is None else found.values.get("drawn_at", "original")
    if was is not None and was != drawn_at(config):
        raise CheckpointError(
            f"the state to resume from was trained on outlines drawn at {was} size, and this run "
            f"draws them at {drawn_at(config)} size; pass --set gres.drawn_at={was}, or begin anew"
        )
    if is_main_process():
        store.retire(found, logger())
    return found


def build_model(settings: dict[str, Any]) -> VPDRefer:
    """The untrained system of the settings: backbone from its source, fresh head and adapter."""
    model = dict(settings["model"])
    backbone = dict(model.pop("backbone"))
    if backbone.get("trades", {}).get("int8"):
        raise OptionError("trade int8 passes no gradient on: train without it, test with it")
    name, source = backbone.pop("name"), backbone.pop("source")
    built = DiffusionBackbone.from_name(
        name,
        source,
        seed=settings["seed"],
        token_length=settings["data"]["token_length"],
        **backbone,
    )
    if built.text_encoder is None:
        raise OptionError(
            f"{built.source} holds no CLIP text encoder, so nothing can be trained on it; give "
            "--weights a diffusers folder, a Hub id, or a whole Stable Diffusion checkpoint"
        )
    return TASKS[settings["task"]].system(built, **model)


def _park(model: VPDRefer) -> int:
    """`VPDRefer.park`, where one process of each machine writes the file before the others look."""
    first = os.environ.get("LOCAL_RANK", "0") == "0"
    parked = model.park() if first else 0
    barrier()
    return parked if first else model.park()


def _lower_frozen(model: VPDRefer, config: Config) -> int:
    """Keep what of the UNet does not train at autocast's precision; returns the bytes saved."""
    dtype, mode = optim.precision(config.optim.precision), model.backbone.unet_mode
    if dtype is None or mode == "finetune" or config.survival.shard:
        raise OptionError(
            "optim.lower_frozen keeps frozen weights of the UNet at the precision of autocast: it "
            "wants --precision bf16 (given: "
            f"{config.optim.precision}), --unet_mode frozen or lora (given: {mode}), and "
            f"survival.shard=False (given: {config.survival.shard})"
        )
    if model.tuned:
        raise OptionError(
            "optim.lower_frozen would round what the earlier stage has trained, which is saved "
            "with this run's own weights; leave it out"
        )
    state = model.state_dict()
    names = frozen_names(model)
    return model.lower_frozen(dtype, fingerprint({name: state[name] for name in names}))


def _survival_hooks(
    config: Config, store: Store, stop: StopRequest, work_dir: Path
) -> list[survival.Hook]:
    """What saves, stops, counts faults and watches."""
    wanted = config.survival
    log = logger()
    return [
        survival.StateHook(store, stop, wanted.save_every),
        survival.FaultHook(
            work_dir / "faults",
            config.schedule.print_freq,
            wanted.max_skipped,
            wanted.max_streak,
            config.data.max_broken,
        ),
        survival.WatchHook(Watchdog(wanted.stall_timeout, get_rank(), log)),
    ]


def _average_hooks(decay: float | None) -> list[survival.Hook]:
    if decay is None:
        return []
    average = ema.EMAHook(decay)
    return [average, ema.EMAReturnHook(average)]


def logger() -> logging.Logger:
    """The run's logger, which mmengine sets up with the Runner."""
    return MMLogger.get_current_instance()


def best_folder(config: Config) -> Path:
    """Where the best weights go: <output_dir>/model_best_<model_id>, as published."""
    return Path(config.output_dir) / f"model_best_{config.model_id or config.data.dataset}"


def _describe(
    runner: QuietRunner,
    config: Config,
    model: VPDRefer,
    train_data: DataLoader[Any],
    val_data: DataLoader[Any],
) -> None:
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    other = identity(config)["dataset"]
    scored = "" if other == config.data.dataset else f" of {other}"
    runner.logger.info(
        f"{config.data.dataset}: {len(data.refs_of(train_data))} refs to train on, "
        f"{len(data.pictures_of(val_data))} pictures{scored} to validate on; "
        f"backbone {model.backbone.source}, unet_mode {model.backbone.unet_mode}; "
        f"{trained / 1e6:.2f} of {total / 1e6:.2f} million parameters are trained"
    )
    rates = optim.at_batch(config.optim, _total_batch(config))
    per_gpu, ranks, accumulate = (
        config.schedule.batch_size,
        get_world_size(),
        config.optim.accumulate,
    )
    runner.logger.info(
        f"batch {per_gpu} a process x {ranks} processes x {accumulate} accumulated = "
        f"{_total_batch(config)} in total; learning rate {rates['lr']:g}"
        + (
            f" ({config.optim.lr:g} for a total batch of {config.optim.lr_batch})"
            if config.optim.lr_batch
            else ""
        )
        + (f"; Muon's {rates['muon']:g}" if rates.get("muon") else "")
    )


def _total_batch(config: Config) -> int:
    return int(config.schedule.batch_size * get_world_size() * config.optim.accumulate)
