"""Every sentence of RefShapes means its target and nothing else, by a reader of the words alone.

The reader below knows English word forms and the records on disk (boxes, areas, categories and
attributes). It shares no code, no table and no limit with the generator.
"""

from __future__ import annotations

import json
import pickle
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from refer.shapes import generate
from refer.shapes.vocabulary import HELD_OUT

Thing = dict[str, Any]

COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "white", "black"]
SHAPES = ["circle", "square", "triangle", "star", "cross", "ring", "hexagon", "heart"]
TEXTURE_OF = {
    "plain": "plain", "striped": "striped", "dotted": "dotted", "checked": "checked",
    "stripes": "striped", "dots": "dotted", "checks": "checked",
}  # fmt: skip
GENERIC = ["shape", "thing", "object", "one"]
NUMBERS = {"one": 1, "two": 2, "three": 3, "four": 4, "five": 5, "six": 6}
RELATION = re.compile(
    r"^(?P<head>.+?) (?:to the )?(?P<name>left of|right of|above|below|under|next to|beside) "
    r"(?P<anchor>the .+)$"
)
NEGATION = re.compile(
    r"^(?P<head>.+?) (?:(?:that|which) (?:is|are) not (?:a )?|without )(?P<word>\w+)$"
)
VERTICAL = {"top": "top", "upper": "top", "bottom": "bottom", "lower": "bottom"}
PLACE_AFTER = re.compile(
    r"^(?P<head>.+?) (?:on|at|in) the "
    r"(?P<place>(?:top|bottom|upper|lower)?\s?(?:left|right|middle)?)(?: corner| side| half)?$"
)
PLACE_BEFORE = re.compile(
    r"^(?P<place>(?:(?:top|upper|bottom|lower) )?(?:left|right)|top|upper|bottom|lower|middle) "
    r"(?P<head>.+)$"
)
EXTREME = re.compile(
    r"^(?P<word>leftmost|rightmost|topmost|highest|bottommost|lowest|biggest|largest|smallest"
    r"|big|large|small|little) (?P<head>.+)$"
)


def read(root: Path) -> tuple[dict[int, list[Thing]], dict[int, tuple[int, int]]]:
    """Things by picture, with centre (u, v) in fractions of the picture, and picture sizes."""
    content = json.loads((root / "refshapes/instances.json").read_text())
    names = {category["id"]: category["name"] for category in content["categories"]}
    sizes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    things: dict[int, list[Thing]] = {}
    for annotation in content["annotations"]:
        height, width = sizes[annotation["image_id"]]
        x, y, w, h = annotation["bbox"]
        things.setdefault(annotation["image_id"], []).append(
            {
                "id": annotation["id"],
                "words": {names[annotation["category_id"]], *annotation["attributes"].values()},
                "u": (x + w / 2) / width,
                "v": (y + h / 2) / height,
                "box": (x, y, x + w, y + h),
                "area": annotation["area"],
                "side": min(height, width),
                "aspect": width / height,
            }
        )
    return things, sizes


def understand(text: str, things: list[Thing]) -> list[Thing]:
    """The things a sentence fits; raises AssertionError on words that it cannot make out."""
    text = text.removeprefix("the ")
    if match := RELATION.match(text):
        (anchor,) = understand(match["anchor"], things)
        others = [t for t in understand(match["head"], things) if t is not anchor]
        return [t for t in others if related(match["name"], t, anchor)]
    if match := NEGATION.match(text):
        word = TEXTURE_OF.get(match["word"], match["word"]).removesuffix("s")
        word = {"cros": "cross", "crosse": "cross"}.get(word, word)
        assert word in [*COLOURS, *SHAPES, *TEXTURE_OF]
        return [t for t in understand(match["head"], things) if word not in t["words"]]
    if match := PLACE_AFTER.match(text):
        return [t for t in understand(match["head"], things) if at_place(match["place"], t)]
    if match := EXTREME.match(text):
        return stand_out(match["word"], understand(match["head"], things))
    if match := PLACE_BEFORE.match(text):
        return [t for t in understand(match["head"], things) if at_place(match["place"], t)]
    words = text.replace(" with ", " ").split()
    wanted = {TEXTURE_OF.get(word, word) for word in words if word not in GENERIC}
    assert wanted <= {*COLOURS, *SHAPES, *TEXTURE_OF.values()}, f"cannot read {text!r}"
    return [t for t in things if wanted <= t["words"]]


