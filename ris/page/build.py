"""Records, data and the content of metrics.json to the page."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from refer import REFER
from refer.evaluation import ResProtocol, load_records
from refer.evaluation.protocol import EvaluationError
from refer.files import written_beside
from ris.page import plots
from ris.page.items import Item, by_length, by_share, extremes, join
from ris.page.pictures import data_uri

TEMPLATE = Path(__file__).with_name("template.html")


def write(
    path: str | Path,
    records: str | Path,
    metrics: Mapping[str, Any],
    refer: REFER,
    text_field: str = "sent",
) -> None:
    """Write the page of a test run.

    Args:
        path: the HTML file; it appears whole or not at all.
        records: records_<split>.jsonl with kept masks.
        metrics: what the run's metrics.json holds.
        refer: the data it was tested on.
        text_field: what of a sentence the model read.

    Raises the errors of `load_records`, `items.join` and `pictures.data_uri`, and EvaluationError
    if there is no item to show.
    """
    path, file = Path(path), load_records(records)
    items = join(file.records, file.protocol, refer, text_field)
    if not items:
        raise EvaluationError(f"{records} holds no item that the protocol scores; nothing to show")
    ious = [item.iou for item in items]
    scores = dict(metrics["scores"])
    points = {x: scores[f"P@{x:g}"] for x in file.protocol.thresholds}
    operator = file.protocol.threshold_operator
    figures = {
        "P@X": plots.precision_curve(ious, points, operator),
        "IoU of all items": plots.histogram(ious),
        "By expression length": plots.bars(by_length(items), "words", "length"),
        "By object size": plots.bars(by_share(items), "object, share of the picture", "share"),
    }
    worst, best = extremes(items)
    environment = Environment(autoescape=True, undefined=StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        title=f"{metrics['dataset']} {metrics['split']}",
        scores={name: f"{value:.2f}" for name, value in scores.items()},
        counts=metrics["counts"],
        figures={name: Markup(svg) for name, svg in figures.items()},  # ours, with no data's text
        galleries={
            f"Worst {len(worst)}": _gallery(worst, refer, file.protocol),
            f"Best {len(best)}": _gallery(best, refer, file.protocol),
        },
        protocol=_plain(metrics["protocol"]),
        run=_plain(_about(metrics)),
    )
    with written_beside(path) as written:
        written.write(page)


def _gallery(items: Sequence[Item], refer: REFER, protocol: ResProtocol) -> list[dict[str, Any]]:
    return [
        {
            "uri": data_uri(item, refer, protocol),
            "text": item.text,
            "iou": f"{100 * item.iou:.1f}",
            "where": f"ref {item.record.ref_id}, sentence {item.record.sent_id}, "
            f"picture {item.record.image_id}",
        }
        for item in items
    ]


def _about(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """What is said of the run beside scores and protocol."""
    names = ("checkpoint", "task", "dataset", "split_by", "split", "trained_on", "token_length",
             "data_hash", "seconds", "environment")  # fmt: skip
    return {name: metrics[name] for name in names if name in metrics}


def _plain(entries: Mapping[str, Any]) -> dict[str, str]:
    return {
        name: value if isinstance(value, str) else json.dumps(value, default=str)
        for name, value in entries.items()
    }
