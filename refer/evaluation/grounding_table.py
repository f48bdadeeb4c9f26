"""Grounding scores as a text table that names what they are of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from refer.evaluation.grounding_scores import GroundingProtocol


def grounding_table(
    rows: Sequence[tuple[str, Mapping[str, Any]]],
    protocol: GroundingProtocol,
    by_type: bool = False,
) -> str:
    """Rows (name, scores as of `GroundingEvaluator.compute`, all under `protocol`) as text.

    Columns: Acc@<threshold>, mIoU, R@k, R@all in percent with 2 decimals, the number of phrases;
    with `by_type` each row is followed by its types, which have no Acc (it is R@1) and no mIoU. The
    last line is the protocol in words.
    """
    recalls = [f"R@{k}" for k in protocol.ranks]
    columns = [f"Acc@{protocol.threshold:g}", "mIoU", *recalls, "R@all"]
    lines: list[tuple[str, Mapping[str, Any]]] = []
    for name, scores in rows:
        lines.append((name, scores))
        if by_type:
            lines += [(f"  {kind}", own) for kind, own in scores["by_type"].items()]
    width = max([len(name) for name, _ in lines] + [0])
    text = [" " * width + "".join(f"{column:>9}" for column in columns) + f"{'phrases':>10}"]
    for name, scores in lines:
        cells = [f"{scores[c]:9.2f}" if c in scores else f"{'-':>9}" for c in columns]
        text.append(f"{name:<{width}}" + "".join(cells) + f"{scores['n_items']:10,}")
    return "\n".join([*text, f"protocol {protocol.name}: {in_words(protocol)}"])


def in_words(protocol: GroundingProtocol) -> str:
    """The protocol for whoever reads a score."""
    sign = ">=" if protocol.threshold_operator == "ge" else ">"
    truth = {
        "any": "any true box of the phrase (ANY-BOX)",
        "merged": "the box around all true boxes of the phrase (MERGED-BOX)",
    }[protocol.truth]
    return f"right at IoU {sign} {protocol.threshold:g} with {truth}, all phrases as they occur"
