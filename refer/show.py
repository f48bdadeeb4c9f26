"""Draw a ref on the current matplotlib axes: picture, outlines or boxes, mask of its targets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.patches import Polygon, Rectangle

from refer.errors import UnknownNameError
from refer.pictures import open_picture

if TYPE_CHECKING:
    from refer.api import REFER
    from refer.readers.pickles import Ref


def show_ref(refer: REFER, ref: Ref, seg_box: str = "seg") -> None:
    """Draw a ref's picture with its outlines ('seg') or boxes ('box'), and print its sentences.

    Raises UnknownNameError for another `seg_box`, DataFileError where outlines or boxes are
    missing, and what opening the picture raises.
    """
    if seg_box not in ("seg", "box"):
        raise UnknownNameError(f"seg_box is {seg_box!r}; want 'seg' or 'box'")
    axes = plt.gca()
    axes.imshow(open_picture(refer.image_path(ref["image_id"])))
    for number, sentence in enumerate(ref["sentences"], start=1):
        print(f"{number}. {sentence['sent']}")
    if seg_box == "box":
        found: Any = refer.getRefBox(ref["ref_id"])
        several = not found or isinstance(found[0], (list, tuple))
        for x, y, width, height in found if several else [found]:
            axes.add_patch(
                Rectangle((x, y), width, height, fill=False, edgecolor="green", linewidth=3)
            )
        return
    outlines = [refer._of_annotation(i, "segmentation") for i in _targets(refer, ref)]
    if all(isinstance(one, list) and one and isinstance(one[0], list) for one in outlines):
        for one in outlines:
            _outline(axes, one)
    else:
        show_mask(refer, ref)


def show_mask(refer: REFER, ref: Ref) -> None:
    """Draw the mask of a ref's targets as a translucent green layer."""
    of_several = getattr(refer, "getMaskByRef", None)  # of `G_REFER`
    mask = (refer.getMask(ref) if of_several is None else of_several(ref, merge=True))["mask"]
    layer = np.zeros((*mask.shape, 4), dtype=np.float32)
    layer[mask > 0] = (0.0, 1.0, 0.0, 0.5)
    plt.gca().imshow(layer)


def _targets(refer: REFER, ref: Ref) -> list[Any]:
    """Annotation ids; none where nothing is meant."""
    found = ref["ann_id"]
    ids: list[Any] = found if isinstance(found, list) else [found]
    return [ann_id for ann_id in ids if refer.Anns[ann_id] is not None]


def _outline(axes: Any, polygons: list[list[float]]) -> None:
    for polygon in polygons:
        if len(polygon) >= 6 and len(polygon) % 2 == 0:
            corners = np.array(polygon).reshape(-1, 2)
            # A thin red line within a broad yellow one shows on any background.
            for colour, width in (("yellow", 3), ("red", 1)):
                axes.add_patch(
                    Polygon(corners, closed=True, fill=False, edgecolor=colour, linewidth=width)
                )
