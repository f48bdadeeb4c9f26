"""One file a format. Readers turn a file into plain Python containers and trust nothing in it."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused_gc() -> Iterator[None]:
    """Hold Python's cycle collector while very many containers are built, then restore it.

    None of the containers that readers build can be garbage yet, but the collector would walk all
    of them again and again: on a file of RefCOCO's size that costs more than reading it.
    """
    if not gc.isenabled():
        yield  # someone further out holds it, or the user wants none
        return
    gc.disable()
    try:
        yield
    finally:
        if not gc.get_freeze_count():
            # Freezing and thawing moves all objects to the oldest generation without a walk, so
            # that the first collections to come do not take them for short-lived ones.
            gc.freeze()
            gc.unfreeze()
        gc.enable()
