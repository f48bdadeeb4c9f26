"""The page's figures as SVG text."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from ris.page.items import Group

BLUE, ORANGE = "#0072B2", "#D55E00"


def precision_curve(ious: Sequence[float], points: dict[float, float], operator: str) -> str:
    """Share of items whose IoU reaches X, for every X; `points`: {X: percent} of the table.

    operator: 'ge' counts IoU >= X, 'gt' IoU > X.
    """
    places = np.linspace(0, 1, 201)
    values = np.asarray(ious)[:, None]
    reached = (values >= places) if operator == "ge" else (values > places)
    figure, axis = _figure("X", "P@X, percent of items")
    axis.plot(places, 100 * reached.mean(axis=0), color=BLUE)
    axis.plot(list(points), list(points.values()), "o", color=ORANGE, label="in the table")
    axis.set(xlim=(0, 1), ylim=(0, 102))
    axis.legend(frameon=False)
    return _svg(figure, "precision")


def histogram(ious: Sequence[float]) -> str:
    """How many items have which IoU."""
    figure, axis = _figure("IoU", "items")
    axis.hist(ious, bins=np.linspace(0, 1, 21), color=BLUE, edgecolor="white")
    axis.set(xlim=(0, 1))
    return _svg(figure, "histogram")


def bars(groups: Sequence[Group], label: str, name: str) -> str:
    """Mean IoU of each group; how many items it has stands below its name."""
    figure, axis = _figure(label, "mean IoU, percent")
    drawn = axis.bar(range(len(groups)), [100 * group.mean for group in groups], color=BLUE)
    axis.bar_label(drawn, fmt="%.0f", fontsize=9)
    axis.set_xticks(
        range(len(groups)), [f"{group.name}\nn={group.count}" for group in groups], fontsize=9
    )
    axis.set(ylim=(0, 105))
    return _svg(figure, name)


def _figure(x: str, y: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # no pyplot: it would choose a backend for everyone

    figure = Figure(figsize=(5.2, 3.2), layout="constrained")
    axis = figure.add_subplot()
    axis.set(xlabel=x, ylabel=y)
    axis.spines[["top", "right"]].set_visible(False)
    return figure, axis


def _svg(figure: Any, name: str) -> str:
    """The <svg> element alone; `name` keeps its ids apart from those of the other figures."""
    from matplotlib import rc_context

    file = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    text = file.getvalue()
    return text[text.index("<svg") :]
