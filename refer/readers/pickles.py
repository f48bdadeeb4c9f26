"""`refs(<splitBy>).p`: a pickled list of refs, read without running anything it may carry.

The same list may lie there as `refs(<splitBy>).json`, which no program can hide in.
"""

from __future__ import annotations

import os
import pickle
from collections import Counter
from pathlib import Path
from sys import intern
from typing import Any, NoReturn

import msgspec

from refer.errors import DataFileError, ReferError
from refer.files import check_file, read_file
from refer.readers import paused_gc

Ref = dict[str, Any]


class _Sentence(msgspec.Struct, gc=False):
    sent_id: int | str
    sent: str
    tokens: list[str]


class _Ref(msgspec.Struct, gc=False):
    ref_id: int | str
    ann_id: int | str
    category_id: int | str
    image_id: int | str
    split: str
    sentences: list[_Sentence]


class _RefusedGlobal(pickle.UnpicklingError):
    """The pickle asks for a class or function by name."""


class _PlainUnpickler(pickle.Unpickler):
    """Builds lists, dicts, strings and numbers, and nothing else.

    All of these have opcodes of their own in every pickle protocol, Python 2's included, so the
    list of allowed globals is empty: a ref file that names one is not a ref file.
    """

    def find_class(self, module: str, name: str) -> NoReturn:
        raise _RefusedGlobal(f"{module}.{name}")


def load_refs(path: str | os.PathLike[str]) -> list[Ref]:
    """Read the refs of a REFER pickle, or of JSON by its suffix, in file order.

    Each ref has at least `ref_id`, `ann_id`, `category_id`, `image_id`, `split` and `sentences`;
    each sentence at least `sent_id`, `sent` and `tokens`. Equal tokens share one string object.

    Raises MissingDataError when there is no such file; DataFileError, naming the file and the ref,
    when it is truncated, is no pickle (or no JSON), asks for a global (nothing of it is run), or
    holds something else than refs.
    """
    path = Path(path)
    with paused_gc():
        refs = _read_json(path) if path.suffix == ".json" else _unpickle(path)
        if not isinstance(refs, list):
            raise DataFileError(f"{path}: holds a {type(refs).__name__}, want a list of refs")
        _check(refs, path)
        for ref in refs:
            for sentence in ref["sentences"]:
                sentence["tokens"] = list(map(intern, sentence["tokens"]))
    return refs


def _read_json(path: Path) -> Any:
    try:
        return msgspec.json.decode(read_file(path, f"no ref file at {path}"))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise DataFileError(
            f"{path}: not JSON: {error}; write it again with tools/prepare_data.py --to-json"
        ) from error


def _unpickle(path: Path) -> Any:
    try:
        try:
            return _read(path, "ASCII")
        except UnicodeDecodeError:
            # Python 2 wrote byte strings; the few non-ASCII ones are readable this way only.
            return _read(path, "latin1")
    except _RefusedGlobal as error:
        raise DataFileError(
            f"{path}: refused, the pickle asks for {error}; a ref file holds plain lists, dicts, "
            "strings and numbers only. Do not open it elsewhere: it may run a program"
        ) from error
    except ReferError:
        raise
    except OSError as error:
        raise DataFileError(f"{path} cannot be read: {error.strerror or error}") from error
    except Exception as error:  # damaged pickles raise nearly anything, as pickle documents
        raise DataFileError(
            f"{path}: not a complete pickle ({type(error).__name__}: {error}); download it again"
        ) from error


def _read(path: Path, encoding: str) -> Any:
    check_file(path, f"no ref file at {path}")
    with path.open("rb") as file:
        return _PlainUnpickler(file, encoding=encoding).load()


def _check(refs: list[Any], path: Path) -> None:
    try:
        checked = msgspec.convert(refs, list[_Ref])
    except msgspec.ValidationError:
        for index, ref in enumerate(refs):  # once more, one by one, to name the ref
            try:
                msgspec.convert(ref, _Ref)
            except msgspec.ValidationError as error:
                ref_id = ref.get("ref_id") if isinstance(ref, dict) else None
                raise DataFileError(f"{path}: ref #{index} (ref_id {ref_id!r}): {error}") from error
        raise
    if len({ref.ref_id for ref in checked}) < len(checked):
        counts = Counter(ref.ref_id for ref in checked)
        raise DataFileError(f"{path}: ref_id {counts.most_common(1)[0][0]!r} occurs twice")
