"""Choose what to say: unambiguous, mostly minimal descriptions, spread over the kinds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import TypeVar

from refer.shapes.language import Description, Facts, Tail, refers_to
from refer.shapes.scene import Rng
from refer.shapes.vocabulary import (
    EXTREME_WORDS,
    HELD_OUT,
    PLACE_AFTER,
    RELATION_WORDS,
    SIZE_WORDS,
)

_T = TypeVar("_T")

# Set by trial: what people say most (look, then place) comes most, and no kind is rare, though
# some are possible in few scenes and some in almost all.
_KIND_WEIGHTS = {
    "shape": 0.4,
    "colour": 3.0,
    "texture": 0.6,
    "size": 1.4,
    "place": 1.8,
    "superlative": 0.8,
    "relation": 0.5,
    "negation": 0.3,
}
_REDUNDANT = 0.5  # how often one word more than needed is said, as people do
_NAMED = 0.75  # how often the shape is said though "thing" would do


def describe(
    target: int, facts: Facts, rng: Rng, count: int, held_out_allowed: bool
) -> list[Description]:
    """Up to ``count`` descriptions of a thing, of different kinds; empty when there is none."""
    minimal, redundant = _all_descriptions(target, facts)
    by_kind: dict[str, list[Description]] = {}
    for description in minimal:
        if held_out_allowed or not mentions_held_out(description):
            by_kind.setdefault(description.kind, []).append(description)
    chosen: list[Description] = []
    while by_kind and len(chosen) < count:
        kinds = list(by_kind)
        weights = [_KIND_WEIGHTS[kind] for kind in kinds]
        options = by_kind.pop(_draw(kinds, weights, rng))
        description = _draw(options, [3.0 if option.shape else 1.0 for option in options], rng)
        wordier = [
            other
            for other in redundant.get(description.tail, ())
            if other.kind == description.kind and (held_out_allowed or not mentions_held_out(other))
        ]
        chosen.append(_add_words(description, wordier, rng))
    return chosen


def _draw(options: list[_T], weights: list[float], rng: Rng) -> _T:
    return options[int(rng.choice(len(options), p=[w / sum(weights) for w in weights]))]


def _add_words(description: Description, wordier: list[Description], rng: Rng) -> Description:
    """Perhaps the shape, perhaps one attribute more, as long as it stays unambiguous."""
    for must_name, chance in ((True, _NAMED), (False, _REDUNDANT)):
        more = [
            other
            for other in wordier
            if other.attributes > description.attributes
            and len(other.attributes) == len(description.attributes) + 1
            and (other.shape is not None or not must_name)
        ]
        done = must_name and description.shape is not None
        if more and rng.random() < chance and not done:
            description = more[rng.integers(len(more))]
    return description


def mentions_held_out(description: Description) -> bool:
    """Whether a held-out colour and shape stand together, also as anchor or under a negation."""
    tail = description.tail
    if tail and tail.anchor and mentions_held_out(tail.anchor):
        return True
    words = set(description.attributes)
    if tail and tail.kind == "negation":
        words.add(tail.value)
    return any({colour, shape} <= words for colour, shape in HELD_OUT)


def _all_descriptions(
    target: int, facts: Facts
) -> tuple[list[Description], dict[Tail | None, list[Description]]]:
    """Minimal descriptions of a thing, and the rest of the unambiguous ones by their tail.

    Minimal: neither dropping an attribute nor dropping the tail leaves it unambiguous.
    """
    bare = list(attribute_sets(target, facts))
    alone = {d.attributes for d in bare if d.attributes and refers_to(d, facts) == target}
    minimal: list[Description] = []
    rest: dict[Tail | None, list[Description]] = {}
    for tail in (None, *_tails(target, facts)):
        found: list[frozenset[str]] = []
        for description in bare:  # from few attributes to many
            words = description.attributes
            if (tail is None) != (words in alone) or not (words or tail):
                continue
            full = description.with_tail(tail)
            if refers_to(full, facts) != target:
                continue
            if any(smaller <= words for smaller in found):
                rest.setdefault(tail, []).append(full)
            else:
                found.append(words)
                minimal.append(full)
    return minimal, rest


def attribute_sets(index: int, facts: Facts) -> Iterator[Description]:
    """The eight ways to mention colour, texture and shape of a thing or not, shortest first."""
    colour, texture, shape = facts.looks[index]
    ways = sorted(product((False, True), repeat=3), key=sum)
    for with_colour, with_texture, with_shape in ways:
        yield Description(
            colour if with_colour else None,
            texture if with_texture else None,
            shape if with_shape else None,
        )


def _tails(target: int, facts: Facts) -> Iterator[Tail]:
    for size in SIZE_WORDS:
        yield Tail("size", size)
    for place in PLACE_AFTER:
        yield Tail("place", place)
    for extreme in EXTREME_WORDS:
        yield Tail("superlative", extreme)
    for word in sorted(facts.words):
        if word not in facts.looks[target]:
            yield Tail("negation", word)
    for anchor in range(facts.count):
        if anchor == target:
            continue
        related = [n for n in RELATION_WORDS if facts.relation(n, anchor)[0] >> target & 1]
        for description in _anchor_descriptions(anchor, facts) if related else ():
            for name in related:
                yield Tail("relation", name, description)


def _anchor_descriptions(anchor: int, facts: Facts) -> list[Description]:
    """The shortest unambiguous ways to name an anchor that include its shape or its colour."""
    named = [d for d in attribute_sets(anchor, facts) if (d.shape or d.colour)]
    clear = [d for d in named if refers_to(d, facts) == anchor]
    least = min((len(d.attributes) for d in clear), default=0)
    return [d for d in clear if len(d.attributes) == least]
