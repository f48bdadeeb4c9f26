"""RefShapes: a generated, self-contained referring-segmentation data set in REFER layout."""

from __future__ import annotations

from refer.shapes.sheet import sheet
from refer.shapes.vocabulary import VOCABULARY
from refer.shapes.writing import generate

__all__ = ["VOCABULARY", "generate", "sheet"]
