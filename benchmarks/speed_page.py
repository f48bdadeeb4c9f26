"""Writes the tables of docs/speed.md from the rows in benchmarks/results/.

    python benchmarks/speed_page.py --docs

Without --docs they are printed. What was not measured is said not to be.
"""

from __future__ import annotations

import argparse
import csv
import os
from collections.abc import Callable, Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
PAGE = HERE.parent / "docs" / "speed.md"
PLOT = "cost_curve.png"
ABSENT = "Not measured yet."
NONE = "not comparable"
Row = dict[str, str]
Column = tuple[str, Callable[[Row], str]]


def _range(row: Row, name: str, low: str, high: str) -> str:
    return f"{row[name]} ({row[low]} to {row[high]})"


def _where(row: Row) -> str:
    return f"{row['size']}, {row['side']} px, {row['device']}, {row['precision']}"


TABLES: dict[str, tuple[str, Sequence[Column]]] = {
    "eval": (
        "eval_speed.csv",
        (
            ("size, picture, device, precision of ours", _where),
            ("allocator", lambda row: row["allocator"]),
            (
                "published, s a pair",
                lambda row: _range(row, "published_s", "published_min", "published_max"),
            ),
            ("ours, s a pair", lambda row: _range(row, "ours_s", "ours_min", "ours_max")),
            ("ratio", lambda row: f"**{row['ratio']}**"),
            (
                "to the published way under the default allocator",
                lambda row: row["ratio_to_default"],
            ),
            ("GFLOP a pair", lambda row: f"{row['published_gflop']} and {row['ours_gflop']}"),
            ("of the device's limit", lambda row: f"{row['share_of_limit']} %"),
            ("equal pixels", lambda row: f"{row['equal_pixels']} %"),
        ),
    ),
    "train": (
        "train_speed.csv",
        (
            ("way", lambda row: row["way"]),
            ("size, picture, device, precision", _where),
            ("allocator", lambda row: row["allocator"]),
            ("s a step", lambda row: _range(row, "seconds", "seconds_min", "seconds_max")),
            ("ratio", lambda row: row["ratio"]),
            ("peak GiB", lambda row: row["peak_gib"]),
            ("of the published way's", lambda row: row["memory_share"]),
            (
                "time and peak to the published way under the default allocator",
                lambda row: row["ratio_to_default"],
            ),
        ),
    ),
    "memory": (
        "memory.csv",
        (
            ("way", lambda row: row["way"]),
            ("size, picture, device, precision", _where),
            ("convolutions", lambda row: row["convolutions"]),
            ("sentences at once", lambda row: row["sentences"]),
            ("GiB when loaded", lambda row: row["loaded_gib"]),
            ("GiB at the peak", lambda row: row["peak_gib"]),
            ("between", lambda row: row["above_gib"]),
        ),
    ),
    "trades": (
        "trades.csv",
        (
            ("trade", lambda row: row["trade"]),
            ("size, picture, device, precision", _where),
            ("weights", lambda row: row["weights"]),
            ("exact, s a pair", lambda row: row["exact_s"]),
            ("traded", lambda row: row["trade_s"]),
            ("ratio", lambda row: _range(row, "ratio", "ratio_min", "ratio_max")),
            ("equal pixels, %", lambda row: row["equal_pixels"] or NONE),
            ("oIoU with the exact masks, %", lambda row: row["oiou"] or NONE),
        ),
    ),
    "curve": (
        "cost_curve.csv",
        (
            ("size, picture, device, precision", _where),
            ("sentences", lambda row: row["sentences"]),
            ("allocator", lambda row: row["allocator"]),
            ("pairs a second", lambda row: _range(row, "pairs_per_s", "slowest", "fastest")),
        ),
    ),
    "refer": (
        "refer_api.csv",
        (
            ("stage", lambda row: row["stage"]),
            ("classic, s", lambda row: row["classic_s"]),
            ("ours, s", lambda row: row["refer_s"]),
            ("of the time", lambda row: row["ratio_s"]),
            ("of the memory", lambda row: row["ratio_MiB"]),
        ),
    ),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--docs", action="store_true", help="write the tables into the docs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the CSVs")
    parser.add_argument("--page", type=Path, default=PAGE)
    arguments = parser.parse_args()
    text = fill(arguments.page.read_text(), arguments.results, arguments.page.parent)
    if not arguments.docs:
        for name in TABLES:
            print(f"{name}\n{table(name, arguments.results)}\n")
        return
    draft = arguments.page.with_name(arguments.page.name + ".part")
    draft.write_text(text)
    os.replace(draft, arguments.page)


def fill(page: str, results: Path, docs: Path) -> str:
    """The page with what stands between its marks made anew."""
    parts = {name: table(name, results) for name in TABLES}
    plot = f"![Pairs a second against sentences and size]({PLOT})"
    parts["plot"] = plot if (docs / PLOT).is_file() else ""
    for name, text in parts.items():
        begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
        before, rest = page.split(begin)
        page = f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"
    return page


def table(name: str, results: Path) -> str:
    """Markdown of a CSV's rows, a table for each machine they come from; or that there are none."""
    file, columns = TABLES[name]
    if not (results / file).is_file():
        return ABSENT
    with open(results / file, newline="") as opened:
        rows = list(csv.DictReader(opened))
    if not rows:
        return ABSENT
    machines = list(dict.fromkeys(row.get("machine") or row["device"] for row in rows))
    parts = []
    for machine in machines:
        own = [row for row in rows if (row.get("machine") or row["device"]) == machine]
        lines = [" | ".join(title for title, _ in columns), "|".join("---" for _ in columns)]
        lines += [" | ".join(read(row) for _, read in columns) for row in own]
        parts += [*(f"| {line} |" for line in lines), "", f"On {machine}.", ""]
    return "\n".join(parts[:-1])


if __name__ == "__main__":
    main()
