"""The table of tasks: what differs between them is a row here, and one loop runs them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from mmengine.config import Config
from torch.utils.data import DataLoader

from refer import REFER
from refer.catalog import DATASETS, find_dataset, parts_of
from refer.datasets import PhraseDataset, PictureDataset
from refer.evaluation import (
    PROTOCOLS,
    GroundingProtocol,
    ResProtocol,
    find_grounding_protocol,
)
from refer.evaluation.grec import GrecProtocol
from refer.evaluation.gres import GresProtocol, NoTargetRule
from ris.engine import data, phrase_data
from ris.engine.gres_metric import GresMetric
from ris.engine.ground_metric import GroundMetric
from ris.engine.merging import MergingMetric
from ris.engine.metric import ResMetric
from ris.errors import OptionError
from ris.general import GeneralRefer
from ris.grounding import GroundRefer
from ris.models import VPDRefer

Keep = Callable[[dict[str, Any], float], None]


@dataclass(frozen=True)
class Task:
    """A task.

    open, train, val: from settings to data: (data settings) -> what is kept open; (that, settings,
        device kind) -> training loader; (that, split, settings, device kind) -> evaluation loader.
    system: the model's class.
    metric: (config, loader, work folder, what to call with the scores, keep masks) -> metric.
    protocol: describes in words how it scores.
    best: the score whose best weights are kept; or from the config to it.
    scores: beginnings of the names of the scores that metrics.json holds.
    """

    system: type[VPDRefer]
    metric: Callable[[Config, DataLoader[Any], Path, Keep, bool], MergingMetric]
    protocol: Callable[[Config], dict[str, Any]]
    best: Callable[[Config], str] | str
    scores: tuple[str, ...]
    open: Callable[[dict[str, Any]], list[REFER]] = data.open_refer
    train: Callable[[Any, dict[str, Any], str], DataLoader[Any]] = data.train_loader
    val: Callable[[Any, str, dict[str, Any], str], DataLoader[Any]] = data.picture_loader


def task_of(config: Config) -> Task:
    """The row of a config's task. Raises OptionError for one that its data set does not have."""
    try:
        task = TASKS[config.task]
    except KeyError:
        raise OptionError(f"task {config.task!r} is unknown; choose {', '.join(TASKS)}") from None
    grounding = config.task in _GROUNDING
    parts = parts_of(config.data.dataset)
    for name in parts if grounding else parts[:1]:
        fitting = DATASETS[name].tasks
        # An expression is a caption that is one phrase, so the two take one another's sets.
        fits = not set(fitting).isdisjoint(_GROUNDING) if grounding else config.task in fitting
        if not fits:
            raise OptionError(f"{name} is for task {' or '.join(fitting)}, not {config.task}")
    return task


def best_score(config: Config) -> str:
    """The score whose best weights are kept."""
    best = task_of(config).best
    return best if isinstance(best, str) else best(config)


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


def _header(config: Config, scored: PictureDataset | PhraseDataset) -> dict[str, Any]:
    """What records and tables say of the run."""
    return {
        **identity(config),
        "split": scored.split,
        "data_hash": scored.data_hash,
        "image_size": config.data.image_size,
    }


