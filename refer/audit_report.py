"""What a check of the data found, one report a ref file, for people and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from refer.api import Id
from refer.official import Counts


@dataclass
class SplitReport:
    """A split's counts, and the published ones where they are known."""

    name: str
    found: Counts
    official: Counts | None = None

    @property
    def agrees(self) -> bool:
        """Whether no published count differs."""
        published = self.official or Counts(None)
        return all(b is None or a == b for a, b in zip(self.found, published, strict=True))


@dataclass
class FileReport:
    """One ref file. `pictures` maps a split to the ids of its pictures."""

    dataset: str
    split_by: str
    path: str
    sha256: str = ""
    splits: list[SplitReport] = field(default_factory=list)
    pictures_wanted: int = 0
    pictures_missing: int = 0
    missing_sample: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    pictures: dict[str, set[Id]] = field(default_factory=dict, repr=False)

    def as_json(self) -> dict[str, Any]:
        """Everything but the picture ids, for a report file."""
        found = {key: value for key, value in asdict(self).items() if key != "pictures"}
        for row, split in zip(found["splits"], self.splits, strict=True):
            row["found"] = split.found._asdict()
            row["official"] = split.official._asdict() if split.official else None
            row["agrees"] = split.agrees
        return found


def table(reports: list[FileReport]) -> str:
    """All reports as text: a line a split with the published number beside one that differs."""
    lines: list[str] = []
    for report in reports:
        state = "NOT WELL" if report.problems else "well" if report.splits else "absent"
        lines.append(f"{report.dataset}({report.split_by}): {state}   {report.path}")
        if report.splits:
            lines.append(f"  sha256 {report.sha256}")
            lines.append(f"  {'split':8s}" + "".join(f"{name:>20s}" for name in Counts._fields))
        for split in report.splits:
            official = split.official or Counts(None)
            cells = "".join(
                f"{_cell(number, published):>20s}"
                for number, published in zip(split.found, official, strict=True)
            )
            lines.append(f"  {split.name:8s}{cells}")
        if report.splits:
            there = report.pictures_wanted - report.pictures_missing
            lines.append(f"  picture files: {there:,} of {report.pictures_wanted:,} there")
        lines += [f"  ! {problem}" for problem in report.problems]
        lines += [f"  - {note}" for note in report.notes]
        lines.append("")
    return "\n".join(lines).rstrip()


def _cell(found: int | None, published: int | None) -> str:
    differs = published is not None and published != found
    return f"{found:,}" + (f" (not {published:,})" if differs else "")
