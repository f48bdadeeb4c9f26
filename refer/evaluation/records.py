"""Per-item records as a JSON-lines file: a header line, then one line an item."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from refer.errors import DataFileError
from refer.evaluation.protocol import EvaluationError, ResProtocol
from refer.evaluation.scores import ItemRecord
from refer.files import read_file, written_beside

FORMAT = "res-records"
VERSION = 1
_OWN = {"format": FORMAT, "version": VERSION}
_NUMBERS = ItemRecord._fields[:8]
_MOST = 2**63


@dataclass(frozen=True)
class RecordFile:
    """A record file: what its header says of the run, the protocol counted under, the records."""

    header: dict[str, Any]
    protocol: ResProtocol
    records: list[ItemRecord]


def save_records(
    path: str | Path,
    records: Iterable[ItemRecord],
    header: Mapping[str, Any],
    protocol: ResProtocol,
) -> None:
    """Write records with a header (JSON values: dataset, split, data_hash, model id, ...).

    The file appears whole or not at all. The names format, version, protocol and n_items of the
    header are taken; EvaluationError if `header` has one of them.
    """
    path, records = Path(path), list(records)
    own = {**_OWN, "protocol": protocol.describe(), "n_items": len(records)}
    if taken := sorted(own.keys() & header.keys()):
        raise EvaluationError(f"header entries {', '.join(taken)} are set by save_records itself")
    with written_beside(path) as file:
        file.write(json.dumps({**own, **header}) + "\n")
        for record in records:
            line = record._asdict()
            if record.mask is None:
                del line["mask"]
            file.write(json.dumps(line) + "\n")


def load_records(path: str | Path) -> RecordFile:
    """Read what `save_records` wrote.

    Raises MissingDataError if there is no such file; DataFileError, naming the line, if it is no
    record file, is cut off, or a record contradicts itself or comes twice.
    """
    path = Path(path)
    lines = read_file(path, f"no record file {path}; it is written by a test run").splitlines()
    number = 1  # of the line that an error is about
    try:
        header = _object(lines[0] if lines else b"")
        protocol = _protocol(header)
        records: dict[tuple[int, int], ItemRecord] = {}
        for line in lines[1:]:
            number += 1
            record = _record(_object(line))
            key = record.ref_id, record.sent_id
            if key in records:
                raise ValueError(f"ref {key[0]}, sentence {key[1]} comes a second time")
            records[key] = record
        if len(records) != header.get("n_items"):
            raise ValueError(
                f"the file ends after {len(records)} of {header.get('n_items')} items; "
                "it was cut off, copy it again"
            )
    except (ValueError, RecursionError) as error:
        raise DataFileError(f"{path}, line {number}: {error}") from error
    return RecordFile(header, protocol, list(records.values()))


def _object(line: bytes) -> dict[str, Any]:
    found = json.loads(line, parse_constant=_no_constant)
    if not isinstance(found, dict):
        raise ValueError(f"want a JSON object, found {str(found)[:40]!r}")
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _protocol(header: dict[str, Any]) -> ResProtocol:
    found = {name: header.get(name) for name in _OWN}
    if found != _OWN:
        raise ValueError(f"the first line must say {_OWN}, it says {found}")
    description = header.get("protocol")
    if not isinstance(description, dict):
        raise ValueError(f"the header's protocol is {str(description)[:40]!r}; want an object")
    return ResProtocol.from_description(description)


def _record(line: dict[str, Any]) -> ItemRecord:
    if set(line) - {"mask"} != set(_NUMBERS):
        raise ValueError(f"a record has {', '.join(_NUMBERS)}; this one {', '.join(sorted(line))}")
    for name in _NUMBERS:
        if type(line[name]) is not int:  # bool is an int to isinstance
            raise ValueError(f"{name} is {str(line[name])[:40]!r}; want an int")
        if abs(line[name]) >= _MOST:  # sums over resamples are of floats
            raise ValueError(f"{name} is of {line[name].bit_length()} bits; want 63 at most")
    record = ItemRecord(**line)
    if problem := record.problem():
        raise ValueError(problem)
    mask = record.mask
    if mask is not None and not _is_rle(mask):
        raise ValueError("mask is no COCO RLE {'size': [height, width], 'counts': str}")
    return record


def _is_rle(mask: Any) -> bool:
    if not isinstance(mask, dict) or not isinstance(mask.get("counts"), str):
        return False
    size = mask.get("size")
    return isinstance(size, list) and len(size) == 2 and all(type(s) is int and s > 0 for s in size)
