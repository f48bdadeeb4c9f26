"""Ref pickles to JSON, once, so that nobody has to open a pickle again."""

from __future__ import annotations

from pathlib import Path

import msgspec

from refer.errors import DataFileError
from refer.files import draft_of
from refer.readers.pickles import load_refs


def refs_to_json(path: Path) -> Path:
    """Write `refs(<splitBy>).json` beside the pickle `path` and return its path.

    A JSON file with the same refs is left as it is. Raises DataFileError for a pickle that is
    damaged or hostile, for refs that JSON cannot hold, and for a JSON file there with other refs;
    MissingDataError when there is no pickle.
    """
    refs = load_refs(path)
    target = path.with_suffix(".json")
    if target.is_file():
        if load_refs(target) != refs:
            raise DataFileError(f"{target} holds other refs than {path.name}; remove one of them")
        return target
    content = msgspec.json.encode(refs)
    # Bytes and tuples would come back as something else; then the pickle stays the only file.
    if msgspec.json.decode(content) != refs:
        raise DataFileError(f"{path}: holds values that JSON does not keep; use the pickle")
    with draft_of(target) as draft:
        draft.write_bytes(content)
    return target
