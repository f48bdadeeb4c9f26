"""Sizes of pictures that a model takes."""

from __future__ import annotations

from typing import Any

from ris.errors import OptionError

# Pixels of a side. Self-attention's work grows with the fourth power of it: nobody has waited for
# more, and a slip of the hand should not ask for all memory.
LARGEST = 8192


def image_size(value: Any) -> int | tuple[int, int]:
    """The side of the square that pictures are squashed to, or (height, width); a list, as --set
    and JSON have it, becomes a tuple.

    Raises OptionError for anything but a multiple of 64 up to 8192, or two of them.
    """
    pair = isinstance(value, (list, tuple))
    sides = tuple(value) if pair else (value,)
    fits = all(is_whole(side) and 64 <= side <= LARGEST and side % 64 == 0 for side in sides)
    if not fits or len(sides) != (2 if pair else 1):
        raise OptionError(
            f"image size {value!r} must be a multiple of 64, from 64 to {LARGEST}, or two of them: "
            "[height, width]"
        )
    return (sides[0], sides[1]) if pair else sides[0]


def is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
