"""Draw a sheet of a split's expressions: truth beside prediction."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from ris.commands import loading


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("weights", help="checkpoint folder or released .pth")
    parser.add_argument("--dataset", default="refcoco", help="(default: %(default)s)")
    parser.add_argument("--splitBy", help="who made the split (default: the data set's)")
    parser.add_argument("--refer_data_root", default="refer/data", help="(default: %(default)s)")
    parser.add_argument("--image_root", help="picture folder, if elsewhere")
    parser.add_argument("--split", default="val", help="(default: %(default)s)")
    parser.add_argument("--count", type=int, default=12, help="pictures (default: %(default)s)")
    parser.add_argument("--columns", type=int, default=3, help="(default: %(default)s)")
    parser.add_argument("--out", default="sheet.png", help="PNG (default: %(default)s)")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    loading.add(parser)


def run(arguments: argparse.Namespace) -> None:
    from ris.engine.data import open_one
    from ris.errors import OptionError
    from ris.predictor import Predictor

    for name in ("count", "columns"):
        if getattr(arguments, name) < 1:
            raise OptionError(f"--{name} is {getattr(arguments, name)}; want 1 or more")
    refer = open_one(
        arguments.refer_data_root, arguments.dataset, arguments.splitBy, arguments.image_root
    )
    predictor = Predictor.from_pretrained(
        arguments.weights,
        device=arguments.device,
        **loading.options(arguments, arguments.weights),
    )
    draw(predictor, refer, arguments.split, arguments.count, arguments.columns, arguments.out)
    print(f"sheet: {arguments.out}")


def _truth(refer: Any, ref: Any) -> Any:
    """bool [H, W] of everything that the ref names; empty where it names nothing."""
    from refer.grefer import G_REFER

    general = isinstance(refer, G_REFER)
    found = refer.getMaskByRef(ref=ref, merge=True) if general else refer.getMask(ref)
    return found["mask"].astype(bool)


def draw(predictor: Any, refer: Any, split: str, count: int, columns: int, out: str | Path) -> None:
    """One tile a picture, evenly taken from the split, its first ref and sentence: truth, found.

    Raises OptionError for a model that answers with boxes alone.
    """
    import numpy as np
    from PIL import Image

    from ris.errors import OptionError
    from ris.saving import save_png
    from ris.visual import overlay, sheet

    refs = refer.loadRefs(refer.getRefIds(split=split))
    by_picture: dict[int, Any] = {}
    for ref in refs:
        by_picture.setdefault(ref["image_id"], ref)
    chosen = list(by_picture.values())[:: max(1, len(by_picture) // count)][:count]
    tiles = []
    for ref in chosen:
        sentence = ref["sentences"][0]["sent"]
        predictor.set_image(refer.image_path(ref["image_id"]))
        picture = np.asarray(predictor.picture)
        truth = _truth(refer, ref)
        answer = predictor.predict(sentence)
        if not answer.has_masks:
            raise OptionError(
                "this model answers with boxes and has no masks to compare; ris predict draws its "
                "boxes, ris test scores them"
            )
        found = answer.masks[0]
        union = (found | truth).sum()
        said = f"IoU {(found & truth).sum() / union:.2f}" if union else "nothing, as it should be"
        left = overlay(picture, [truth], [f"truth: {sentence}"])
        right = overlay(picture, [found], [f"prediction, {said}"], truths=[truth])
        tile = Image.new(
            "RGB", (left.width + right.width + 4, max(left.height, right.height)), "white"
        )
        tile.paste(left, (0, 0))
        tile.paste(right, (left.width + 4, 0))
        tiles.append(tile)
    save_png(sheet(tiles, columns), Path(out))
