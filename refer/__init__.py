"""Referring-expression data and scores: readers, indexes, data sets, evaluators."""

from __future__ import annotations

from refer.api import REFER
from refer.errors import (
    DataFileError,
    MissingDataError,
    PictureError,
    ReferError,
    UnknownIdError,
    UnknownNameError,
)

__all__ = [
    "REFER",
    "DataFileError",
    "MissingDataError",
    "PictureError",
    "ReferError",
    "UnknownIdError",
    "UnknownNameError",
]
