"""Masks against hand-worked rectangles and against pycocotools' own merging."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco

from refer import masks
from refer.errors import DataFileError, UnknownNameError
from refer.transforms import resize_mask

H, W = 20, 30


def rectangle(x0: int, y0: int, x1: int, y1: int) -> list[float]:
    return [float(value) for value in (x0, y0, x1, y0, x1, y1, x0, y1)]


def filled(x0: int, y0: int, x1: int, y1: int) -> np.ndarray:
    mask = np.zeros((H, W), np.uint8)
    mask[y0:y1, x0:x1] = 1
    return mask


A, B = (2, 3, 12, 11), (8, 6, 20, 16)
OVERLAP = filled(8, 6, 12, 11)


def compressed(mask: np.ndarray) -> dict:
    return coco.encode(np.asfortranarray(mask))


def uncompressed(mask: np.ndarray) -> dict:
    flat = mask.flatten(order="F")
    edges = np.flatnonzero(np.diff(flat)) + 1
    runs = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *runs] if flat[0] else runs}


PARTS = {
    "polygons": [rectangle(*A), rectangle(*B)],
    "RLE dicts": [compressed(filled(*A)), compressed(filled(*B))],
    "uncompressed RLE dicts": [uncompressed(filled(*A)), uncompressed(filled(*B))],
}


@pytest.mark.parametrize("kind", PARTS)
def test_overlap_rules(kind):
    a, b = filled(*A), filled(*B)
    assert masks.decode(PARTS[kind], H, W).tolist() == (a | b).tolist()
    assert masks.decode(PARTS[kind], H, W, "drop").tolist() == ((a | b) - OVERLAP).tolist()
    assert masks.decode(PARTS[kind], H, W, "sum").tolist() == (a + b).tolist()


@pytest.mark.parametrize("overlap", ["union", "drop"])
def test_outlines_are_drawn_at_another_size(overlap):
    """Corners at (x, y) of 20 x 30 pixels are at (2x, y / 2) of 10 x 60."""
    tall = [rectangle(2, 4, 12, 10), rectangle(8, 6, 20, 16)]
    wide = [rectangle(4, 2, 24, 5), rectangle(16, 3, 40, 8)]
    expected = masks.decode(wide, 10, 60, overlap)
    assert masks.decode_at(tall, H, W, (10, 60), overlap).tolist() == expected.tolist()
    assert expected.sum() == {"union": 20 * 3 + 24 * 5 - 8 * 2, "drop": 60 + 120 - 2 * 16}[overlap]


@pytest.mark.parametrize("kind", ["RLE dicts", "uncompressed RLE dicts"])
def test_what_is_no_outline_is_resized(kind):
    expected = resize_mask(filled(*A) | filled(*B), (13, 17))
    assert masks.decode_at(PARTS[kind], H, W, (13, 17)).tolist() == expected.tolist()


def test_a_slanted_edge_moves_against_a_resized_mask_by_a_pixel():
    corners = [1.0, 1.0, 28.0, 3.0, 9.0, 18.0]
    drawn = masks.decode_at([corners], H, W, (15, 45))
    scaled = [corner * (1.5, 0.75)[index % 2] for index, corner in enumerate(corners)]
    assert drawn.tolist() == coco.decode(coco.frPyObjects([scaled], 15, 45))[:, :, 0].tolist()
    resized = resize_mask(masks.decode([corners], H, W), (15, 45))
    differing = int((drawn != resized).sum())
    assert 0 < differing < 40  # of some 90 pixels along its edges


def test_a_part_that_cannot_be_drawn_is_named_at_any_size():
    with pytest.raises(DataFileError, match="here: a corner at nan"):
        masks.decode_at([[0, 0, float("nan"), 3, 4, 4]], H, W, 8, where="here")
    with pytest.raises(DataFileError, match="the picture is"):
        masks.decode_at(PARTS["RLE dicts"], H, W + 1, 8)


def test_dtype_and_layout():
    mask = masks.decode(PARTS["polygons"], H, W)
    assert mask.dtype == np.uint8
    assert mask.flags.c_contiguous


def test_many_parts_do_not_wrap():
    parts = [rectangle(*A)] * 257  # 257 is 1 modulo 256
    assert masks.decode(parts, H, W, "drop").sum() == 0
    assert masks.decode(parts, H, W, "sum").max() == 255


@pytest.mark.parametrize(
    "rle",
    [
        compressed(filled(*A)),
        {**compressed(filled(*A)), "counts": compressed(filled(*A))["counts"].decode()},
        uncompressed(filled(*A)),
    ],
    ids=["bytes", "str", "list"],
)
def test_bare_rle(rle):
    assert masks.decode(rle, H, W).tolist() == filled(*A).tolist()


corners = st.lists(st.floats(-5, 35, allow_nan=False), min_size=6, max_size=14).filter(
    lambda numbers: len(numbers) % 2 == 0
)


@given(st.lists(corners, min_size=1, max_size=4))
def test_union_of_polygons_is_coco_merge(polygons):
    merged = coco.decode(coco.merge(coco.frPyObjects(polygons, H, W)))
    assert masks.decode(polygons, H, W).tolist() == merged.tolist()


@given(st.lists(st.integers(0, 1), min_size=H * W, max_size=H * W))
def test_any_rle_comes_back(pixels):
    mask = np.array(pixels, np.uint8).reshape(H, W)
    assert masks.decode(compressed(mask), H, W).tolist() == mask.tolist()
    assert masks.decode(uncompressed(mask), H, W).tolist() == mask.tolist()


@given(st.binary(max_size=60))
def test_random_rle_strings_give_a_mask_or_an_error(counts):
    try:
        mask = masks.decode({"size": [H, W], "counts": counts}, H, W)
    except DataFileError:
        return
    assert mask.max() <= 1


@pytest.mark.parametrize("degenerate", [[], [1.0, 2.0], [1.0, 2.0, 3.0, 4.0], [1.0] * 7])
def test_degenerate_polygons_are_skipped(degenerate):
    for parts in ([degenerate, rectangle(*A)], [rectangle(*A), degenerate]):
        assert masks.decode(parts, H, W).tolist() == filled(*A).tolist()
    with pytest.raises(DataFileError, match="annotation 7: nothing to draw"):
        masks.decode([degenerate], H, W, where="annotation 7")


@pytest.mark.parametrize(
    "segmentation",
    [
        None,
        [],
        "polygon",
        7,
        [7],
        [rectangle(*A), compressed(filled(*A))],
        [["a"] * 6],
        [[[1, 2]] * 6],
        [[float("nan"), *rectangle(*A)[1:]]],  # pycocotools never returns from this one
        [[1e12, *rectangle(*A)[1:]]],  # nor from this
        {"size": [H, W]},
        {"size": [H, W], "counts": None},
        {"size": [W, H], "counts": compressed(filled(*A))["counts"]},
        {"counts": [H * W]},
        {"size": 5, "counts": [H * W]},
        {"size": [H, W], "counts": ""},  # too short: pycocotools gives back unwritten memory
        {"size": [H, W], "counts": [10, 10]},
        {"size": [H, W], "counts": [10, H * W]},
        {"size": [H, W], "counts": [-10, H * W + 10]},
        {"size": [H, W], "counts": [0.5, H * W - 0.5]},
        {"size": [H, W], "counts": "é"},
    ],
)
def test_what_is_no_segmentation(segmentation):
    with pytest.raises(DataFileError, match="annotation 7: "):
        masks.decode(segmentation, H, W, where="annotation 7")


def test_unknown_overlap():
    with pytest.raises(UnknownNameError, match=r"'both'.*union.*drop"):
        masks.decode(PARTS["polygons"], H, W, "both")  # type: ignore[arg-type]


def test_outlines_that_run_to_and_fro_are_refused_before_they_are_drawn():
    """pycocotools keeps some 80 bytes a pixel of an outline's way: 2 KB of corners took 790 MB."""
    to_and_fro = [0, 0, 99_999, 99_999] * 100
    for segmentation in ([to_and_fro], [[0, 0, 90_000, 90_000, 0, 5]] * 100):
        with pytest.raises(DataFileError, match=r"annotation 7: its outlines run over .* 1000000"):
            masks.to_rles(segmentation, 64, 64, "annotation 7")
    # What is short in the picture may be long where it is drawn.
    rows = [0, 0, 10, 0, 10, 1, 0, 1] * 1000
    masks.to_rles([rows], 2, 12)
    with pytest.raises(DataFileError, match="annotation 7: its outlines run over"):
        masks.decode_at([rows], 2, 12, 4000, where="annotation 7")


def test_the_way_of_an_outline_counts_its_closing_edge():
    at_most = [0, 0, 50_000, 0, 100_000, 0] * 5  # 100,000 there and back, five times
    assert len(masks.to_rles([at_most], H, W)) == 1
    with pytest.raises(DataFileError, match="over 1000002 pixels"):
        masks.to_rles([[*at_most, -1, 0]], H, W)


def test_pictures_that_no_memory_holds_are_refused():
    for segmentation in ([rectangle(*A)], {"size": [100_000, 100_000], "counts": [10**10]}):
        with pytest.raises(DataFileError, match="annotation 7: the picture is 100000 x 100000"):
            masks.decode(segmentation, 100_000, 100_000, where="annotation 7")


def test_one_part_takes_little_more_memory_than_its_mask():
    layers = np.zeros((1000, 1000, 1), np.uint8)
    tracemalloc.start()
    try:
        masks.combine(layers)
        assert tracemalloc.get_traced_memory()[1] < 2.5e6  # 5e6 with a sum in between
    finally:
        tracemalloc.stop()


def test_nothing_to_unite():
    with pytest.raises(DataFileError, match="phrase 3: no annotation to draw"):
        masks.encoded([], H, W, where="phrase 3")