def _res_metric(
    config: Config, loader: DataLoader[Any], work_dir: Path, keep: Keep, keep_masks: bool
) -> ResMetric:
    pictures = data.pictures_of(loader)
    return ResMetric(
        res_protocol(config),
        _header(config, pictures),
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
    drawn = config.data.overlap, data.drawn_at(config)
    return GresProtocol(cast(NoTargetRule, rule), config.gres.pixels, "input", *drawn)


def _gres_metric(
    config: Config, loader: DataLoader[Any], work_dir: Path, keep: Keep, keep_masks: bool
) -> GresMetric:
    if keep_masks:
        raise OptionError("--keep-masks is for task res; GRES result files hold counts only")
    boxes = GrecProtocol(match=config.gres.match) if config.task == "grec" else None
    pictures = data.pictures_of(loader)
    return GresMetric(
        gres_protocol(config),
        pictures.dataset,
        work_dir,
        pictures.split,
        boxes,
        keep,
        _header(config, pictures),
    )


def _gres_described(config: Config) -> dict[str, Any]:
    size = config.data.image_size
    found = {"GRES": gres_protocol(config).describe(), "resolution": size}
    if config.task == "grec":
        found["GREC"] = f"boxes of the mask's connected parts, matched by {config.gres.match}"
    return found


def grounding_protocol(config: Config) -> GroundingProtocol:
    """How boxes are scored under these settings."""
    return find_grounding_protocol(config.grounding.protocol)


def _with_boxes(config: Config) -> bool:
    return bool(config.model.head.get("answers", "boxes") != "masks")


def _ground_metric(
    config: Config, loader: DataLoader[Any], work_dir: Path, keep: Keep, keep_masks: bool
) -> GroundMetric:
    phrases = phrase_data.phrases_of(loader)
    return GroundMetric(
        grounding_protocol(config),
        _ground_masks(config),
        _header(config, phrases),
        phrases.keys,
        work_dir,
        keep_masks=keep_masks,
        clamp=config.grounding.clamp,
        on_scores=keep,
    )


def _ground_masks(config: Config) -> ResProtocol | None:
    """The protocol of the masks; None where there are none."""
    if config.model.head.get("answers", "boxes") == "boxes":
        return None
    return replace(res_protocol(config), prediction="sigmoid(0.5)")


def _ground_described(config: Config) -> dict[str, Any]:
    own = grounding_protocol(config)
    found: dict[str, Any] = {"boxes": {**own.describe(), "clamp": config.grounding.clamp}}
    if not _with_boxes(config):
        found["boxes"]["of"] = "the mask's tight box"
    masks = _ground_masks(config)
    return found if masks is None else {**found, "masks": masks.describe()}


def identity(config: Config) -> dict[str, Any]:
    """What run, record and checkpoint say of themselves: 'dataset' and 'split_by' are what is
    scored (see `scored_on`), 'trained_on' is there when that is another set or a mixture."""
    dataset, split_by = scored_on(config)
    trained_on = config.data.dataset
    return {
        "task": config.task,
        "dataset": dataset,
        "split_by": split_by,
        **({} if trained_on == dataset else {"trained_on": trained_on}),
        "token_length": config.data.token_length,
        "model_id": config.model_id or trained_on,
    }


def scored_on(config: Config) -> tuple[str, str | None]:
    """The data set that a run is scored on and its splitBy, None where there is none.

    Of a mixture that is its first part; tasks rec and phrase score `data.val_dataset`, or every
    part of their mixture, each in its own splitBy; files of `data.phrases` have none.
    """
    name = config.data.dataset
    if config.task in _GROUNDING:
        name = config.data.get("val_dataset") or name
        if len(parts_of(name)) > 1:
            return name, None
        if phrase_data.files_of(config.data, name):
            return name, None  # the files do not say
    else:
        name = parts_of(name)[0]
    split_by = data.split_by_of(config.data, name)
    return name, split_by or find_dataset(name).default_split_by or None


_GRES = Task(
    GeneralRefer,
    _gres_metric,
    _gres_described,
    "gIoU",
    ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@", "GREC_"),
)
_GROUND = Task(
    GroundRefer,
    _ground_metric,
    _ground_described,
    # As published, the boxes decide, also where there are masks.
    lambda config: "Acc@0.5" if _with_boxes(config) else "oIoU",
    ("Acc@", "box_mIoU", "oIoU", "mIoU", "P@"),
    phrase_data.open_phrases,
    phrase_data.train_phrases,
    phrase_data.val_phrases,
)
_GROUNDING = ("rec", "phrase")
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
    "rec": _GROUND,
    "phrase": _GROUND,
}
