"""Torch data sets and collates: refs (training), pictures (evaluation), captions with phrases."""

from __future__ import annotations

from refer.datasets.collate import collate_phrases, collate_pictures, collate_refs
from refer.datasets.mixed import MixedRefs
from refer.datasets.phrases import PhraseDataset
from refer.datasets.pictures import PictureDataset
from refer.datasets.refs import RefDataset
from refer.sentences import Sentence, SentenceMode

__all__ = [
    "MixedRefs",
    "PhraseDataset",
    "PictureDataset",
    "RefDataset",
    "Sentence",
    "SentenceMode",
    "collate_phrases",
    "collate_pictures",
    "collate_refs",
]
