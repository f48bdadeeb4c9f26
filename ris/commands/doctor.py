"""Say what is installed and found here, what is missing, and how to mend it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ris.doctor import Finding

MARKS = {True: "ok", False: "!!", None: "--"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--refer_data_root", default="refer/data",
                        help="where data sets are looked for (default: %(default)s)")  # fmt: skip


def run(arguments: argparse.Namespace) -> None:
    from ris import doctor

    root = Path(arguments.refer_data_root)
    parts: dict[str, Callable[[], list[Finding]]] = {
        "versions": doctor.versions,
        "devices": doctor.devices,
        "attention kernels": doctor.kernels,
        f"data sets under {root}": lambda: doctor.data_sets(root),
        "weights": doctor.weights,
    }
    everything: list[Finding] = []
    for title, look in parts.items():
        try:
            findings = look()
        except (ImportError, OSError) as error:  # a package that is missing or does not load
            cure = "mend the versions above, then run ris doctor again"
            findings = [doctor.Finding("(cannot look)", False, str(error), cure)]
        everything += findings
        print(f"{title}\n{listed(findings)}")
    bad = [finding.name for finding in everything if finding.ok is False]
    print(f"ok: can be used; --: not here or of no use here, needed only for what uses it; !!: to "
          f"be mended ({', '.join(bad) or 'none'})")  # fmt: skip


def listed(findings: Sequence[Finding]) -> str:
    """A line for each finding, and one below it for its cure."""
    lines = []
    for finding in findings:
        lines.append(f"  {MARKS[finding.ok]} {finding.name:16s} {finding.seen}")
        if finding.cure:
            lines.append(f"     {'':16s} cure: {finding.cure}")
    return "\n".join(lines)
