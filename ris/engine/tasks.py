"""The table of tasks: what differs between them is a row here, and one loop runs them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from torch.utils.data import DataLoader

from refer.catalog import DATASETS, parts_of
from refer.evaluation import PROTOCOLS, ResProtocol
from refer.evaluation.grec import GrecProtocol
from refer.evaluation.gres import GresProtocol, NoTargetRule
from ris.engine import data
from ris.engine.gres_metric import GresMetric
from ris.engine.metric import ResMetric
from ris.errors import OptionError
from ris.general import GeneralRefer
from ris.models import VPDRefer

Keep = Callable[[dict[str, Any], float], None]


@dataclass(frozen=True)
class Task:
    """A task.

    system: the model's class.
    metric: (config, loader, work folder, what to call with the scores, keep masks) -> metric.
    protocol: describes in words how it scores.
    best: the score whose best weights are kept.
    scores: beginnings of the names of the scores that metrics.json holds.
    """

    system: type[VPDRefer]
    metric: Callable[[Config, DataLoader[Any], Path, Keep, bool], BaseMetric]
    protocol: Callable[[Config], dict[str, Any]]
    best: str
    scores: tuple[str, ...]


def task_of(config: Config) -> Task:
    """The row of a config's task. Raises OptionError for one that its data set does not have."""
    try:
        task = TASKS[config.task]
    except KeyError:
        raise OptionError(f"task {config.task!r} is unknown; choose {', '.join(TASKS)}") from None
    general = DATASETS[parts_of(config.data.dataset)[0]].general
    if general != (config.task != "res"):
        fitting = "gres or grec" if general else "res"
        raise OptionError(f"{config.data.dataset} is for task {fitting}, not {config.task}")
    return task


def res_protocol(config: Config) -> ResProtocol:
    """How masks of one target are scored under these settings."""
    size = config.data.image_size
    height, width = size if isinstance(size, (list, tuple)) else (size, size)
    return replace(
        PROTOCOLS[config.protocol],
        resolution=f"{height}x{width}",
        sentence_mode=config.data.eval_sentences,
        overlap=config.data.overlap,
        prediction="argmax",
    )


def _res_metric(
    config: Config, loader: DataLoader[Any], work_dir: Path, keep: Keep, keep_masks: bool
) -> ResMetric:
    pictures = data.pictures_of(loader)
    header = {
        **identity(config),
        "split": pictures.split,
        "data_hash": pictures.data_hash,
        "image_size": config.data.image_size,
    }
    return ResMetric(
        res_protocol(config),
        header,
        records=work_dir / f"records_{pictures.split}.jsonl",
        keep_masks=keep_masks,
        on_scores=keep,
    )


def gres_protocol(config: Config) -> GresProtocol:
    """Who says "nothing here": the model's head where it has one, else the rule on pixels."""
    head = config.model.head
    own = head.get("regions", True) and head.get("no_target", True)
    rule = config.gres.no_target or ("head" if own else "pixels")
    if rule == "head" and not own:
        raise OptionError("gres.no_target = 'head', but the model has no no-target head")
    return GresProtocol(cast(NoTargetRule, rule), config.gres.pixels, "input")


def _gres_metric(
    config: Config, loader: DataLoader[Any], work_dir: Path, keep: Keep, keep_masks: bool
) -> GresMetric:
    if keep_masks:
        raise OptionError("--keep-masks is for task res; GRES result files hold counts only")
    boxes = GrecProtocol(match=config.gres.match) if config.task == "grec" else None
    pictures = data.pictures_of(loader)
    return GresMetric(
        gres_protocol(config), pictures.dataset, work_dir, pictures.split, boxes, keep
    )


def _gres_described(config: Config) -> dict[str, Any]:
    size = config.data.image_size
    found = {"GRES": gres_protocol(config).describe(), "resolution": size}
    if config.task == "grec":
        found["GREC"] = f"boxes of the mask's connected parts, matched by {config.gres.match}"
    return found


def identity(config: Config) -> dict[str, Any]:
    """What run, record and checkpoint say of themselves."""
    return {
        "task": config.task,
        "dataset": config.data.dataset,
        "split_by": config.data.split_by,
        "token_length": config.data.token_length,
        "model_id": config.model_id or config.data.dataset,
    }


_GRES = Task(
    GeneralRefer,
    _gres_metric,
    _gres_described,
    "gIoU",
    ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@", "GREC_"),
)
TASKS = {
    "res": Task(
        VPDRefer,
        _res_metric,
        lambda config: res_protocol(config).describe(),
        "oIoU",
        ("P@", "oIoU", "mIoU"),
    ),
    "gres": _GRES,
    "grec": _GRES,
}
