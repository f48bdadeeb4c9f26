"""Check a data root file by file before days of training depend on it.

    python tools/prepare_data.py refer/data
    python tools/prepare_data.py refer/data --datasets refcoco refcocog --report report.json
    python tools/prepare_data.py refer/data --to-json     # and write refs(<splitBy>).json once

Says for every ref file whether it is there, its counts beside the published ones, which sentences
are blank, which outlines cannot be drawn, which pictures are missing, whether two splits share
pictures or objects that they should not, and where people get what is missing. Ends with 0 only
when all is well, with 1 when something is not, with 2 for an option that cannot be used. Without
--datasets every data set that has a folder is checked.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from refer.audit import audit, overlaps_between
from refer.audit_report import FileReport, table
from refer.catalog import DATASETS, DataSet
from refer.errors import ReferError
from refer.files import write_json
from refer.readers.convert import refs_to_json

REFS = [row.name for row in DATASETS.values() if row.phrases is None]  # they have ref files


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("root", type=Path, help="folder with refcoco/, ..., images/")
    parser.add_argument("--datasets", nargs="+", choices=REFS, metavar="NAME",
                        help=f"of {', '.join(REFS)}")  # fmt: skip
    parser.add_argument("--image_root", type=Path, help="pictures, if not below the root")
    parser.add_argument("--open-pictures", action="store_true",
                        help="decode every picture and compare its size (slow)")  # fmt: skip
    parser.add_argument("--to-json", action="store_true", help="write refs(*).json beside pickles")
    parser.add_argument("--report", type=Path, metavar="FILE.json", help="write all of it here")
    arguments = parser.parse_args()
    if not arguments.root.is_dir():
        print(f"error: no folder {arguments.root}", file=sys.stderr)
        return 2
    names = arguments.datasets or [
        row.name for row in DATASETS.values() if row.folder is None and _there(row, arguments.root)
    ]
    reports: list[FileReport] = []
    for name in names:
        reports += audit(
            arguments.root,
            name,
            image_root=arguments.image_root,
            open_pictures=arguments.open_pictures,
        )
    if arguments.to_json:
        for report in reports:
            _convert(report)
    shared = overlaps_between(reports)
    absent = [row for row in DATASETS.values() if not _there(row, arguments.root)]
    well = bool(reports) and not any(report.problems for report in reports)
    _print(reports, shared, [row for row in absent if row.name not in names], well)
    if arguments.report:
        _write(arguments.report, reports, shared, absent, well)
    return 0 if well else 1


def _there(row: DataSet, root: Path) -> bool:
    if row.phrases is not None:
        return (root / row.phrases).is_file()
    return (root / (row.folder or row.name)).is_dir()


def _convert(report: FileReport) -> None:
    """Write the JSON beside a REFER pickle that was read without trouble."""
    path = Path(report.path)
    if not (report.splits and path.suffix == ".p" and path.name.startswith("refs(")):
        return
    try:
        report.notes.append(f"as JSON: {refs_to_json(path)}")
    except ReferError as error:
        report.problems.append(str(error))


def _print(reports: list[FileReport], shared: list[str], absent: list[DataSet], well: bool) -> None:
    if reports:
        print(table(reports), end="\n\n")
    if shared:
        print("Mind these before you train on several ref files at once:")
        print("\n".join(f"  - {line}" for line in shared), end="\n\n")
    if absent:
        print("Not in this root:")
        print("\n".join(f"  - {row.name}: {row.cure}" for row in absent), end="\n\n")
    bad = sum(bool(report.problems) for report in reports)
    print("all is well" if well else f"not well: {bad} of {len(reports)} ref files have problems")


def _write(
    path: Path, reports: list[FileReport], shared: list[str], absent: list[DataSet], well: bool
) -> None:
    content: dict[str, Any] = {
        "well": well,
        "files": [report.as_json() for report in reports],
        "train_on_others_evaluation": shared,
        "absent": {row.name: row.cure for row in absent},
    }
    write_json(path, content)


if __name__ == "__main__":
    raise SystemExit(main())
