"""Drawing refs on matplotlib axes."""

from __future__ import annotations

import pytest
from PIL import Image

from refer import REFER
from refer.errors import DataFileError, UnknownNameError


@pytest.fixture
def refer(write_refer) -> REFER:
    return REFER(write_refer(), "refcoco", "unc")


@pytest.mark.parametrize(("seg_box", "patches"), [("seg", 2), ("box", 1)])
def test_show_ref(shared, axes, capsys, seg_box, patches):
    refer = REFER(shared / "data" / "refer_mini", "refcoco", "unc")
    ref = next(
        r for r in refer.data["refs"] if len(refer.refToAnn[r["ref_id"]]["segmentation"]) == 1
    )
    refer.showRef(ref, seg_box)
    axes.figure.canvas.draw()
    assert len(axes.images) == 1
    assert len(axes.patches) == patches
    assert f"1. {ref['sentences'][0]['sent']}\n" in capsys.readouterr().out


def test_show_ref_with_rle(write_refer, records, axes):
    rle = {"size": [10, 12], "counts": [22, 5, 93]}
    root = write_refer(
        "refclef", refs=[records.ref(0, "1_0", 1, "val")],
        annotations=[records.ann("1_0", 1, segmentation=[rle])],
    )  # fmt: skip
    folder = root / "images" / "saiapr_tc-12"
    folder.mkdir(parents=True)
    refclef = REFER(root, "refclef")
    Image.new("RGB", (12, 10)).save(folder / refclef.Imgs[1]["file_name"])
    refclef = REFER(root, "refclef")
    refclef.showRef(refclef.Refs[0])
    axes.figure.canvas.draw()
    assert len(axes.images) == 2


def test_show_mask(refer, axes):
    refer.showMask(refer.Refs[0])
    axes.figure.canvas.draw()
    drawn = axes.images[0].get_array()[..., 3] > 0
    assert drawn.tolist() == (refer.getMask(refer.Refs[0])["mask"] > 0).tolist()


def test_show_ref_with_another_option(refer, axes):
    with pytest.raises(UnknownNameError, match="'mask'; want 'seg' or 'box'"):
        refer.showRef(refer.Refs[0], "mask")


def test_show_ref_without_outline(write_refer, records, axes):
    ann = records.ann(100, 1)
    del ann["segmentation"]
    root = write_refer(refs=[records.ref(0, 100, 1, "val")], annotations=[ann])
    (root / "train2014").mkdir()
    Image.new("RGB", (12, 10)).save(root / "train2014" / "1.png")
    refer = REFER(root, "refcoco", "unc")
    refer.Imgs[1]["file_name"] = "1.png"
    with pytest.raises(DataFileError, match="100 has no 'segmentation'"):
        refer.showRef(refer.Refs[0])
