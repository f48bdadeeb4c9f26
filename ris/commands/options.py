"""Options that several commands share, and the config entries they stand for."""

from __future__ import annotations

import argparse
from typing import Any

from ris.commands.pairs import pairs

DATASET, BACKBONE = "refcoco", "sd15"  # where neither the command line nor a file says

# option -> (config entry, type).
ENTRIES: dict[str, tuple[str, Any]] = {
    "--token_length": ("data.token_length", int),
    "--splitBy": ("data.split_by", str),
    "--refer_data_root": ("data.root", str),
    "--image_root": ("data.image_root", str),
    "--img_size": ("data.image_size", int),
    "--overlap": ("data.overlap", str),
    "--workers": ("data.workers", int),
    "--batch-size": ("schedule.batch_size", int),
    "--epochs": ("schedule.epochs", int),
    "--print-freq": ("schedule.print_freq", int),
    "--val-interval": ("schedule.val_interval", int),
    "--lr": ("optim.lr", float),
    "--weight-decay": ("optim.weight_decay", float),
    "--precision": ("optim.precision", str),
    "--unet_mode": ("model.backbone.unet_mode", str),
    "--weights": ("model.backbone.source", str),
    "--attention": ("model.backbone.attention_kernel", str),
    "--sentence_batch": ("model.sentence_batch", int),
    "--output-dir": ("output_dir", str),
    "--model_id": ("model_id", str),
    "--seed": ("seed", int),
    "--init": ("init", str),
    "--answers": ("model.head.answers", str),
    "--grounding_protocol": ("grounding.protocol", str),
}
METAVAR: dict[Any, str] = {int: "N", float: "X", str: "NAME"}
SHORT = {"--workers": "-j", "--batch-size": "-b", "--weight-decay": "--wd"}
HELP = {
    "--token_length": "tokens a sentence is padded or cut to (default: the data set's)",
    "--splitBy": "who made the split: unc, umd, google, berkeley, ... (default: the data set's)",
    "--refer_data_root": "folder with refcoco/, refcoco+/, refcocog/ and images/",
    "--image_root": "folder with the pictures, where it is not below the data root",
    "--img_size": "side of the square that pictures are squashed to; a multiple of 64",
    "--overlap": "pixels under several polygons: 'drop' (published for one target) or 'union' "
    "(published for several or none)",
    "--workers": "processes that load data, beside each that trains",
    "--batch-size": "refs a process and step",
    "--epochs": "passes over the training data",
    "--val-interval": "epochs between two validations",
    "--lr": "learning rate, taken as it stands; the config's follows the total batch",
    "--weight-decay": "of AdamW",
    "--model_id": "name of the run's best weights: model_best_<model_id> (default: the data set)",
    "--seed": "of weights, order of samples and sentences drawn",
    "--print-freq": "steps between two progress lines",
    "--precision": "fp32 or bf16 (autocast)",
    "--unet_mode": "frozen, finetune (the published recipe) or lora",
    "--weights": "Stable Diffusion: diffusers folder, Hub id, LDM .ckpt or .safetensors; or random",
    "--attention": "attention kernel: sdpa, xformers or eager",
    "--sentence_batch": "sentences run through the UNet at once in evaluation",
    "--init": "checkpoint folder whose weights training begins with (the stage before)",
    "--answers": "of tasks rec and phrase: boxes, masks or both",
    "--grounding_protocol": "of tasks rec and phrase: reftr, transvg, mdetr_any or mdetr_merged",
    "--output-dir": "folder that receives model_best_<model_id>",
}


def add(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the config options `names`; absent ones leave the config's value alone."""
    for name in names:
        entry, kind = ENTRIES[name]
        flags = [name, *([SHORT[name]] if name in SHORT else [])]
        parser.add_argument(
            *flags,
            dest=entry,
            type=kind,
            default=None,
            metavar=METAVAR[kind],
            help=f"{HELP[name]} [{entry}]",
        )


def add_choice_of_config(parser: argparse.ArgumentParser) -> None:
    """Which config is taken, and free entries over it."""
    parser.add_argument("--dataset", help=f"data set (default: {DATASET}, or that of --config)")
    parser.add_argument(
        "--task",
        choices=("res", "gres", "grec", "rec", "phrase"),
        help="res: masks of one target; gres: of several or none; grec: their boxes too; "
        "rec: boxes (and masks) of expressions; phrase: of the phrases of captions (default: by "
        "the data set)",
    )
    parser.add_argument("--config", help="config file, instead of configs/<task>/<dataset>_...; "
                        "options that are given are laid over it, --dataset and --backbone too. "
                        "splitBy, token length and val_dataset of another data set than the file's "
                        "are that one's defaults")  # fmt: skip
    parser.add_argument("--backbone", help=f"sd15, sd21 or tiny (default: {BACKBONE}, or that of "
                        "--config)")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="ENTRY=VALUE",
        help="any other config entry; may be given several times",
    )


def overrides(arguments: argparse.Namespace) -> dict[str, Any]:
    """{config entry: value} of the options that were given, `--set` last."""
    known = {entry for entry, _ in ENTRIES.values()}
    found = {k: v for k, v in vars(arguments).items() if k in known and v is not None}
    if "optim.lr" in found:
        found["optim.lr_batch"] = None  # a rate that was asked for is meant as it stands
    return {**found, **pairs(getattr(arguments, "set", []), "--set")}


def load_config(arguments: argparse.Namespace) -> Any:
    """The config these arguments choose, with their overrides.

    Raises:
        OptionError: no such config, or an option that does not fit it (see `settings.load`).
    """
    from ris.engine import settings

    laid_over = overrides(arguments)
    path = arguments.config
    if path is not None:
        if arguments.task:
            laid_over = {"task": arguments.task, **laid_over}
        chosen = settings.chosen_in(path, arguments.dataset, arguments.backbone, laid_over)
        return settings.load(path, {**chosen, **laid_over})
    dataset, backbone = arguments.dataset or DATASET, arguments.backbone or BACKBONE
    task = arguments.task or settings.default_task(dataset)
    path = settings.find_config(task, dataset, backbone, laid_over.get("data.image_size"))
    chosen = {"task": task, "data.dataset": dataset}
    if backbone in settings.RECIPE_OF:
        chosen["model.backbone.name"] = backbone
    return settings.load(path, {**chosen, **laid_over})
