"""Options that take one of a few words, and their check."""

from __future__ import annotations

from typing import Any, Literal, get_args

from refer.errors import UnknownNameError

# What ground truth is where parts of an outline overlap; `refer.masks` also knows their sum, which
# is no mask of 0 and 1.
OverlapRule = Literal["union", "drop"]
# Where outlines are drawn: at the picture's 'original' size, the mask being resized then (VPD), or,
# their corners moved, at the network's 'input' size (ReLA).
DrawnAt = Literal["original", "input"]


def check_option(name: str, value: Any, allowed: Any) -> None:
    """Raise UnknownNameError, which lists the choices, unless `value` is one of a Literal type."""
    if value not in get_args(allowed):
        raise UnknownNameError(f"{name} is {value!r}; want one of {', '.join(get_args(allowed))}")
