"""Predicted boxes as a JSON-lines file, so that scores can be had again without a model.

The first line is a header: format, version, protocol, n_items, n_duplicates, and what the run says
of itself (data set, split, data_hash, model id, ...). Then one line a phrase: id, phrase, types,
boxes (best first) and truth, xyxy.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from refer.errors import DataFileError
from refer.evaluation.grounding import GroundingEvaluator
from refer.evaluation.grounding_scores import Box, GroundingProtocol
from refer.evaluation.protocol import EvaluationError
from refer.files import read_file, written_beside

FORMAT = "grounding-predictions"
VERSION = 1


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    id: str
    phrase: int
    types: list[str]
    boxes: list[Box]
    truth: list[Box]


def save_predictions(
    path: str | Path, evaluator: GroundingEvaluator, header: Mapping[str, Any]
) -> None:
    """Write an evaluator's phrases with a header of JSON values; whole or not at all.

    Raises EvaluationError if `header` has an entry that this function sets itself.
    """
    own = {
        "format": FORMAT,
        "version": VERSION,
        "protocol": evaluator.protocol.describe(),
        "n_items": len(evaluator),
        "n_duplicates": evaluator.duplicates,
    }
    if taken := sorted(own.keys() & header.keys()):
        raise EvaluationError(f"header entries {', '.join(taken)} are set by save_predictions")
    with written_beside(Path(path)) as file:
        file.write(json.dumps({**own, **header}, allow_nan=False) + "\n")
        for item in evaluator.items:
            line = _Line(
                item.expression,
                item.phrase,
                list(item.types),
                list(item.boxes),
                list(item.truth),
            )
            file.write(msgspec.json.encode(line).decode() + "\n")


def load_predictions(
    path: str | Path, protocol: GroundingProtocol | None = None
) -> tuple[GroundingEvaluator, dict[str, Any]]:
    """The evaluator and the header that `save_predictions` wrote.

    `protocol` scores the same boxes otherwise than the file's own.

    Raises MissingDataError if there is no such file; DataFileError, naming file and line, if it is
    no file of predictions, is cut off, or holds a phrase twice.
    """
    path = Path(path)
    lines = read_file(path, f"no predictions {path}; a test run writes them").splitlines()
    decoder = msgspec.json.Decoder(_Line)
    number = 1  # of the line that an error is about
    try:
        header = msgspec.json.decode(lines[0] if lines else b"", type=dict[str, Any])
        found = {name: header.get(name) for name in ("format", "version")}
        if found != {"format": FORMAT, "version": VERSION}:
            raise ValueError(f"the header must say {FORMAT!r}, version {VERSION}; it has {found}")
        if not isinstance(header.get("protocol"), dict):
            raise ValueError(f"the header's protocol is {header.get('protocol')!r}")
        own = GroundingProtocol.from_description(header["protocol"])
        evaluator = GroundingEvaluator(protocol or own)
        for line in lines[1:]:
            number += 1
            row = decoder.decode(line)
            evaluator.update(row.id, row.boxes, row.truth, phrase=row.phrase, types=row.types)
            if evaluator.duplicates:
                raise ValueError(f"phrase {row.phrase} of {row.id!r} comes a second time")
        if len(evaluator) != header.get("n_items"):
            raise ValueError(
                f"the file ends after {len(evaluator)} of {header.get('n_items')} phrases; it was "
                "cut off, copy it again"
            )
        again = header.get("n_duplicates")
        if type(again) is not int or again < 0:
            raise ValueError(f"n_duplicates is {again!r}; want an int from 0 on")
        evaluator.duplicates = again
    except (
        ValueError,
        RecursionError,
    ) as error:  # msgspec's and this package's too
        raise DataFileError(f"{path}, line {number}: {error}") from error
    return evaluator, header
