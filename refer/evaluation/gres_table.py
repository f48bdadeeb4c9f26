"""GRES and GREC scores as text tables. The row of a system that always says "nothing here" is
always there, since on gRefCOCO's val it is a strong one."""

from __future__ import annotations

from collections.abc import Mapping

from refer.evaluation.grec import GrecProtocol
from refer.evaluation.gres import GresEvaluator
from refer.evaluation.gres_scores import always_empty, by_targets

_COLUMNS = ("gIoU", "cIoU", "N_acc", "T_acc", "Pr@0.7", "Pr@0.8", "Pr@0.9")
_SHARES = ("N_acc", "T_acc")


def gres_table(evaluator: GresEvaluator, name: str) -> str:
    """All scores in percent; below them the always-empty row, and items by number of targets."""
    records = evaluator.records
    rows = {
        f"{name} {source}": scores
        for source, scores in evaluator.compute().items()
    } | {"always empty": always_empty(records)}  # fmt: skip
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{column:>8}" for column in _COLUMNS)]
    for label, scores in rows.items():
        lines.append(f"{label:<{width}}" + "".join(_cell(scores, column) for column in _COLUMNS))
    for targets, group in by_targets(records).items():
        lines.append(
            f"{targets:>3} targets: {group['items']:.0f} items, gIoU {group['gIoU']:.2f}, presence "
            f"right {100 * group['presence']:.2f}"
        )
    lines.append(f"protocol: {evaluator.protocol.describe()}")
    return "\n".join(lines)


def grec_table(scores: Mapping[str, float], protocol: GrecProtocol, name: str) -> str:
    """Pr@(F1=1, IoU>=0.5), N-acc, T-acc, AP and AP50 in percent, and how boxes were matched."""
    columns = {"Pr@(F1=1)": "F1_score", "N_acc": "N_acc", "T_acc": "T_acc", "AP": "AP",
               "AP50": "AP50"}  # fmt: skip
    cells = "".join(f"{100 * scores[key]:>11.2f}" for key in columns.values())
    head = "".join(f"{column:>11}" for column in columns)
    return f"{'':<{len(name)}}{head}\n{name}{cells}\nprotocol: {protocol.describe()}"


def _cell(scores: Mapping[str, float], column: str) -> str:
    if column not in scores:
        return f"{'-':>8}"
    value = scores[column] * (100 if column in _SHARES else 1)
    return f"{value:8.2f}"
