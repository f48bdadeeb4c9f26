"""Scores: model-free, streaming, mergeable, and able to be made again from saved records."""

from __future__ import annotations

from refer.evaluation.grounding import GroundingEvaluator
from refer.evaluation.grounding_records import load_predictions, save_predictions
from refer.evaluation.grounding_scores import (
    GROUNDING_PROTOCOLS,
    GroundingProtocol,
    find_grounding_protocol,
)
from refer.evaluation.grounding_table import grounding_table
from refer.evaluation.protocol import PROTOCOLS, EvaluationError, ResProtocol, find_protocol
from refer.evaluation.records import RecordFile, load_records, save_records
from refer.evaluation.res import ResEvaluator
from refer.evaluation.rescore import rescore, score_file
from refer.evaluation.scores import ItemRecord, score
from refer.evaluation.table import scored_line, table

__all__ = [
    "GROUNDING_PROTOCOLS",
    "PROTOCOLS",
    "EvaluationError",
    "GroundingEvaluator",
    "GroundingProtocol",
    "ItemRecord",
    "RecordFile",
    "ResEvaluator",
    "ResProtocol",
    "find_grounding_protocol",
    "find_protocol",
    "grounding_table",
    "load_predictions",
    "load_records",
    "rescore",
    "save_predictions",
    "save_records",
    "score",
    "score_file",
    "scored_line",
    "table",
]
