"""Figures as SVG text: the same data give the same bytes."""

import io
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.results import LamaResults, Row, TaskResults

_COLOURS = {
    "manual": "#64748b",
    "p-tuning": "#c2410c",
    "manual-fine-tuning": "#1d4ed8",
}
_STYLE: dict[Any, Any] = {
    "font.size": 10,
    "svg.hashsalt": "p-tuning",
    "svg.fonttype": "path",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#94a3b8",
    "xtick.color": "#475569",
    "ytick.color": "#475569",
    "axes.labelcolor": "#334155",
    "axes.titlesize": 10,
}


def relations_figure(results: LamaResults) -> str:
    """Draw P@1 of each relation: a mark for each method, a line between them, the control."""
    rows = sorted(results.relations, key=lambda row: max(row[m] for m in results.methods))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7, 1.4 + 0.34 * len(rows)), layout="constrained")
        axes = figure.subplots()
        places = range(len(rows))
        for place, row in zip(places, rows, strict=True):
            values = [100 * row[method] for method in results.methods]
            axes.plot([min(values), max(values)], [place, place], color="#cbd5e1", lw=3, zorder=1)
        axes.scatter(
            [100 * row["majority"] for row in rows],
            places,
            marker="|",
            s=120,
            color="#0f172a",
            zorder=2,
            label="majority class",
        )
        for method in results.methods:
            axes.scatter(
                [100 * row[method] for row in rows],
                places,
                s=46,
                zorder=3,
                label=method,
                color=_COLOURS[method],
            )
        axes.set_yticks(
            places, [f"{row['relation']} {row['label']}  (n={row['facts']})" for row in rows]
        )
        axes.set_xlim(-1, 100)
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.set_xlabel("test P@1, %")
        axes.grid(axis="x", color="#e2e8f0")
        axes.set_axisbelow(True)
        figure.legend(loc="outside upper left", ncols=4, frameon=False, handletextpad=0.2)
        return _svg(figure)


def curves_figure(results: LamaResults) -> str:
    """Draw dev P@1 by epoch, a panel for each relation, a line for each method."""
    names = [row["relation"] for row in results.relations]
    return _panels(results.curves, "relation", names, list(results.methods), "dev_p_at_1", "P@1")


def tasks_figure(results: Sequence[TaskResults]) -> str:
    """Draw dev accuracy by epoch, a panel for each task, a line for each method."""
    curves = [point for result in results for point in result.curves]
    methods = list(dict.fromkeys(method for result in results for method in result.methods))
    names = [result.task for result in results]
    return _panels(curves, "task", names, methods, "dev_accuracy", "accuracy")


def _panels(
    curves: Sequence[Row],
    unit: str,
    names: Sequence[str],
    methods: Sequence[str],
    value: str,
    label: str,
) -> str:
    columns = min(4, len(names))
    lines = -(-len(names) // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(1.2 + 2 * columns, 1 + 1.9 * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        last = max(point["epoch"] for point in curves)
        for panel, name in zip(panels, names, strict=False):
            panel.set_title(name, loc="left", color="#334155")
            panel.grid(color="#e2e8f0")
            for method in methods:
                points = [p for p in curves if p[unit] == name and p["method"] == method]
                _curve(panel, points, value, method, _COLOURS[method], last)
        panels[0].set_ylim(0, 100)
        panels[0].xaxis.get_major_locator().set_params(integer=True)
        figure.supxlabel("epoch", size=10, color="#334155")
        figure.supylabel(f"dev {label}, %", size=10, color="#334155")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper left", ncols=4, frameon=False)
        return _svg(figure)


def _curve(
    panel: Axes, points: Sequence[Row], value: str, label: str, colour: str, last: int
) -> None:
    values = [100 * point[value] for point in points]
    if len(points) == 1:  # nothing was trained: the same at every epoch
        panel.plot([0, last], values * 2, color=colour, ls="--", label=label)
    else:
        epochs = [point["epoch"] for point in points]
        panel.plot(epochs, values, color=colour, marker="o", ms=3, label=label)


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    return buffer.getvalue()
