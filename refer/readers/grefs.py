"""`grefs(<splitBy>).json` or `.p`: gRefCOCO's refs, whose targets are lists; [-1] is no target."""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec

from refer.errors import DataFileError
from refer.files import read_file
from refer.readers import paused_gc
from refer.readers.pickles import _unpickle

NO_TARGET = -1
Ref = dict[str, Any]


class _Sentence(msgspec.Struct, gc=False):
    sent_id: int
    sent: str
    tokens: list[str]


class _Ref(msgspec.Struct, gc=False):
    ref_id: int
    ann_id: int | list[int]
    category_id: int | list[int]
    image_id: int
    split: str
    sentences: list[_Sentence]


def load_grefs(path: Path) -> tuple[list[Ref], str]:
    """The refs in file order and the file's sha256 (hex). Reads JSON, or a pickle by its suffix.

    `ann_id` and `category_id` become lists, whatever they were. Unknown entries are kept.

    Raises MissingDataError when there is no such file; DataFileError, naming the file and the ref,
    when it is damaged, would run code, or holds something else than such refs.
    """
    content = read_file(path, f"no ref file at {path}")
    with paused_gc():
        if path.suffix == ".p":
            refs = _unpickle(path)
        else:
            try:
                refs = msgspec.json.decode(content)
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                raise DataFileError(f"{path}: not JSON: {error}; download it again") from error
        if not isinstance(refs, list):
            raise DataFileError(f"{path}: holds a {type(refs).__name__}, want a list of refs")
        for index, ref in enumerate(refs):
            _check(ref, index, path)
    counts = Counter(ref["ref_id"] for ref in refs)
    if len(counts) < len(refs):
        raise DataFileError(f"{path}: ref_id {counts.most_common(1)[0][0]!r} occurs twice")
    return refs, hashlib.sha256(content).hexdigest()


def _check(ref: Any, index: int, path: Path) -> None:
    try:
        msgspec.convert(ref, _Ref)
    except msgspec.ValidationError as error:
        ref_id = ref.get("ref_id") if isinstance(ref, dict) else None
        raise DataFileError(f"{path}: ref #{index} (ref_id {ref_id!r}): {error}") from error
    for name in ("ann_id", "category_id"):
        if not isinstance(ref[name], list):
            ref[name] = [ref[name]]
    targets, categories = ref["ann_id"], ref["category_id"]
    if not targets or len(targets) != len(categories):
        raise DataFileError(
            f"{path}: ref #{index} (ref_id {ref['ref_id']!r}) has ann_id {targets} and category_id "
            f"{categories}; want two lists of one length, [-1] for no target"
        )
    if NO_TARGET in targets and targets != [NO_TARGET]:
        raise DataFileError(
            f"{path}: ref #{index} (ref_id {ref['ref_id']!r}) has ann_id {targets}: -1 (no target) "
            "stands alone"
        )
