"""Which data a record file was made on, by its header, and that data opened again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from refer.api import REFER
from refer.catalog import parts_of
from refer.errors import UnknownNameError
from refer.evaluation.protocol import EvaluationError
from refer.evaluation.records import RecordFile

# Their records number the phrases of a split by place, and hold no ids of REFER.
_BY_PLACE = ("rec", "phrase")


def named_data(header: Mapping[str, Any]) -> tuple[str | None, str | None]:
    """Data set and splitBy that were scored, None for what a header does not say.

    Older headers name the whole mixture of a run that was scored on its first part.
    """
    dataset, split_by = header.get("dataset"), header.get("split_by")
    try:
        if dataset is not None and header.get("task") not in _BY_PLACE:
            dataset = parts_of(dataset)[0]
    except (UnknownNameError, TypeError, AttributeError):
        pass  # a name of the user's own: compared as it stands
    return dataset, split_by


def chosen_data(
    path: str | os.PathLike[str],
    file: RecordFile,
    dataset: str | None = None,
    split_by: str | None = None,
) -> tuple[str | None, str | None]:
    """Data set and splitBy of the records at `path`: the header's, or else those given.

    Raises EvaluationError where the header says another than is given.
    """
    said = named_data(file.header)
    found = []
    for name, own, given in zip(("dataset", "splitBy"), said, (dataset, split_by), strict=True):
        if own is not None and given is not None and own != given:
            raise EvaluationError(
                f"{path} was made on {name} {own!r}, not {given!r}; leave --{name} out"
            )
        found.append(given if own is None else own)
    return found[0], found[1]


def open_recorded(
    path: str | os.PathLike[str],
    file: RecordFile,
    data_root: str | os.PathLike[str],
    dataset: str | None = None,
    split_by: str | None = None,
) -> REFER:
    """The data of the records at `path`, below `data_root`; see `chosen_data`.

    Raises EvaluationError where header and arguments disagree, where neither names the data set,
    and for records whose ids are not REFER's; and the errors of REFER.
    """
    dataset, split_by = chosen_data(path, file, dataset, split_by)
    if file.header.get("task") in _BY_PLACE:
        raise EvaluationError(
            f"{path} is of task {file.header['task']}, whose records number phrases by their place "
            "and not by the ids of the data; leave --refer_data_root out"
        )
    if dataset is None:
        raise EvaluationError(f"{path} does not say what data set it was made on; give --dataset")
    for name, value in (("dataset", dataset), ("split_by", split_by)):
        if not isinstance(value, str | None):
            raise EvaluationError(f"{path} has {name} {str(value)[:40]!r}; want a string")
    return REFER(Path(data_root), dataset, split_by)
