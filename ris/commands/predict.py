"""Segment expressions in pictures and draw them: ris predict PICTURE "the left giraffe" ..."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ris.commands import loading
from ris.commands.pairs import pairs

if TYPE_CHECKING:
    from ris.prediction import Prediction
    from ris.predictor import Predictor

DEFAULT_OUT, DEFAULT_FOLDER = "overlay.png", "predictions"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("picture", help="picture file or address (https://...); or a folder, or a "
                        "glob in quotes, of many")  # fmt: skip
    parser.add_argument("expressions", nargs="+", help="one or more referring expressions; a "
                        "grounding model also takes '[a red dot] by [a square]'")  # fmt: skip
    parser.add_argument("--weights", required=True,
                        help="checkpoint folder, Hub id of one, or released .pth")  # fmt: skip
    parser.add_argument("--out", help=f"overlay PNG (default: {DEFAULT_OUT}); of many pictures, "
                        f"the folder for everything (default: {DEFAULT_FOLDER}/)")  # fmt: skip
    parser.add_argument("--masks", help="folder for one black and white PNG per expression")
    parser.add_argument(
        "--json", help="folder for <picture>.json: scores, boxes, masks as COCO RLE"
    )
    parser.add_argument("--attention", action="store_true",
                        help="also draw where each word looked: <out>_attention.png")  # fmt: skip
    parser.add_argument("--device", help="auto, cpu, cuda, ... (default: cuda where there is one)")
    parser.add_argument("--dtype", help="float32, bfloat16 or float16 "
                        "(default: float32 on the CPU, bfloat16 on CUDA)")  # fmt: skip
    loading.add(parser)
    loading.add_size(parser)
    parser.add_argument("--token_length", type=int, help="checked against the checkpoint")
    parser.add_argument("--trade", nargs="+", action="extend", default=[], metavar="NAME=VALUE",
                        help="speed for accuracy: int8=True, merge_tokens=0.5 ...")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    from refer.pictures import open_picture
    from ris.commands.listing import many_pictures
    from ris.devices import choose_device, choose_dtype
    from ris.download import is_url
    from ris.errors import OptionError
    from vpd import trades

    # What costs nothing to check comes before the weights are read.
    if arguments.dtype is not None:
        choose_dtype(arguments.dtype, choose_device(arguments.device))
    trades.checked(pairs(arguments.trade, "--trade"))
    scheme = arguments.picture.partition("://")
    if scheme[1] and not is_url(arguments.picture):
        raise OptionError(
            f"{arguments.picture}: pictures are fetched by http:// or https:// only, not by "
            f"{scheme[0]}://; download it and give the file"
        )
    pictures = None if is_url(arguments.picture) else many_pictures(arguments.picture)
    if pictures is None and not is_url(arguments.picture):
        open_picture(arguments.picture, orient="exif")
    _check_expressions(arguments.expressions)
    for option, folder in (("--masks", arguments.masks), ("--json", arguments.json)):
        if folder is not None and Path(folder).exists() and not Path(folder).is_dir():
            raise OptionError(f"{option} {folder} is a file; name a folder")
    if pictures is not None:
        _run_many(arguments, pictures)
        return
    out = Path(arguments.out or DEFAULT_OUT)
    if out.is_dir():
        raise OptionError(
            f"{f'--out {out}' if arguments.out else out} is a folder; name a file for one picture, "
            f"such as --out {out / 'drawn.png'}"
        )
    if out.suffix.lower() != ".png":
        raise OptionError(f"--out is {out}; overlays are PNG, name one so: {out}.png")
    predictor = _predictor(arguments)
    found = _predict(arguments, predictor, arguments.picture)
    stem = Path(arguments.picture.split("?")[0]).stem
    _write(predictor, found, out, stem, arguments.masks, arguments.json, arguments.picture)
    for index, expression in enumerate(found.expressions):
        print(f"{expression!r}: {_said(predictor, found, index)}")
    print(f"overlay: {out}")


def _run_many(arguments: argparse.Namespace, pictures: list[Path]) -> None:
    """Every picture; a broken one is named and the others are done."""
    from refer.errors import PictureError, ReferError
    from ris.commands.listing import stems
    from ris.errors import OptionError

    folder = Path(arguments.out or DEFAULT_FOLDER)
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"--out {folder} is a file; name a folder for {len(pictures)} pictures")
    masks, json = arguments.masks or folder, arguments.json or folder
    predictor = _predictor(arguments)
    broken: list[str] = []
    for picture, stem in zip(pictures, stems(pictures), strict=True):
        try:
            found = _predict(arguments, predictor, picture)
        except ReferError as error:
            print(f"ris predict: {error}", file=sys.stderr)
            broken.append(picture.name)
            continue
        _write(predictor, found, folder / f"{stem}_overlay.png", stem, masks, json, str(picture))
        for index, expression in enumerate(found.expressions):
            print(f"{picture.name}, {expression!r}: {_said(predictor, found, index)}")
    print(f"{len(pictures) - len(broken)} of {len(pictures)} pictures: {folder}")
    if broken:
        raise PictureError(
            f"{len(broken)} of {len(pictures)} pictures could not be read: {', '.join(broken)}; "
            "the others are done"
        )


def _predict(
    arguments: argparse.Namespace, predictor: Predictor, picture: str | Path
) -> Prediction:
    predictor.set_image(picture)
    return predictor.predict(arguments.expressions, attention=arguments.attention)


def _predictor(arguments: argparse.Namespace) -> Predictor:
    from ris.allocator import keep_heap
    from ris.devices import choose_device
    from ris.predictor import Predictor

    extra = {**loading.options(arguments, arguments.weights), **loading.size(arguments)}
    if arguments.trade:
        extra["trades"] = pairs(arguments.trade, "--trade")
    if choose_device(arguments.device).type == "cpu":
        keep_heap()
    return Predictor.from_pretrained(
        arguments.weights,
        device=arguments.device,
        dtype=arguments.dtype,
        token_length=arguments.token_length,
        **extra,
    )


def _write(
    predictor: Predictor,
    found: Prediction,
    out: Path,
    stem: str,
    masks: str | Path | None,
    json: str | Path | None,
    name: str,
) -> None:
    from refer.files import write_json
    from ris.saving import described, draw_overlay, save_masks, save_png
    from ris.word_maps import word_sheet

    assert predictor.picture is not None
    save_png(draw_overlay(predictor.picture, found), out)
    if masks is not None:
        save_masks(found, Path(masks), stem)
    if json is not None:
        write_json(Path(json) / f"{stem}.json", described(found, name))
    if found.attention is not None:
        sheet = out.with_name(f"{out.stem.removesuffix('_overlay')}_attention.png")
        save_png(word_sheet(predictor.picture, found), sheet)


def _said(predictor: Predictor, found: Prediction, index: int) -> str:
    said = ""
    if found.has_boxes:
        said = "box " + " ".join(f"{side:.0f}" for side in found.boxes[index])
    if found.has_masks:
        said += ", " if said else ""
        said += f"{100 * found.masks[index].mean():.1f} % of the picture, "
        said += f"score {found.scores[index]:.2f}"
    if found.no_target is not None and found.no_target[index] > 0.5:
        said = f"nothing here matches ({100 * found.no_target[index]:.0f} % sure)"
    if found.truncated[index]:
        said += f"  (cut to {predictor.model.backbone.token_length} tokens)"
    return said


def _check_expressions(expressions: list[str]) -> None:
    from vpd.errors import TextError

    for index, expression in enumerate(expressions):
        if not expression.strip():
            raise TextError(f"expression {index + 1} of {len(expressions)} is empty")
