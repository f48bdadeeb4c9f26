"""Torch data sets over REFER: one item a ref (training) or a picture (evaluation), and collates."""

from __future__ import annotations

from refer.datasets.collate import collate_pictures, collate_refs
from refer.datasets.mixed import MixedRefs
from refer.datasets.pictures import PictureDataset
from refer.datasets.refs import RefDataset
from refer.sentences import Sentence, SentenceMode

__all__ = [
    "MixedRefs",
    "PictureDataset",
    "RefDataset",
    "Sentence",
    "SentenceMode",
    "collate_pictures",
    "collate_refs",
]