def at_place(place: str, thing: Thing) -> bool:
    words = {VERTICAL.get(word, word) for word in place.split()}
    assert words
    limit = 0.45 if len(words) == 2 else 0.5
    near = {
        "left": thing["u"] < limit,
        "right": thing["u"] > 1 - limit,
        "top": thing["v"] < limit,
        "bottom": thing["v"] > 1 - limit,
        "middle": max(abs(thing["u"] - 0.5), abs(thing["v"] - 0.5)) < 0.18,
    }
    return all(near[word] for word in words)


def related(name: str, thing: Thing, anchor: Thing) -> bool:
    if name in ("next to", "beside"):
        (a, b, c, d), (e, f, g, h) = thing["box"], anchor["box"]
        gap = max(e - c, a - g, 0) ** 2 + max(f - d, b - h, 0) ** 2
        return gap < (0.11 * thing["side"]) ** 2
    dx, dy = (thing["u"] - anchor["u"]) * thing["aspect"], thing["v"] - anchor["v"]
    along, across = {
        "left of": (-dx, dy),
        "right of": (dx, dy),
        "above": (-dy, dx),
        "below": (dy, dx),
        "under": (dy, dx),
    }[name]
    return along > 0.03 and abs(across) < 2 * along


def stand_out(word: str, among: list[Thing]) -> list[Thing]:
    """The one that stands out; all of them if the second is too close, none of a single one."""
    keys: dict[str, Callable[[Thing], float]] = {
        "leftmost": lambda t: -t["u"],
        "rightmost": lambda t: t["u"],
        "topmost": lambda t: -t["v"],
        "highest": lambda t: -t["v"],
        "bottommost": lambda t: t["v"],
        "lowest": lambda t: t["v"],
    }
    if len(among) < 2:
        return []
    if word in keys:
        first, second = sorted(among, key=keys[word], reverse=True)[:2]
        return [first] if keys[word](first) - keys[word](second) > 0.05 else among
    small = word in ("smallest", "small", "little")
    first, second = sorted(among, key=lambda t: t["area"], reverse=not small)[:2]
    ratio = max(first["area"], second["area"]) / min(first["area"], second["area"])
    return [first] if ratio > 1.25 else among


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("refshapes")
    counts = {"train": 150, "val": 80, "test_a": 80, "test_b": 80}
    generate(root, **counts, seed=11, extras=True, progress=False)
    return root


def test_every_sentence_means_its_target_alone(root: Path) -> None:
    things, _ = read(root)
    kinds: Counter[str] = Counter()
    for ref in pickle.loads((root / "refshapes/refs(unc).p").read_bytes()):
        for sentence in ref["sentences"]:
            meant = understand(sentence["sent"], things[ref["image_id"]])
            assert [t["id"] for t in meant] == [ref["ann_id"]], (sentence, ref["image_id"])
            kinds[sentence["kind"]] += 1
    assert len(kinds) == 8
    assert min(kinds.values()) > 0.02 * kinds.total()
    assert max(kinds.values()) < 0.3 * kinds.total()


def test_kind_is_what_the_words_say(root: Path) -> None:
    for ref in pickle.loads((root / "refshapes/refs(unc).p").read_bytes()):
        for sentence in ref["sentences"]:
            text, kind = sentence["sent"], sentence["kind"]
            has_not = bool(re.search(r"\bnot\b|\bwithout\b", text))
            assert has_not == (kind == "negation")
            has_relation = re.search(r"\bof\b|above|below|under|next to|beside", text)
            assert bool(has_relation) == (kind == "relation")
            has_most = re.search(r"most\b|highest|lowest|biggest|largest|smallest", text)
            assert bool(has_most) == (kind == "superlative")


def test_reader_is_not_gullible(root: Path) -> None:
    """The reader tells wrong sentences from right ones: another picture's sentence seldom fits."""
    things, _ = read(root)
    refs = pickle.loads((root / "refshapes/refs(unc).p").read_bytes())
    fits = 0
    for ref, other in zip(refs, refs[10:], strict=False):
        try:
            meant = understand(other["sentences"][0]["sent"], things[ref["image_id"]])
        except ValueError:  # no anchor, or several
            continue
        fits += [t["id"] for t in meant] == [ref["ann_id"]]
    assert fits < 0.3 * len(refs)


