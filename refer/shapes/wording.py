"""Put a description into English words, with the variety people show."""

from __future__ import annotations

from refer.shapes.language import Description, Tail
from refer.shapes.scene import Rng
from refer.shapes.vocabulary import (
    EXTREME_WORDS,
    GENERIC_NOUNS,
    PLACE_AFTER,
    PLACE_BEFORE,
    RELATION_WORDS,
    SHAPES,
    SIZE_WORDS,
    TEXTURE_NOUNS,
)


def say(description: Description, rng: Rng, article: bool | None = None) -> str:
    """One sentence, lower-case words parted by single spaces.

    ``article``: whether it starts with "the"; None leaves it to chance.
    """
    if article is None:
        article = bool(rng.random() < 0.5)
    before, after = _tail_words(description.tail, rng)
    adjectives, noun_tail = _adjectives(description, rng)
    noun = description.shape or _generic_noun(rng, bool(before or adjectives))
    words = ["the"] if article else []
    return " ".join([*words, *before, *adjectives, noun, *noun_tail, *after])


def _generic_noun(rng: Rng, has_adjective: bool) -> str:
    if has_adjective and rng.random() < 0.35:
        return "one"
    return _pick(GENERIC_NOUNS, rng)


def _adjectives(description: Description, rng: Rng) -> tuple[list[str], list[str]]:
    """Words of texture and colour before the noun, and a texture said after it."""
    texture, colour = description.texture, description.colour
    adjectives = [colour] if colour else []
    if texture is None:
        return adjectives, []
    # "the ring with dots without ..." is clumsy: texture goes before the noun if more follows it.
    loose = description.tail is None or description.tail.kind in ("size", "superlative")
    if loose and texture in TEXTURE_NOUNS and rng.random() < 0.35:
        return adjectives, ["with", TEXTURE_NOUNS[texture]]
    adjectives.insert(0 if rng.random() < 0.85 else len(adjectives), texture)
    return adjectives, []


def _tail_words(tail: Tail | None, rng: Rng) -> tuple[list[str], list[str]]:
    if tail is None:
        return [], []
    if tail.kind == "size":
        return [_pick(SIZE_WORDS[tail.value], rng)], []
    if tail.kind == "superlative":
        return [_pick(EXTREME_WORDS[tail.value], rng)], []
    if tail.kind == "place":
        if rng.random() < 0.4:
            return _pick(PLACE_BEFORE[tail.value], rng).split(), []
        return [], _pick(PLACE_AFTER[tail.value], rng).split()
    if tail.kind == "negation":
        return [], _negation(tail.value, rng)
    if tail.anchor is None:
        raise ValueError(f"the relation {tail.value!r} needs an anchor")
    return [], [*_pick(RELATION_WORDS[tail.value], rng).split(), say(tail.anchor, rng, True)]


def _negation(word: str, rng: Rng) -> list[str]:
    if word in TEXTURE_NOUNS and rng.random() < 0.5:
        return ["without", TEXTURE_NOUNS[word]]
    relative = "that" if rng.random() < 0.75 else "which"
    return [relative, "is", "not", *(["a"] if word in SHAPES else []), word]


def _pick(options: tuple[str, ...], rng: Rng) -> str:
    return options[rng.integers(len(options))]
