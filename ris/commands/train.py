"""Train a segmenter; validate each epoch; keep the weights with the best oIoU."""

from __future__ import annotations

import argparse
from pathlib import Path

from ris.commands import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_choice_of_config(parser)
    parser.add_argument("--logdir", required=True, help="folder for logs, metrics.json, overlays")
    parser.add_argument("--resume", help="checkpoint to go on from, or 'auto' for the latest")
    parser.add_argument("--amsgrad", action="store_true", help="the AMSGrad variant of AdamW")
    parser.add_argument(
        "--pin_mem", action="store_true", help="accepted for old command lines; always on with CUDA"
    )
    options.add(parser, *options.ENTRIES)


def run(arguments: argparse.Namespace) -> None:
    if arguments.amsgrad:
        arguments.set.append("optim.amsgrad=True")
    config = options.load_config(arguments)
    from ris.engine.train import train

    train(
        config,
        Path(arguments.logdir),
        device=arguments.device,
        resume_from=arguments.resume,
    )