def test_plural_and_empty_expressions(root: Path) -> None:
    things, _ = read(root)
    entries = json.loads((root / "grefcoco/grefs(unc).json").read_text())
    records = json.loads((root / "refshapes/instances.json").read_text())
    copy = json.loads((root / "grefcoco/instances.json").read_text())
    assert copy["annotations"] == records["annotations"]
    seen: Counter[str] = Counter()
    mixed = 0
    for entry in entries:
        kind = entry["sentences"][0]["kind"]
        seen[kind] += 1
        scene = things[entry["image_id"]]
        text = entry["sentences"][0]["sent"]
        assert len(entry["ann_id"]) == len(entry["category_id"])
        if kind == "none":
            assert entry["ann_id"] == entry["category_id"] == [-1]
            assert understand(text, scene) == []
        elif kind == "plural":
            opening = re.match(r"^(?:all |both |the )*(one|two|three|four|five|six)? ?", text)
            assert opening
            members = sorted(entry["ann_id"])
            assert len(members) >= 2
            assert opening[1] is None or NUMBERS[opening[1]] == len(members)
            assert not text.startswith("both") or len(members) == 2
            rest = re.sub(
                r"\b(circle|square|triangle|star|ring|hexagon|heart|shape|thing|object)s\b|crosses",
                lambda match: match[1] or "cross",
                text[opening.end() :],
            )
            assert sorted(t["id"] for t in understand(rest, scene)) == members, text
            if entry["split"] == "testB":  # one of them is of a held-out pair, at least
                own = [thing["words"] for thing in scene if thing["id"] in members]
                held_out = sum(any({*pair} <= words for pair in HELD_OUT) for words in own)
                assert held_out
                mixed += held_out < len(own)
        else:
            assert len(entry["ann_id"]) == 1
    assert min(seen["none"], seen["plural"]) > 250
    assert mixed
    ids = [entry["ref_id"] for entry in entries]
    sent_ids = [i for entry in entries for i in entry["sent_ids"]]
    assert len(set(ids)) == len(ids)
    assert len(set(sent_ids)) == len(sent_ids)


def test_phrases_captions_and_labels(root: Path) -> None:
    things, _ = read(root)
    content = json.loads((root / "refshapes/instances.json").read_text())
    files = {image["id"]: image["file_name"] for image in content["images"]}
    phrases = json.loads((root / "refshapes/phrases.json").read_text())
    assert {record["image_id"] for record in phrases} == set(files)
    for record in phrases:
        scene = {t["id"]: t for t in things[record["image_id"]]}
        named: list[int] = []
        for phrase in record["phrases"]:
            assert record["caption"][phrase["start"] : phrase["end"]] == phrase["phrase"]
            assert phrase["boxes"] == [list(scene[i]["box"]) for i in phrase["ann_ids"]]
            for index in phrase["ann_ids"]:
                colour, shape = phrase["phrase"].split()[-2:]
                shape = "cross" if shape.startswith("cross") else shape.removesuffix("s")
                assert {colour, shape} <= scene[index]["words"]
            named += phrase["ann_ids"]
        assert sorted(named) == sorted(scene)
    captions = json.loads((root / "refshapes/captions.json").read_text())
    splits = {image["id"]: image["split"] for image in captions["images"]}
    texts: dict[int, list[str]] = {}
    for caption in captions["annotations"]:
        texts.setdefault(caption["image_id"], []).append(caption["caption"])
    assert texts.keys() == files.keys()
    assert all(len(set(own)) == len(own) <= 8 for own in texts.values())
    assert sum(map(len, texts.values())) > 6 * len(files)
    wholes = {record["image_id"]: record["caption"] for record in phrases}
    assert {image_id: own[0] for image_id, own in texts.items()} == wholes
    refs = pickle.loads((root / "refshapes/refs(unc).p").read_bytes())
    assert splits == {ref["image_id"]: ref["split"] for ref in refs}
    held_out = {" ".join(pair) for pair in HELD_OUT}
    for caption in captions["annotations"]:
        assert caption["split"] == splits[caption["image_id"]]
        if caption["split"] == "train":
            assert not any(pair in caption["caption"] for pair in held_out)
    by_image: dict[int, list[dict[str, Any]]] = {}
    for annotation in content["annotations"]:
        by_image.setdefault(annotation["image_id"], []).append(annotation)
    for image_id, members in list(by_image.items())[:50]:
        path = root / "refshapes/labels" / files[image_id].replace(".jpg", ".png")
        with Image.open(path) as opened:
            assert opened.mode == "L"
            labels = np.array(opened)
        expected = np.zeros_like(labels)
        for annotation in members:
            mask = coco_mask.decode(annotation["segmentation"][0]).astype(bool)
            expected[mask] = annotation["category_id"]
        assert np.array_equal(labels, expected)
