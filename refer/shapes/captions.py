"""Captions of pictures: one that names everything, with its phrases, and some about parts."""

from __future__ import annotations

from dataclasses import dataclass

from refer.shapes.drawing import Thing
from refer.shapes.language import Facts
from refer.shapes.referring import describe
from refer.shapes.scene import Rng, Scene
from refer.shapes.vocabulary import NUMBER_WORDS, PLACE_AFTER, RELATION_WORDS, plural
from refer.shapes.wording import say

_BACKGROUNDS = {
    "gradient": "smooth",
    "noise": "cloudy",
    "two-tone": "two tone",
    "stripes": "striped",
}
# The most telling place first.
_PLACES = ("top left", "top right", "bottom left", "bottom right", "middle", "left", "right", "top")


@dataclass(frozen=True)
class Caption:
    """A sentence and its phrases as (first character, character after the last, things meant)."""

    text: str
    spans: list[tuple[int, int, list[int]]]


def full_caption(scene: Scene) -> Caption:
    """Names every thing, from left to right; like colour and shape are counted together."""
    facts = Facts(scene)
    groups: dict[tuple[str, str], list[int]] = {}
    for index in sorted(range(facts.count), key=lambda i: facts.u[i]):
        colour, _, shape = facts.looks[index]
        groups.setdefault((colour, shape), []).append(index)
    text = ""
    spans = []
    for number, members in enumerate(groups.values()):
        if number:
            text += " and " if number == len(groups) - 1 else ", "
        phrase = _phrase([scene.things[index] for index in members])
        spans.append((len(text), len(text) + len(phrase), members))
        text += phrase
    return Caption(f"{text} on a {_BACKGROUNDS[scene.background.kind]} background", spans)


def place_caption(scene: Scene, rng: Rng) -> str:
    """Tells where one to three things are, by their place or by a neighbour."""
    facts = Facts(scene)
    order = [int(index) for index in rng.permutation(facts.count)]
    pairs = [
        (a, name, b)
        for a in order
        for b in order
        for name in RELATION_WORDS
        if a != b and facts.relation(name, b)[0] >> a & 1
    ]
    if pairs and rng.random() < 0.5:
        a, name, b = pairs[rng.integers(len(pairs))]
        words = RELATION_WORDS[name][-1]
        return f"{_phrase([scene.things[a]])} {words} {_phrase([scene.things[b]])}"
    parts = []
    for index in order[: int(rng.integers(1, 4))]:
        sure = [name for name in _PLACES if facts.place(name)[0] >> index & 1]
        where = f" {PLACE_AFTER[sure[0]][0]}" if sure else ""
        parts.append(_phrase([scene.things[index]]) + where)
    return ", ".join(parts)


def detail_caption(scene: Scene, rng: Rng, held_out_allowed: bool) -> str:
    """Tells of one to three things, each in words that fit nothing else in the picture.

    Empty when nothing can be told apart.
    """
    facts = Facts(scene)
    parts: list[str] = []
    wanted = int(rng.integers(1, 4))
    for index in rng.permutation(facts.count):
        if len(parts) < wanted:
            found = describe(int(index), facts, rng, 1, held_out_allowed)
            parts += [say(description, rng) for description in found]
    return " and ".join(parts)


def _phrase(things: list[Thing]) -> str:
    """ "a striped red star", "two red circles": one thing, or several of like colour and shape."""
    textures = {thing.texture for thing in things}
    words = [texture for texture in textures if len(textures) == 1 and texture != "plain"]
    words.append(things[0].colour)
    if len(things) > 1:
        return " ".join([NUMBER_WORDS[len(things) - 1], *words, plural(things[0].shape)])
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article, *words, things[0].shape])
