"""Convert a checkpoint: to a folder, to the released .pth layout, or to ONNX (--to onnx).

ONNX: a folder of three graphs, a tokenizer and model.json, which runs without torch. Before it is
written, its masks of a picture are compared with torch's. Needs the extra 'onnx'.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ris.commands import loading

TOLERANCE = 1e-3
FOR_ONNX = ("img_size", "picture", "sentences", "tolerance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="checkpoint folder, Hub id of one, or released .pth")
    parser.add_argument("target", help="new file or folder")
    parser.add_argument("--to", choices=("folder", "pth", "onnx"), help="(default: pth for a "
                        "target NAME.pth, else folder)")  # fmt: skip
    loading.add(parser)
    onnx = parser.add_argument_group("for ONNX")
    onnx.add_argument("--img_size", type=int, help="side of the square that pictures are squashed "
                      "to (default: the checkpoint's, or 512)")  # fmt: skip
    onnx.add_argument("--picture", help="to compare torch and ONNX on (default: a generated one)")
    onnx.add_argument("--sentences", nargs="+", action="extend", help="two or more to compare on")
    onnx.add_argument("--tolerance", type=float, help="largest difference of logits, relative to "
                      f"the largest logit (default: {TOLERANCE})")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    from ris.errors import OptionError

    target = Path(arguments.target)
    kind = arguments.to or ("pth" if target.suffix == ".pth" else "folder")
    if target.exists():
        raise OptionError(f"{target} exists; name a new file or folder")
    given = [f"--{name}" for name in FOR_ONNX if getattr(arguments, name) is not None]
    if given and kind != "onnx":
        raise OptionError(f"{', '.join(given)}: for ONNX only; add --to onnx, or leave it out")
    if kind == "onnx":
        _to_onnx(arguments, target)
    else:
        _to_torch(arguments, target, kind)
    print(f"written: {target}")


def _to_torch(arguments: argparse.Namespace, target: Path, kind: str) -> None:
    from ris.predictor import Predictor
    from ris.released import save_released, unsaid

    source = arguments.source
    predictor = Predictor.from_pretrained(
        source, device="cpu", **loading.options(arguments, source)
    )
    if kind == "pth":
        save_released(predictor.model, target)
        for line in unsaid(predictor.model, predictor.image_size):
            print(f"mind: {line}")
    else:
        # The source file may go away: the folder gets every weight.
        predictor.save_pretrained(target, whole=True)


def _to_onnx(arguments: argparse.Namespace, target: Path) -> None:
    from ris import onnx_export
    from ris.errors import OptionError
    from ris.predictor import Predictor

    onnx_export.check_extra()
    if arguments.sentences and len(arguments.sentences) < 2:
        raise OptionError("--sentences wants two or more: their number is free in the files")
    source = arguments.source
    extra = {**loading.options(arguments, source), **loading.size(arguments)}
    # Compiled blocks cannot be traced, and only this kernel is known to exporters.
    predictor = Predictor.from_pretrained(
        source, device="cpu", dtype="float32", compiled=False, attention_kernel="sdpa", **extra
    )
    picture, sentences = onnx_export.generated(onnx_export.square(predictor))
    print("three graphs are traced and compared with torch: a minute or more", flush=True)
    found = onnx_export.export(
        predictor,
        target,
        arguments.picture or picture,
        arguments.sentences or sentences,
        tolerance=TOLERANCE if arguments.tolerance is None else arguments.tolerance,
    )
    print(f"onnxruntime against torch: {found}")
