"""Score a checkpoint: the released .pth or a folder written by training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ris.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_choice_of_config(parser)
    parser.add_argument("--resume", "--checkpoint", dest="checkpoint", required=True,
                        help="released .pth, or folder with model.safetensors")  # fmt: skip
    parser.add_argument("--split", default="val", help="val, testA, testB, test, ...")
    parser.add_argument("--logdir", help="where metrics.json and the records go "
                        "(default: work_dirs/test/<checkpoint>_<dataset>_<split>)")  # fmt: skip
    parser.add_argument("--text", help="CLIP text encoder for a released .pth "
                        "(default: openai/clip-vit-large-patch14)")  # fmt: skip
    parser.add_argument("--num_heads", type=int, default=8, help="attention heads of a released "
                        ".pth that is not Stable Diffusion 1.x's 8")  # fmt: skip
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
    from ris.checkpoints import read_config
    from ris.engine.evaluate import evaluate
    from ris.errors import OptionError
    from vpd import trades

    if arguments.report and config.task != "res":
        raise OptionError(
            f"--report is for task res, not {config.task}: its result files hold counts only"
        )
    checkpoint = Path(arguments.checkpoint)
    backbone = config.model.backbone
    work_dir = arguments.logdir or (
        f"work_dirs/test/{checkpoint.stem}_{config.data.dataset}_{arguments.split}"
    )
    extra: dict[str, Any] = {"attention_kernel": backbone.attention_kernel}
    # What changes speed is the checkpoint's own, unless it is asked for here.
    asked = options.overrides(arguments)
    for name in ("compiled", "channels_last"):
        if backbone[name] or f"model.backbone.{name}" in asked:
            extra[name] = backbone[name]
    if trades.names(backbone.trades) or any("model.backbone.trades" in entry for entry in asked):
        extra["trades"] = backbone.trades.to_dict()
    if not checkpoint.is_dir():
        if config.model.backbone.source:
            raise OptionError(f"{checkpoint} brings its own weights; leave out --weights")
        extra |= {"text": arguments.text, "config": {"num_heads": arguments.num_heads}}
    else:
        if config.model.backbone.source:
            extra["weights_source"] = config.model.backbone.source
        trained_at = read_config(checkpoint)["info"].get("image_size")
        if trained_at and "data.image_size" not in asked:
            config.data.image_size = trained_at
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
