"""What RefShapes can show and say: shapes, colours, textures, splits, words."""

from __future__ import annotations

SHAPES: tuple[str, ...] = (
    "circle",
    "square",
    "triangle",
    "star",
    "cross",
    "ring",
    "hexagon",
    "heart",
)
CATEGORY_IDS: dict[str, int] = {name: number for number, name in enumerate(SHAPES, start=1)}

# RGB, 0 to 255. Backgrounds are muted mid tones, so white and black stand out as well as the rest.
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (214, 38, 40),
    "orange": (246, 138, 18),
    "yellow": (250, 222, 45),
    "green": (38, 160, 68),
    "blue": (38, 88, 218),
    "purple": (142, 52, 178),
    "white": (244, 244, 244),
    "black": (24, 24, 27),
}

TEXTURES: tuple[str, ...] = ("plain", "striped", "dotted", "checked")
# "a star with stripes"; a plain thing has no such form.
TEXTURE_NOUNS: dict[str, str] = {"striped": "stripes", "dotted": "dots", "checked": "checks"}

# Colour-shape pairs shown in testB only. Each colour and each shape is held out once, so that both
# are seen in training with seven other partners.
HELD_OUT: frozenset[tuple[str, str]] = frozenset(
    {
        ("red", "star"),
        ("orange", "ring"),
        ("yellow", "heart"),
        ("green", "square"),
        ("blue", "triangle"),
        ("purple", "hexagon"),
        ("white", "cross"),
        ("black", "circle"),
    }
)

# The number is part of every random seed and of every id: never renumber.
SPLITS: dict[str, int] = {"train": 1, "val": 2, "testA": 3, "testB": 4}
TEST_A_SHAPE = "circle"

KINDS: tuple[str, ...] = (
    "shape",
    "colour",
    "texture",
    "size",
    "place",
    "superlative",
    "relation",
    "negation",
)

GENERIC_NOUNS: tuple[str, ...] = ("shape", "thing", "object")
SIZE_WORDS: dict[str, tuple[str, ...]] = {"big": ("big", "large"), "small": ("small", "little")}
EXTREME_WORDS: dict[str, tuple[str, ...]] = {
    "leftmost": ("leftmost",),
    "rightmost": ("rightmost",),
    "topmost": ("topmost", "highest"),
    "bottommost": ("bottommost", "lowest"),
    "biggest": ("biggest", "largest"),
    "smallest": ("smallest",),
}
# Every place has forms before the noun and forms after it.
PLACE_BEFORE: dict[str, tuple[str, ...]] = {
    "left": ("left",),
    "right": ("right",),
    "top": ("top", "upper"),
    "bottom": ("bottom", "lower"),
    "middle": ("middle",),
    "top left": ("top left", "upper left"),
    "top right": ("top right", "upper right"),
    "bottom left": ("bottom left", "lower left"),
    "bottom right": ("bottom right", "lower right"),
}
PLACE_AFTER: dict[str, tuple[str, ...]] = {
    "left": ("on the left", "on the left side"),
    "right": ("on the right", "on the right side"),
    "top": ("at the top", "in the upper half"),
    "bottom": ("at the bottom", "in the lower half"),
    "middle": ("in the middle",),
    "top left": ("in the top left corner", "at the top left"),
    "top right": ("in the top right corner", "at the top right"),
    "bottom left": ("in the bottom left corner", "at the bottom left"),
    "bottom right": ("in the bottom right corner", "at the bottom right"),
}
RELATION_WORDS: dict[str, tuple[str, ...]] = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below", "under"),
    "next to": ("next to", "beside"),
}
NUMBER_WORDS: tuple[str, ...] = ("one", "two", "three", "four", "five", "six")
_FUNCTION_WORDS = (
    "the",
    "a",
    "all",
    "both",
    "that",
    "which",
    "is",
    "are",
    "not",
    "with",
    "without",
)
BACKGROUNDS: tuple[str, ...] = ("gradient", "noise", "two-tone", "stripes")


def plural(noun: str) -> str:
    """Plural of one of the nouns of this file."""
    return noun + ("es" if noun == "cross" else "s")


def _vocabulary() -> tuple[str, ...]:
    tables = (SIZE_WORDS, EXTREME_WORDS, PLACE_BEFORE, PLACE_AFTER, RELATION_WORDS)
    phrases = [phrase for table in tables for forms in table.values() for phrase in forms]
    nouns = [*SHAPES, *GENERIC_NOUNS]
    words = {word for phrase in phrases for word in phrase.split()}
    words.update(nouns, map(plural, nouns), COLOURS, TEXTURES, TEXTURE_NOUNS.values())
    words.update(NUMBER_WORDS, _FUNCTION_WORDS)
    return tuple(sorted(words))


VOCABULARY: tuple[str, ...] = _vocabulary()
"""Every word a ref's sentence may hold, also in the extras; captions know a few more."""

MAX_WORDS = 18
