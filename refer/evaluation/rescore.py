"""Scores from saved records under another protocol, without the model.

Always possible: another threshold, operator or empty-union rule, and from records of all sentences
the modes 'first' and 'random'. With a REFER and records that keep masks: another resolution or
overlap rule. Not possible: another decision, since records keep masks and no probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from refer.api import REFER
from refer.evaluation.protocol import EvaluationError, ResProtocol, find_protocol
from refer.evaluation.recorded import named_data
from refer.evaluation.records import RecordFile, load_records
from refer.evaluation.scores import UNKNOWN, ItemRecord, score
from refer.sentences import draw


def rescore(
    records: Sequence[ItemRecord],
    protocol: ResProtocol,
    recorded: ResProtocol,
    refer: REFER | None = None,
) -> dict[str, Any]:
    """Scores (see `score`) of records made under `recorded`, as `protocol` would have them.

    With them 'protocol', the description of what was really done, and 'not_honoured', a list of
    sentences on what of `protocol` was not:
      - The decision stays the recorded one.
      - Resolution and overlap rule stay the recorded ones unless `refer` is given. With it the
        predicted masks are resized (nearest) to the wanted size, by which the numbers differ from
        those of a model whose scores are resized before the decision; 'protocol' says so.

    Raises EvaluationError if the sentences wanted are not among the records, or masks are needed
    and were not kept.
    """
    chosen = _pick_sentences(records, protocol, recorded)
    done = replace(protocol, prediction=recorded.prediction)
    wanted = (protocol.resolution, protocol.overlap)
    if refer is None:
        done = replace(done, resolution=recorded.resolution, overlap=recorded.overlap)
    elif wanted != (recorded.resolution, recorded.overlap):
        from refer.evaluation.recount import recount  # needs torch, which scoring does not

        chosen = recount(chosen, refer, protocol)
        if protocol.resolution != recorded.resolution:
            done = replace(
                done,
                prediction=f"{recorded.prediction} at {recorded.resolution}, "
                "mask then resized nearest",
            )
    missed = [
        f"{field} is {getattr(done, field)!r}, not {getattr(protocol, field)!r}"
        for field in ("resolution", "overlap", "prediction")
        if getattr(done, field) != getattr(protocol, field)
    ]
    return {**score(chosen, protocol), "protocol": done.describe(), "not_honoured": missed}


def score_file(
    path: str | Path, protocol: ResProtocol | str, refer: REFER | None = None
) -> dict[str, Any]:
    """`rescore` of a record file. `protocol` may be the name of a preset.

    Raises the errors of `load_records` and `rescore`, and EvaluationError if `refer` is another
    data set or splitBy than the header says.
    """
    file = load_records(path)
    if refer is not None:
        _check_data(path, file, refer)
    if isinstance(protocol, str):
        protocol = find_protocol(protocol)
    return rescore(file.records, protocol, file.protocol, refer)


def _check_data(path: str | Path, file: RecordFile, refer: REFER) -> None:
    given = (refer.dataset, refer.splitBy)
    for name, said, own in zip(
        ("dataset", "split_by"), named_data(file.header), given, strict=True
    ):
        if said is not None and said != own:
            raise EvaluationError(f"{path} was made on {name} {said!r}, the data given is {own!r}")


def _pick_sentences(
    records: Sequence[ItemRecord], protocol: ResProtocol, recorded: ResProtocol
) -> list[ItemRecord]:
    wanted, have = protocol.sentence_mode, recorded.sentence_mode
    if wanted == have:
        return list(records)
    if have != "all" or wanted == "concat":
        raise EvaluationError(
            f"sentence mode {wanted!r} cannot be had from records of {have!r}; "
            f"test again with the sentence mode {wanted!r}"
        )
    refs: dict[int, list[ItemRecord]] = {}
    for record in records:
        if record.sentence_index == UNKNOWN:
            raise EvaluationError(
                f"ref {record.ref_id}, sentence {record.sent_id} was recorded without its "
                f"sentence_index; sentence mode {wanted!r} needs it"
            )
        refs.setdefault(record.ref_id, []).append(record)
    picked = []
    for ref_id, group in refs.items():
        group.sort(key=lambda record: record.sentence_index)
        # The draw of a data set with seed 0 in epoch 0.
        index = draw(len(group), ref_id, 0, 0) if wanted == "random" else 0
        picked.append(group[index])
    return picked
