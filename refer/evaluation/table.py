"""Scores as a text table, in the column order of the papers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def scored_line(header: Mapping[str, Any], n_items: int) -> str:
    """What was scored, for the line below a table: of the header of a file of records or boxes."""
    name = str(header.get("dataset", "data not named"))
    parts = [name + (f" ({header['split_by']})" if header.get("split_by") else "")]
    parts[0] += f" {header['split']}" if header.get("split") else ""
    parts.append(f"{n_items:,} items")
    if header.get("data_hash"):
        parts.append(f"data {str(header['data_hash'])[:12]}")
    if header.get("trades"):
        parts.append(f"trades {', '.join(header['trades'])}")
    return f"scored: {', '.join(parts)}"


def table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Rows (name, scores as of `ResEvaluator.compute`) as text: P@X..., oIoU, mIoU, 2 decimals.

    Below stands what a row of `rescore` could not honour of its protocol. A score that a row lacks
    is shown as '-'.
    """
    precisions = dict.fromkeys(key for _, scores in rows for key in scores if key.startswith("P@"))
    columns = [*precisions, "oIoU", "mIoU"]
    width = max([len(name) for name, _ in rows] + [0])
    lines = [" " * width + "".join(f"{column:>8}" for column in columns)]
    for name, scores in rows:
        cells = [f"{scores[c]:8.2f}" if c in scores else f"{'-':>8}" for c in columns]
        lines.append(f"{name:<{width}}" + "".join(cells))
    notes = [f"{name}: {note}" for name, scores in rows for note in scores.get("not_honoured", ())]
    return "\n".join(lines + notes)
