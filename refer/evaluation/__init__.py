"""Scores: model-free, streaming, mergeable, and able to be made again from saved records."""

from __future__ import annotations

from refer.evaluation.protocol import PROTOCOLS, EvaluationError, ResProtocol, find_protocol
from refer.evaluation.records import RecordFile, load_records, save_records
from refer.evaluation.res import ResEvaluator
from refer.evaluation.rescore import rescore, score_file
from refer.evaluation.scores import ItemRecord, score
from refer.evaluation.table import table

__all__ = [
    "PROTOCOLS",
    "EvaluationError",
    "ItemRecord",
    "RecordFile",
    "ResEvaluator",
    "ResProtocol",
    "find_protocol",
    "load_records",
    "rescore",
    "save_records",
    "score",
    "score_file",
    "table",
]
