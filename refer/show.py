"""Draw a ref on the current matplotlib axes: picture, outline or box, mask."""

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
    """Draw a ref's picture with its outline ('seg') or box ('box'), and print its sentences.

    Raises UnknownNameError for another `seg_box`, and what opening the picture raises.
    """
    if seg_box not in ("seg", "box"):
        raise UnknownNameError(f"seg_box is {seg_box!r}; want 'seg' or 'box'")
    axes = plt.gca()
    axes.imshow(open_picture(refer.image_path(ref["image_id"])))
    for number, sentence in enumerate(ref["sentences"], start=1):
        print(f"{number}. {sentence['sent']}")
    if seg_box == "box":
        x, y, width, height = refer.getRefBox(ref["ref_id"])
        axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor="green", linewidth=3))
        return
    segmentation = refer.Anns[ref["ann_id"]].peek("segmentation")
    if isinstance(segmentation, list) and segmentation and isinstance(segmentation[0], list):
        _outline(axes, segmentation)
    else:
        show_mask(refer, ref)


def show_mask(refer: REFER, ref: Ref) -> None:
    """Draw a ref's mask as a translucent green layer."""
    mask = refer.getMask(ref)["mask"]
    layer = np.zeros((*mask.shape, 4), dtype=np.float32)
    layer[mask > 0] = (0.0, 1.0, 0.0, 0.5)
    plt.gca().imshow(layer)


def _outline(axes: Any, polygons: list[list[float]]) -> None:
    for polygon in polygons:
        if len(polygon) >= 6 and len(polygon) % 2 == 0:
            corners = np.array(polygon).reshape(-1, 2)
            # A thin red line within a broad yellow one shows on any background.
            for colour, width in (("yellow", 3), ("red", 1)):
                axes.add_patch(
                    Polygon(corners, closed=True, fill=False, edgecolor=colour, linewidth=width)
                )
