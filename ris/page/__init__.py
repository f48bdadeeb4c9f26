"""A test run as one HTML page that needs no other file."""

from __future__ import annotations

from ris.page.build import write

__all__ = ["write"]
