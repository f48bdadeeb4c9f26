"""The model card: what the model was trained on, for how long, on what, and how it went."""

from __future__ import annotations

import platform
import sys
from pathlib import Path
from pprint import pformat
from typing import Any

import diffusers
import torch
import transformers

from vpd.pretrain.loop import Report
from vpd.pretrain.pictures import CaptionedPictures


def write_card(
    folder: Path,
    config: dict[str, Any],
    data: CaptionedPictures,
    generated: str,
    reports: dict[str, Report],
) -> None:
    """Write ``folder/README.md``; ``generated`` is the hash the generator gives the data."""
    rows = [
        f"| {name} | {report.steps} | {report.seconds:.0f} | {_loss(report, 0)} | "
        f"{_loss(report, -1)} |"
        for name, report in reports.items()
    ]
    curves = [
        f"| {name} | {step} | {value:.4f} |"
        for name, report in reports.items()
        for step, value in report.losses[:: max(1, len(report.losses) // 12)]
    ]
    lines = [
        "---",
        "license: mit",
        "library_name: diffusers",
        "pipeline_tag: text-to-image",
        "---",
        "# tiny-t2i",
        "",
        "A latent diffusion model of generated shapes, small enough to be part of a repository. It",
        "is trained by `tools/pretrain_tiny.py`, and serves as a backbone that has seen pictures",
        "and their captions, and nothing else: no masks, no boxes, no expressions tied to a place.",
        "",
        "```python",
        "from diffusers import StableDiffusionPipeline",
        "",
        'pipe = StableDiffusionPipeline.from_pretrained("checkpoints/tiny-t2i")',
        f'pipe("a red circle", height={config["data"]["size"]}, width={config["data"]["size"]})'
        ".images[0]",
        "```",
        "",
        "## Data",
        "",
        f"{len(data.pictures)} pictures of RefShapes' train split (seed {config['data']['seed']}),"
        f" {sum(map(len, data.captions))} captions. The held-out pairs of colour and shape are not",
        "among them, nor is any picture of val, testA or testB.",
        "",
        f"- sha256 of the generated scenes: `{generated}`",
        f"- sha256 of the caption file and the pictures read: `{data.sha256}`",
        "",
        "## Training",
        "",
        "| part | steps | seconds | first loss | last loss |",
        "|---|---|---|---|---|",
        *rows,
        "",
        f"On {_machine()}; Python {sys.version.split()[0]}, torch {torch.__version__}, diffusers "
        f"{diffusers.__version__}, transformers {transformers.__version__}.",
        "",
        "```python",
        pformat(config, sort_dicts=False),
        "```",
        "",
        "| part | step | mean loss since the last line logged |",
        "|---|---|---|",
        *curves,
        "",
        "## Limits",
        "",
        "It knows the words of RefShapes' captions only; every other token keeps the random row it",
        "was born with. Captions were cut at 40 tokens. Not a model of photographs.",
        "",
    ]
    (folder / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _loss(report: Report, index: int) -> str:
    return f"{report.losses[index][1]:.4f}" if report.losses else "-"


def _machine() -> str:
    if torch.cuda.is_available():
        return f"one {torch.cuda.get_device_name()}"
    return f"{torch.get_num_threads()} threads of a {platform.machine()} processor, no GPU"
