"""Expressions for several things or for none, as in gRefCOCO."""

from __future__ import annotations

from typing import TypeVar

from refer.shapes.language import Description, Facts, Tail, meaning
from refer.shapes.records import Page, Record, annotation_id
from refer.shapes.referring import attribute_sets, mentions_held_out
from refer.shapes.scene import Rng
from refer.shapes.vocabulary import (
    CATEGORY_IDS,
    COLOURS,
    HELD_OUT,
    NUMBER_WORDS,
    PLACE_AFTER,
    SHAPES,
    TEST_A_SHAPE,
    TEXTURE_NOUNS,
    TEXTURES,
    plural,
)
from refer.shapes.wording import say

_T = TypeVar("_T")

_PLURALS, _EMPTY = 2, 1  # at most, a picture
_FIRST_PLURAL, _FIRST_EMPTY = 4, 7  # last digit of the ref id; single refs have 0 to 2


def group_refs(page: Page, rng: Rng) -> list[Record]:
    """gRefCOCO entries of one picture: its single refs, plural refs and no-target refs.

    ``ann_id`` and ``category_id`` are lists; [-1] means no target. Every thing that a plural
    expression fits is listed. The split's rule on held-out pairs holds for these as well.
    """
    facts = Facts(page.scene)
    singles = [
        {**ref, "ann_id": [ref["ann_id"]], "category_id": [ref["category_id"]]} for ref in page.refs
    ]
    plurals = _shuffled(_plurals(facts, page), rng)[:_PLURALS]
    empties = _shuffled(_empties(facts, page), rng)[:_EMPTY]
    return [
        *singles,
        *(
            _entry(page, _FIRST_PLURAL + i, members, _say_plural(description, len(members), rng))
            for i, (description, members) in enumerate(plurals)
        ),
        *(
            _entry(page, _FIRST_EMPTY + i, [], say(description, rng))
            for i, description in enumerate(empties)
        ),
    ]


def _shuffled(items: list[_T], rng: Rng) -> list[_T]:
    return [items[i] for i in rng.permutation(len(items))]


def _allowed(description: Description, page: Page) -> bool:
    return page.split == "testB" or not mentions_held_out(description)


def _plurals(facts: Facts, page: Page) -> list[tuple[Description, list[int]]]:
    """Every description that surely means at least two things, each set of things once,
    by its shape where there is one."""
    bare = {d: None for index in range(facts.count) for d in attribute_sets(index, facts)}
    tails: list[Tail | None] = [None]
    tails += [Tail("place", place) for place in PLACE_AFTER]
    tails += [Tail("negation", word) for word in sorted(facts.words)]
    found: dict[int, Description] = {}
    for description in (d.with_tail(tail) for tail in tails for d in bare):
        sure, possible = meaning(description, facts)
        members = facts.members(sure)
        if (
            len(members) >= 2
            and sure == possible
            and (sure not in found or (description.shape and not found[sure].shape))
            and not _idle(description, sure, facts)
            and _allowed(description, page)
            and _split_rule(page, members)
        ):
            found[sure] = description
    return [(description, facts.members(sure)) for sure, description in found.items()]


def _idle(description: Description, sure: int, facts: Facts) -> bool:
    """Whether it says nothing ("the things"), or its tail ("the red circles that are not blue")."""
    if description.tail is None:
        return not description.attributes
    return meaning(description.with_tail(None), facts)[0] == sure


def _split_rule(page: Page, members: list[int]) -> bool:
    things = [page.scene.things[index] for index in members]
    if page.split == "testA":
        return all(thing.shape == TEST_A_SHAPE for thing in things)
    if page.split == "testB":
        return any((thing.colour, thing.shape) in HELD_OUT for thing in things)
    return True


def _empties(facts: Facts, page: Page) -> list[Description]:
    """Near misses: one attribute of a thing changed, or the wrong place, so that nothing fits."""
    found: dict[Description, None] = {}
    for index in range(facts.count):
        colour, _, shape = facts.looks[index]
        changed = [Description(other, None, shape) for other in COLOURS]
        changed += [Description(colour, None, other) for other in SHAPES]
        changed += [Description(None, other, shape) for other in TEXTURES]
        changed += [Description(colour, None, shape, Tail("place", p)) for p in PLACE_AFTER]
        for description in changed:
            if meaning(description, facts)[1] == 0 and _allowed(description, page):
                found[description] = None
    return list(found)


def _say_plural(description: Description, count: int, rng: Rng) -> str:
    number = NUMBER_WORDS[count - 1]
    openings = ["all", f"the {number}", "the", "both" if count == 2 else f"all {number}"]
    opening = openings[rng.integers(len(openings))]
    words = [word for word in (description.texture, description.colour) if word]
    noun = plural(description.shape or ("shape", "thing", "object")[rng.integers(3)])
    tail = description.tail
    after: tuple[str, ...] = ()
    if tail and tail.kind == "place":
        after = (PLACE_AFTER[tail.value][0],)
    elif tail and tail.value in TEXTURE_NOUNS:
        after = ("without", TEXTURE_NOUNS[tail.value])
    elif tail:
        after = ("that are not", plural(tail.value) if tail.value in SHAPES else tail.value)
    return " ".join([opening, *words, noun, *after])


def _entry(page: Page, position: int, members: list[int], text: str) -> Record:
    image_id = page.image["id"]
    ref_id = image_id * 10 + position
    things = page.scene.things
    sentence = {"raw": text, "sent": text, "sent_id": ref_id * 4, "tokens": text.split()}
    return {
        "ref_id": ref_id,
        "ann_id": [annotation_id(image_id, index) for index in members] or [-1],
        "category_id": [CATEGORY_IDS[things[index].shape] for index in members] or [-1],
        "image_id": image_id,
        "file_name": page.image["file_name"],
        "split": page.split,
        "sent_ids": [ref_id * 4],
        "sentences": [{**sentence, "kind": "plural" if members else "none"}],
    }
