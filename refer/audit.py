"""Is a data set on disk whole?

Its ref files, counts, sentences, outlines, pictures and the walls between its splits.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from itertools import combinations
from pathlib import Path
from typing import Any

from refer.api import REFER, Id
from refer.audit_content import check_outlines, check_sentences
from refer.audit_pictures import SAMPLE, check_pictures
from refer.audit_report import FileReport, SplitReport
from refer.catalog import DataSet, find_dataset
from refer.errors import ReferError
from refer.files import read_file
from refer.folders import split_bys
from refer.grefer import G_REFER
from refer.official import OFFICIAL, SPLIT_BY_OBJECT, UNSURE, Counts


def audit(
    data_root: str | os.PathLike[str],
    dataset: str,
    *,
    image_root: str | os.PathLike[str] | None = None,
    open_pictures: bool = False,
) -> list[FileReport]:
    """Check every ref file of a data set under `data_root`; one report a file.

    Published splitBys that are not there get a report too: with a problem if it is the default one,
    else with a note. `open_pictures` decodes every picture and compares its size with the record's.

    Raises UnknownNameError for an unknown data set. What is wrong with the data is no error but a
    problem in a report.
    """
    row = find_dataset(dataset)
    root = Path(data_root)
    folder = root / (row.folder or row.name)
    found = _general_split_bys(folder) if row.general else split_bys(folder)
    stem = "grefs" if row.general else "refs"
    reports = []
    for split_by in dict.fromkeys([*row.splits, *found]):
        report = FileReport(dataset, split_by, str(folder / f"{stem}({split_by}).p"))
        reports.append(report)
        if split_by not in found and split_by != row.default_split_by:
            report.notes.append(f"not there (published, and not the default); {row.cure}")
            continue
        try:
            opened = (
                G_REFER(root, dataset, split_by, image_root=image_root)
                if row.general
                else REFER(root, dataset, split_by, image_root=image_root)
            )
        except ReferError as error:
            report.problems.append(str(error))
            continue
        _check(report, opened, _expected(row, split_by, folder, report))
        check_sentences(report, opened)
        check_outlines(report, opened)
        check_pictures(report, opened, row, open_pictures)
    return reports


def overlaps_between(reports: Iterable[FileReport]) -> list[str]:
    """For every two ref files: pictures of one's train that the other evaluates on.

    Harmless while one file is used alone; wrong when they are mixed for training.
    """
    lines = []
    readable = [report for report in reports if report.pictures]
    for first in readable:
        for second in readable:
            if first is second:
                continue
            train = first.pictures.get("train", set())
            for split, pictures in second.pictures.items():
                shared = len(train & pictures) if split != "train" else 0
                if shared and _same_pictures(first, second):
                    lines.append(
                        f"{first.dataset}({first.split_by}) train holds {shared:,} of the "
                        f"{len(pictures):,} pictures of {second.dataset}({second.split_by}) {split}"
                    )
    return lines


def _same_pictures(first: FileReport, second: FileReport) -> bool:
    """Whether ids mean the same pictures in both files."""
    one, other = find_dataset(first.dataset), find_dataset(second.dataset)
    return one.image_source == other.image_source


def _general_split_bys(folder: Path) -> list[str]:
    files = [*folder.glob("grefs(*).p"), *folder.glob("grefs(*).json")]
    return sorted({file.stem[len("grefs(") : -len(")")] for file in files})


def _expected(
    row: DataSet, split_by: str, folder: Path, report: FileReport
) -> dict[str, Counts] | None:
    """The counts a file should have: the published ones, or what the generator wrote down."""
    info = folder / "info.json"
    if row.name != "refshapes" or not info.is_file():
        return OFFICIAL.get((row.name, split_by))
    try:
        counts = json.loads(read_file(info, f"no {info}"))["counts"]
        return {
            split: Counts(made["pictures"], made["refs"], made["sentences"])
            for split, made in counts.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        report.problems.append(f"{info}: damaged ({type(error).__name__}: {error}); {row.cure}")
        return None


def _check(report: FileReport, opened: REFER, expected: dict[str, Counts] | None) -> None:
    """Fill in hash and counts, and hold the splits against the published table and each other."""
    key = (report.dataset, report.split_by)
    report.path = str(opened.refs_path)
    report.sha256 = hashlib.sha256(opened.refs_path.read_bytes()).hexdigest()
    objects: dict[str, set[Id]] = {}
    for split in opened.splits:
        refs = [ref for ref in opened.data["refs"] if ref["split"] == split]
        report.pictures[split] = {ref["image_id"] for ref in refs}
        objects[split] = {ann for ref in refs for ann in _targets(ref)}
        sentences = sum(len(ref["sentences"]) for ref in refs)
        found = Counts(len(report.pictures[split]), len(refs), sentences)
        published = (expected or {}).get(split)
        report.splits.append(SplitReport(split, found, published))
    differ = [split.name for split in report.splits if not split.agrees]
    absent = [name for name in expected or {} if name not in report.pictures]
    target = report.notes if key in UNSURE else report.problems
    if differ:
        target.append(
            f"counts of {', '.join(differ)} differ from the published ones: a subset, another "
            "release or a damaged copy; scores will not compare with papers"
        )
    if absent:
        target.append(f"split {', '.join(absent)} is published and not in the file")
    if expected is None:
        report.notes.append("no published counts to compare with; the hash names the release")
    if key in SPLIT_BY_OBJECT:
        report.notes.append(SPLIT_BY_OBJECT[key])
    for first, second in combinations(opened.splits, 2):
        if not _apart(report.dataset, first, second):
            continue
        shared = report.pictures[first] & report.pictures[second]
        if shared and key not in SPLIT_BY_OBJECT:
            target.append(_leak("pictures", shared, first, second))
        both = objects[first] & objects[second]
        # Two general expressions may name one object, and their pictures have been compared.
        if both and not isinstance(opened, G_REFER):
            target.append(_leak("objects", both, first, second))


def _targets(ref: dict[str, Any]) -> list[Id]:
    return ref["ann_id"] if isinstance(ref["ann_id"], list) else [ref["ann_id"]]


def _apart(dataset: str, first: str, second: str) -> bool:
    """Whether no picture may lie in both. RefCLEF's test letters are labels on refs, several at
    once (testAB), so only they may meet."""
    return dataset != "refclef" or "test" not in first or "test" not in second


def _leak(what: str, shared: set[Id], first: str, second: str) -> str:
    names = ", ".join(map(str, sorted(shared, key=str)[:SAMPLE]))
    return (
        f"leak: {len(shared):,} {what} in both {first} and {second} (ids {names}"
        f"{', ...' if len(shared) > SAMPLE else ''}); take the published ref file"
    )
