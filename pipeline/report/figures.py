"""Figures as SVG text: the same data give the same bytes."""

import io
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.report.results import LamaResults, Row, StabilityResults, TaskResults
from pipeline.report.tables import CONTROLS


@dataclass(frozen=True)
class _Mark:
    """How a method is drawn: a color that the color-blind tell apart, and a shape for print."""

    color: str
    shape: str
    size: int = 46


# Colors of Okabe and Ito, but for the grey.
_MARKS = {
    "manual": _Mark("#64748b", "o"),
    "fine-tuning": _Mark("#56b4e9", "^"),
    "classifier": _Mark("#e69f00", "P"),
    "manual-fine-tuning": _Mark("#0072b2", "s"),
    "p-tuning": _Mark("#d55e00", "D"),
    "prompt-tuning": _Mark("#cc79a7", "v"),
    "discrete": _Mark("#009e73", "*", 110),
}
_CONTROLS = {"majority": "|", "naive_bayes": "x"}
# It has iterations in place of epochs, ten times as many.
_SEARCHED = "discrete"
# From so many panels on they are small.
_MANY = 13

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
    """Draw P@1 of each relation: a mark for each method and control, a line between methods."""
    methods = list(results.methods)
    rows = sorted(results.relations, key=lambda row: max(row[method] for method in methods))
    places = list(range(len(rows)))
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 1.6 + 0.34 * len(rows)), layout="constrained")
        axes = figure.subplots()
        _ranges(axes, [[row[method] for method in methods] for row in rows], places)
        for control in _CONTROLS:
            _control(axes, [row[control] for row in rows], places, control)
        for method in methods:
            _scatter(axes, [row[method] for row in rows], places, method)
        labels = [textwrap.shorten(row["label"], 34, placeholder=" …") for row in rows]
        names = [
            f"{row['relation']} {label}  (n={row['facts']})"
            for row, label in zip(rows, labels, strict=True)
        ]
        _percent_axis(axes, "test P@1, %", places, names)
        figure.legend(loc="outside upper left", ncols=4, frameon=False, handletextpad=0.2)
        return _svg(figure)


def stability_figure(results: StabilityResults) -> str:
    """Draw P@1 under each template: a strip for each relation and method, the best on the right."""
    relations = list(dict.fromkeys(row["relation"] for row in results.templates))
    strips = [(relation, method) for relation in relations for method in results.methods][::-1]
    scores = [
        [row[m] for row in results.templates if row["relation"] == r and m in row]
        for r, m in strips
    ]
    # A gap stands between relations.
    places = [i + 0.6 * (i // len(results.methods)) for i in range(len(strips))]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 0.9 + 0.3 * (places[-1] + 1)), layout="constrained")
        axes = figure.subplots()
        _ranges(axes, scores, places)
        for place, own, (_, method) in zip(places, scores, strips, strict=True):
            _scatter(axes, own, [place] * len(own), method)
        names = [f"{relation} {method}" for relation, method in strips]
        _percent_axis(axes, "test P@1, %, a mark for each template", places, names)
        return _svg(figure)


def _ranges(axes: Axes, scores: Sequence[Sequence[float]], places: Sequence[float]) -> None:
    for place, own in zip(places, scores, strict=True):
        ends = [100 * min(own), 100 * max(own)]
        axes.plot(ends, [place, place], color="#cbd5e1", lw=3, zorder=1)


def _control(axes: Axes, shares: Sequence[float], places: Sequence[float], control: str) -> None:
    shape = _CONTROLS[control]
    axes.scatter(
        [100 * share for share in shares],
        places,
        marker=shape,
        s=120 if shape == "|" else 30,
        color="#0f172a",
        lw=1.3,
        zorder=2,
        label=CONTROLS[control],
    )


def _scatter(axes: Axes, scores: Sequence[float], places: Sequence[float], method: str) -> None:
    mark = _MARKS[method]
    axes.scatter(
        [100 * score for score in scores],
        places,
        s=mark.size,
        zorder=3,
        label=method,
        color=mark.color,
        marker=mark.shape,
        edgecolor="white",
        lw=0.6,
    )


def _percent_axis(axes: Axes, label: str, places: Sequence[float], names: Sequence[str]) -> None:
    axes.set_yticks(places, names, parse_math=False)
    axes.set_xlim(-1, 101)
    axes.set_ylim(places[0] - 0.6, places[-1] + 0.6)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#e2e8f0")
    axes.set_axisbelow(True)


def curves_figure(results: LamaResults) -> str:
    """Draw dev P@1 by epoch, a panel for each relation, a line for each method."""
    names = [row["relation"] for row in results.relations]
    return _panels(results.curves, "relation", names, list(results.methods), "dev_p_at_1", "P@1")


def tasks_figure(results: Sequence[TaskResults]) -> str:
    """Draw the test score of each training: a strip for each task and method."""
    strips = [(result, method) for result in results for method in result.methods][::-1]
    scores = [[row["test_score"] for row in own.trainings[method]] for own, method in strips]
    tasks = [result.task for result in results][::-1]
    places = [i + 0.6 * tasks.index(result.task) for i, (result, _) in enumerate(strips)]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 1.2 + 0.3 * (places[-1] + 1)), layout="constrained")
        axes = figure.subplots()
        _ranges(axes, scores, places)
        majority = [result.methods[method]["test/majority"] for result, method in strips]
        _control(axes, majority, places, "majority")
        for place, own, (_, method) in zip(places, scores, strips, strict=True):
            _scatter(axes, own, [place] * len(own), method)
        names = [f"{result.task} {method}" for result, method in strips]
        _percent_axis(axes, "test score, %, a mark for each training", places, names)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles[:1], labels[:1], loc="outside upper left", frameon=False)
        return _svg(figure)


