"""The sentences of a ref, and which of them are asked.

| mode   | asked of each ref        | published use                                             |
|--------|--------------------------|-----------------------------------------------------------|
| all    | every sentence           | LAVT and VPD tests, VPD validation, CRIS tests            |
| first  | the first one            | CRIS and ETRIS validation                                 |
| random | one, drawn by the epoch  | LAVT and VPD training, LAVT validation                    |
| concat | all, joined with a space | MMDetection's RefCOCOg config, which joins without spaces |
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from refer.errors import DataFileError

SentenceMode = Literal["all", "first", "random", "concat"]
OnEmpty = Literal["error", "skip"]
SKIP = "on_empty='skip' (--set data.on_empty=skip of the ris command)"


class Sentence(NamedTuple):
    """`position` is its place within the ref, as in the ref file."""

    text: str
    sent_id: int
    position: int


def whole_number(value: Any, name: str, ref: Mapping[str, Any]) -> int:
    """`value` of the ref's `name`, an int. Raises DataFileError: batches and records need ints."""
    if not isinstance(value, int):
        raise DataFileError(f"ref {ref['ref_id']!r} has {name} {value!r}; want an int")
    return value


def sentences_of(ref: Mapping[str, Any], field: str, on_empty: OnEmpty) -> tuple[Sentence, ...]:
    """Sentences of a ref in file order, those with nothing to ask left out if `on_empty` is 'skip'.

    Raises DataFileError, naming ref_id and sent_id, for an empty sentence (or a ref without any)
    if `on_empty` is 'error', and for a sentence whose `field` is absent or no string.
    """
    found = []
    for index, sentence in enumerate(ref["sentences"]):
        sent_id = whole_number(sentence["sent_id"], "sent_id", ref)
        if field not in sentence:
            raise DataFileError(
                f"ref {ref['ref_id']}, sentence {sent_id} has no field {field!r}; "
                f"it has {', '.join(map(str, sentence))}"
            )
        text = sentence[field]
        if not isinstance(text, str):
            raise DataFileError(
                f"ref {ref['ref_id']}, sentence {sent_id} has {field} {str(text)[:40]!r}; want a "
                "string"
            )
        if text.strip():
            found.append(Sentence(text, sent_id, index))
        elif on_empty == "error":
            raise DataFileError(
                f"ref {ref['ref_id']}, sentence {sent_id} is empty; correct the ref file, or leave "
                f"such sentences out with {SKIP}"
            )
    if not found and on_empty == "error":
        raise DataFileError(
            f"ref {ref['ref_id']} has no sentences; correct the ref file, or leave such refs out "
            f"with {SKIP}"
        )
    return tuple(found)


def choose(
    sentences: tuple[Sentence, ...], mode: SentenceMode, ref_id: int, seed: int, epoch: int
) -> tuple[Sentence, ...]:
    """The sentences of one ref that `mode` asks; `seed` and `epoch` matter to 'random' alone."""
    if mode == "all":
        return sentences
    if mode == "concat":
        first = sentences[0]
        return (first._replace(text=" ".join(sentence.text.strip() for sentence in sentences)),)
    return (sentences[draw(len(sentences), ref_id, seed, epoch) if mode == "random" else 0],)


def draw(count: int, ref_id: int, seed: int, epoch: int) -> int:
    """A random index below `count`, a function of the other three on every machine and version.

    So a run can be repeated in any order of the refs and with any number of workers.
    """
    digest = hashlib.blake2b(f"{seed}/{epoch}/{ref_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % count
