"""Are the pictures of a ref file there, and are they the ones that the annotations are for?"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from refer.api import REFER, Id
from refer.audit_report import FileReport
from refer.catalog import DataSet
from refer.errors import DataFileError, MissingDataError, PictureError
from refer.official import NEVER_PUBLISHED
from refer.pictures import open_annotated

SAMPLE = 5  # names shown of what is missing


def check_pictures(report: FileReport, opened: REFER, row: DataSet, open_them: bool) -> None:
    """Write into `report` which pictures of the refs are missing, empty or (opened) damaged."""
    wanted: list[Id] = sorted(set().union(*report.pictures.values()), key=str)
    known = NEVER_PUBLISHED.get(row.name, frozenset())
    excused: list[str] = []
    damaged: list[str] = []
    for image_id in wanted:
        try:
            path = opened.image_path(image_id)
        except (MissingDataError, DataFileError):
            name = str(opened.Imgs[image_id]["file_name"])
            if name in known:
                excused.append(name)
                continue
            report.pictures_missing += 1
            if len(report.missing_sample) < SAMPLE:
                report.missing_sample.append(name)
            continue
        flaw = _flaw(opened.Imgs[image_id], path, open_them)
        if flaw:
            damaged.append(flaw)
    report.pictures_wanted = len(wanted) - len(excused)
    if excused:
        report.notes.append(f"{', '.join(excused)}: known to be in no published archive")
    if report.pictures_missing:
        more = ", ..." if report.pictures_missing > SAMPLE else ""
        report.problems.append(
            f"{report.pictures_missing:,} of {len(wanted):,} pictures missing "
            f"({', '.join(report.missing_sample)}{more}); get {row.image_source} and put them into "
            f"{opened.IMAGE_DIR}, or name their folder with --image_root"
        )
    if damaged:
        report.problems.append(f"{len(damaged):,} pictures damaged: {'; '.join(damaged[:SAMPLE])}")


def _flaw(image: dict[str, Any], path: Path, open_it: bool) -> str:
    """What is wrong with a picture file, or nothing."""
    if path.stat().st_size == 0:
        return f"{path} is empty (0 bytes); fetch it again"
    if not open_it:
        return ""
    try:
        open_annotated(path, image["height"], image["width"])
    except PictureError as error:
        return str(error)
    return ""
