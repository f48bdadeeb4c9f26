"""Segment expressions in a picture and draw them: ris predict PICTURE "the left giraffe" ..."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", help="picture file")
    parser.add_argument("expressions", nargs="+", help="one or more referring expressions")
    parser.add_argument("--weights", required=True, help="checkpoint folder or released .pth")
    parser.add_argument("--out", default="overlay.png", help="overlay PNG (default: %(default)s)")
    parser.add_argument("--masks", help="folder for one black and white PNG per expression")
    parser.add_argument("--device", help="cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--sd", help="Stable Diffusion weights, where the checkpoint's own source "
                        "is not reachable")  # fmt: skip
    parser.add_argument("--text", help="CLIP text encoder for a released .pth")
    parser.add_argument("--num_heads", type=int, default=8, help="heads of a released .pth")
    parser.add_argument("--token_length", type=int, help="checked against the checkpoint")


def run(arguments: argparse.Namespace) -> None:
    import numpy as np
    from PIL import Image

    from refer.pictures import open_picture
    from ris.errors import OptionError
    from ris.predictor import Predictor
    from ris.visual import overlay

    # What costs nothing to check comes before the weights are read.
    open_picture(arguments.picture, orient="exif")
    _check_expressions(arguments.expressions)
    folder = Path(arguments.weights).is_dir()
    if arguments.text and folder:
        raise OptionError("--text is for a released .pth; a checkpoint folder knows its CLIP")
    if arguments.sd and not folder:
        raise OptionError("--sd is for a checkpoint folder; a released .pth brings its weights")
    extra: dict[str, Any] = {}
    if not folder:
        extra = {"text": arguments.text, "config": {"num_heads": arguments.num_heads}}
    elif arguments.sd:
        extra = {"weights_source": arguments.sd}
    predictor = Predictor.from_pretrained(
        arguments.weights, device=arguments.device, token_length=arguments.token_length, **extra
    )
    predictor.set_image(arguments.picture)
    found = predictor.predict(arguments.expressions)
    assert predictor.picture is not None
    labels = found.expressions
    if found.no_target is not None:
        labels = [
            f"{text} (nothing here)" if nothing > 0.5 else text
            for text, nothing in zip(labels, found.no_target, strict=True)
        ]
    drawn = overlay(np.asarray(predictor.picture), list(found.masks), labels)
    _write(drawn, Path(arguments.out))
    for index, expression in enumerate(found.expressions):
        said = f"{100 * found.masks[index].mean():.1f} % of the picture, "
        said += f"score {found.scores[index]:.2f}"
        if found.no_target is not None and found.no_target[index] > 0.5:
            said = f"nothing here matches ({100 * found.no_target[index]:.0f} % sure)"
        if found.truncated[index]:
            said += f"  (cut to {predictor.model.backbone.token_length} tokens)"
        print(f"{expression!r}: {said}")
        if arguments.masks:
            mask = Image.fromarray(found.masks[index].astype(np.uint8) * 255)
            _write(mask, Path(arguments.masks) / f"{Path(arguments.picture).stem}_{index}.png")
    print(f"overlay: {arguments.out}")


def _check_expressions(expressions: list[str]) -> None:
    from vpd.errors import TextError

    for index, expression in enumerate(expressions):
        if not expression.strip():
            raise TextError(f"expression {index + 1} of {len(expressions)} is empty")


def _write(picture: object, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(path.name + ".part")
    try:
        picture.save(beside, format="PNG")  # type: ignore[attr-defined]
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