def task_curves_figure(results: Sequence[TaskResults]) -> str:
    """Draw the dev score by epoch, a panel for each task, a line for each training."""
    curves = [point for result in results for point in result.curves]
    methods = list(dict.fromkeys(method for result in results for method in result.methods))
    names = [result.task for result in results]
    return _panels(curves, "task", names, methods, "dev_score", "score")


def _panels(
    curves: Sequence[Row],
    unit: str,
    names: Sequence[str],
    methods: Sequence[str],
    value: str,
    label: str,
) -> str:
    many = len(names) >= _MANY
    columns = min(6 if many else 4, len(names))
    lines = -(-len(names) // columns)
    wide, high = (1.5, 1.2) if many else (2, 1.9)
    last = {method: _last_epoch(curves, method) for method in methods}
    trained = [last[method] for method in methods if method != _SEARCHED]
    epochs = max(trained, default=0) or max(last.values())
    with mpl.rc_context({**_STYLE, "font.size": 8 if many else 10}):
        figure = Figure(figsize=(1.2 + wide * columns, 1 + high * lines), layout="constrained")
        panels = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for panel in panels[len(names) :]:
            panel.set_visible(False)
        for panel in panels[len(names) - columns : len(names)]:
            panel.xaxis.set_tick_params(labelbottom=True)
        for panel, name in zip(panels, names, strict=False):
            panel.set_title(name, loc="left", color="#334155", size=8 if many else 10)
            panel.grid(color="#e2e8f0")
            for method in methods:
                points = [p for p in curves if p[unit] == name and p["method"] == method]
                trainings = dict.fromkeys(point.get("training") for point in points)
                for n, training in enumerate(trainings):
                    own = [point for point in points if point.get("training") == training]
                    _curve(panel, own, value, method, last[method], epochs, labeled=n == 0)
        panels[0].set_ylim(0, 100)
        panels[0].xaxis.get_major_locator().set_params(integer=True)
        figure.supxlabel("epoch", size=10, color="#334155")
        figure.supylabel(f"dev {label}, %", size=10, color="#334155")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=min(columns, 4), frameon=False
        )
        return _svg(figure)


def _last_epoch(curves: Sequence[Row], method: str) -> int:
    return max((point["epoch"] for point in curves if point["method"] == method), default=0)


def _curve(
    panel: Axes,
    points: Sequence[Row],
    value: str,
    method: str,
    last: int,
    epochs: int,
    *,
    labeled: bool,
) -> None:
    """Draw one curve; a search is laid over all epochs, since its iterations are far more."""
    mark = _MARKS[method]
    values = [100 * point[value] for point in points]
    if len(points) == 1:  # nothing was trained: the same at every epoch
        label = method if labeled else None
        panel.plot([0, epochs], values * 2, color=mark.color, ls="--", label=label)
        return
    searched = method == _SEARCHED and last != epochs
    label = f"{method} (iterations 0 to {last})" if searched else method
    scale = epochs / last if searched else 1
    panel.plot(
        [scale * point["epoch"] for point in points],
        values,
        color=mark.color,
        marker=mark.shape,
        ms=mark.size**0.5 / 2,
        markevery=max(1, len(points) // 6),
        label=label if labeled else None,
    )


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    return buffer.getvalue()
