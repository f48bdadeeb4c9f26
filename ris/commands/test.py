"""Score a checkpoint: the released .pth, or a folder written by training, here or on the Hub."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ris.commands import loading, options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_choice_of_config(parser)
    parser.add_argument("--resume", "--checkpoint", dest="checkpoint", required=True,
                        help="released .pth, folder with model.safetensors, or Hub id of "
                        "one")  # fmt: skip
    parser.add_argument("--split", default="val", help="val, testA, testB, test, ...")
    parser.add_argument("--logdir", help="where metrics.json and the records go "
                        "(default: work_dirs/test/<its folder>_<checkpoint>_<dataset>_<split>, "
                        "and splitBy, task, size, bf16, trades where they are given)")  # fmt: skip
    loading.add_released(parser)
    parser.add_argument("--keep-masks", action="store_true",
                        help="keep predicted masks in the records, to rescore them")  # fmt: skip
    parser.add_argument("--report", action="store_true", help="also write report_<split>.html: "
                        "table, plots, best and worst in one page (keeps masks)")  # fmt: skip
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"),
                        help="bf16 is faster where the processor has it; a few pixels in a "
                        "thousand change")  # fmt: skip
    parser.add_argument("--fast-convolutions", action=argparse.BooleanOptionalAction, default=True,
                        help="on a CPU: fewer multiplications, equal within float32 rounding, 2.2 "
                        "GiB more memory at Stable Diffusion's size")  # fmt: skip
    names = [
        "--token_length", "--splitBy", "--refer_data_root", "--image_root", "--img_size",
        "--overlap", "--workers", "--weights", "--attention", "--sentence_batch", "--model_id",
        "--seed", "--grounding_protocol",
    ]  # fmt: skip
    options.add(parser, *names)


def run(arguments: argparse.Namespace) -> None:
    config = options.load_config(arguments)
    from ris.engine.evaluate import evaluate
    from ris.errors import OptionError
    from ris.hub import fetch, is_hub_id
    from vpd import trades

    if arguments.report and config.task != "res":
        raise OptionError(
            f"--report is for task res, not {config.task}: its result files hold counts only"
        )
    backbone = config.model.backbone
    # What is of the other kind of weights is refused before anything is fetched.
    extra = loading.chosen(
        arguments, arguments.checkpoint, backbone.source, "--weights (model.backbone.source)"
    )
    checkpoint = Path(arguments.checkpoint)
    if is_hub_id(arguments.checkpoint):
        checkpoint = fetch(arguments.checkpoint)
    asked = options.overrides(arguments)
    work_dir = arguments.logdir or default_logdir(arguments, config, asked)
    # What changes speed is the checkpoint's own, unless it is asked for here.
    if "model.backbone.attention_kernel" in asked:
        extra["attention_kernel"] = backbone.attention_kernel
    for name in ("compiled", "channels_last"):
        if backbone[name] or f"model.backbone.{name}" in asked:
            extra[name] = backbone[name]
    if trades.names(backbone.trades) or any("model.backbone.trades" in entry for entry in asked):
        extra["trades"] = backbone.trades.to_dict()
    if checkpoint.is_dir() and "data.image_size" not in asked:
        _take_size(config, checkpoint, arguments.config)
    result = evaluate(
        config,
        str(checkpoint),
        Path(work_dir),
        split=arguments.split,
        device=arguments.device,
        keep_masks=arguments.keep_masks or arguments.report,
        precision=arguments.precision,
        fast_convolutions=arguments.fast_convolutions,
        load_options=extra,
    )
    print(f"scores and protocol: {work_dir}/metrics.json")
    if arguments.report:
        _report(config, Path(work_dir), arguments.split, result)


def default_logdir(arguments: argparse.Namespace, config: Any, asked: Collection[str]) -> str:
    """work_dirs/test/<parent>_<checkpoint>_<dataset>[_<splitBy>][_<task>][_<size>][_bf16][_<trades>]_<split>:
    one folder for each of a run's weights and for most of what can be asked of them.

    splitBy and task are named where they are given or not the data set's own, a size where it is
    given. Other rules and other text get the same folder. asked: the config's entries that were
    given.
    """
    from refer.catalog import find_dataset, parts_of
    from vpd import trades
    from vpd.weights import FILE_SUFFIXES

    # Runs give their weights the same name. Not resolved: a link has the name it was given.
    path = Path(os.path.abspath(arguments.checkpoint))
    name = path.stem if path.suffix in FILE_SUFFIXES else path.name  # a dot may be of a version
    row = find_dataset(parts_of(config.data.dataset)[0])
    parts = [path.parent.name, name, config.data.dataset]
    split_by = config.data.split_by
    if split_by and ("data.split_by" in asked or split_by != row.default_split_by):
        parts.append(split_by)
    if arguments.task or config.task != row.tasks[0]:
        parts.append(config.task)
    if "data.image_size" in asked:
        size = config.data.image_size
        parts.append(str(size) if isinstance(size, int) else "x".join(map(str, size)))
    if arguments.precision != "fp32":
        parts.append(arguments.precision)
    for trade in trades.names(config.model.backbone.trades):
        parts.append(re.sub(r"[^\w.=]+", "-", trade).strip("-"))
    return f"work_dirs/test/{'_'.join(part for part in [*parts, arguments.split] if part)}"


def _take_size(config: Any, checkpoint: Path, file: str | None) -> None:
    """Score at the size the checkpoint was trained at, unless a config file was given: what that
    says counts, and a difference is said."""
    from ris.cards import read_config
    from ris.sizes import image_size

    trained_at = read_config(checkpoint)["info"].get("image_size")
    if not trained_at or image_size(trained_at) == config.data.image_size:
        return
    if file is None:
        config.data.image_size = image_size(trained_at)
        return
    print(
        f"pictures are scored at {config.data.image_size}, as {file} says; {checkpoint} was "
        f"trained at {trained_at} (--img_size says another)"
    )


def _report(config: Any, work_dir: Path, split: str, result: dict[str, Any]) -> None:
    from mmengine.dist import is_main_process

    from ris.engine.data import open_refer
    from ris.page import write

    if not is_main_process():
        return
    data = config.to_dict()["data"]
    page = work_dir / f"report_{split}.html"
    records = work_dir / f"records_{split}.jsonl"
    write(page, records, result, open_refer(data)[0], data["text_field"])
    print(f"report: {page}")
