"""Figures as SVG text: the same data give the same bytes."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.errors import printable
from pipeline.report.scores import (
    CONTROLS,
    HEADLINE,
    LABELS,
    MethodResult,
    Row,
    join,
    percent,
    setting_name,
    sort_relations,
)


@dataclass(frozen=True)
class _Mark:
    """How a method is drawn: its color is distinct to color-blind readers, its shape in print."""

    color: str
    shape: str
    size: int = 46
    edge: str | None = "white"
    edge_width: float = 0.6


# Colors of Okabe and Ito, except for the gray.
_MARKS = {
    "majority": _Mark("#0f172a", "|", 120, None, 1.3),
    "constant": _Mark("#0f172a", "+", 50, None, 1.3),
    "naive_bayes": _Mark("#0f172a", "x", 30, None, 1.3),
    "manual": _Mark("#64748b", "o"),
    "fine-tuning": _Mark("#56b4e9", "^"),
    "classifier": _Mark("#e69f00", "P"),
    "manual-fine-tuning": _Mark("#0072b2", "s"),
    "p-tuning": _Mark("#d55e00", "D"),
    "prompt-tuning": _Mark("#cc79a7", "v"),
    "discrete": _Mark("#009e73", "*", 110),
}
# It has iterations instead of epochs, ten times as many.
_SEARCHED = "discrete"
# With this many panels they are small.
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


def overview_figure(
    results: Sequence[MethodResult],
    intervals: Mapping[str, tuple[float, float]],
    paper: Mapping[str, float],
) -> str:
    """Draw the score of each method and control, narrow enough for a phone.

    Args:
        results: of LAMA and of SuperGLUE's tasks; those of tasks with several metrics have no
            interval, as theirs is of the accuracy.
        intervals: name of a result -> ends of its 95 % interval, as shares of 1.
        paper: method -> the paper's P@1 of the same model and facts.
    """
    # Task, method or control, score, its interval, the paper's score.
    lines: list[tuple[str, str, float, tuple[float, float] | None, float | None]] = []
    for task in dict.fromkeys(result.task for result in results):
        of = [result for result in results if result.task == task]
        for key in CONTROLS:
            share = of[0].metrics.get(f"test/{key}")
            if share is not None:
                lines.append((task, key, share, None, None))
        for result in of:
            share = result.metrics[f"test/{HEADLINE[result.benchmark]}"]
            whole = not task or share == result.metrics.get("test/accuracy")
            ends = intervals.get(result.name) if whole else None
            published = None if task else paper.get(result.method)
            lines.append((task, result.method, share, ends, published))
    groups = list(dict.fromkeys(line[0] for line in lines))
    # A gap between tasks.
    places = [-n - 0.6 * groups.index(line[0]) for n, line in enumerate(lines)]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(4.8, 0.8 + 0.28 * (1 - places[-1])), layout="constrained")
        axes = figure.subplots()
        for place, (_, method, share, ends, published) in zip(places, lines, strict=True):
            mark = _MARKS[method]
            if ends:
                axes.plot([100 * end for end in ends], [place] * 2, color=mark.color, lw=2)
            axes.scatter(
                [100 * share], [place], s=mark.size, color=mark.color, marker=mark.shape,
                edgecolor=mark.edge, lw=mark.edge_width, zorder=3,
            )  # fmt: skip
            axes.annotate(
                percent(share), (100 * max(share, ends[1] if ends else share), place), (7, 0),
                textcoords="offset points", va="center", color="#334155",
            )  # fmt: skip
            if published is not None:
                _draw_published(axes, published, place)
        names = [
            " ".join(filter(None, (task, CONTROLS.get(method, method))))
            for task, method, *_ in lines
        ]
        axes.set_yticks(places, names, parse_math=False)
        axes.set_xlim(-1, 108)
        axes.set_ylim(places[-1] - 0.6, 0.6)
        axes.set_xticks(range(0, 101, 20))
        tasks = any(line[0] for line in lines)
        axes.set_xlabel("test score, %" if tasks else "test P@1, %")
        axes.grid(axis="x", color="#e2e8f0")
        axes.set_axisbelow(True)
        handles, labels = axes.get_legend_handles_labels()
        if handles:
            figure.legend(handles[:1], labels[:1], loc="outside upper right", frameon=False)
        return _svg(figure)


def _draw_published(axes: Axes, share: float, place: float) -> None:
    """Draw a circle at the paper's score."""
    axes.scatter(
        [100 * share], [place], s=70, marker="o", facecolor="none", edgecolor="#0f172a",
        label="paper",
    )  # fmt: skip


def relations_figure(results: Sequence[MethodResult]) -> str:
    """Draw P@1 of each relation: a mark for each method and control, a line between methods."""
    methods = [result.method for result in results]
    rows = join(sort_relations(results), "relation")[::-1]  # from the bottom to the top
    marks = [*(control for control in CONTROLS if control in rows[0]), *methods]
    strips = [
        _Strip(
            f"{row['relation']} {_short(row['label'], 34)}  (n={row['facts']})",
            {mark: [row[mark]] for mark in marks},
            place,
        )
        for place, row in enumerate(rows)
    ]
    return _strips_figure(strips, "test P@1, %", inches=0.34, legend=4)


def trainings_figure(results: Sequence[MethodResult]) -> str:
    """Draw the test score of each training: a strip for each task and method."""
    strips = _grouped(results, "trainings", "task", "test_score")
    label = f"test {LABELS[HEADLINE[results[0].benchmark]]}, %, a mark for each training"
    return _strips_figure(strips, label, inches=0.3, legend=1)


def settings_figure(results: Sequence[MethodResult], paper: Mapping[tuple[str, str], float]) -> str:
    """Draw the test score of each setting that was evaluated, with its standard deviation.

    Args:
        results: of SuperGLUE, with several evaluated settings.
        paper: task, and template or tried value -> the paper's score of the same setting.
    """
    rows = [
        (result, row, setting_name(row))
        for result in results
        for row in result.settings
        if row["test_score"] is not None
    ]
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, 1.3 + 0.3 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for place, (result, row, name) in enumerate(reversed(rows)):
            mark = _MARKS[result.method]
            score, std = 100 * row["test_score"], 100 * (row["test_score_std"] or 0)
            axes.plot([score - std, score + std], [place] * 2, color=mark.color, lw=2)
            axes.scatter(
                [score], [place], s=mark.size, color=mark.color, marker=mark.shape,
                label=result.method, zorder=3,
            )  # fmt: skip
            published = paper.get((row["task"], name))
            if published is not None:
                _draw_published(axes, published, place)
        names = [f"{row['task']} {_short(name, 62)}" for _, row, name in reversed(rows)]
        axes.set_yticks(range(len(rows)), names, parse_math=False, size=7)
        axes.set_xlabel("test score, %, ± standard deviation")
        axes.grid(axis="x", color="#e2e8f0")
        axes.set_axisbelow(True)
        marks = dict(zip(*axes.get_legend_handles_labels()[::-1], strict=True))
        figure.legend(
            list(marks.values()), list(marks), loc="outside upper left", ncols=3, frameon=False
        )
        return _svg(figure)


def stability_figure(results: Sequence[MethodResult]) -> str:
    """Draw P@1 under each template: a strip for each relation and method."""
    strips = _grouped(results, "templates", "relation", "p_at_1")
    return _strips_figure(strips, "test P@1, %, a mark for each template", inches=0.3)


def _grouped(results: Sequence[MethodResult], rows: str, group: str, score: str) -> list["_Strip"]:
    """Return a strip for each group of rows and method; trainings have a mark of a control."""
    groups = list(dict.fromkeys(row[group] for result in results for row in getattr(result, rows)))
    strips: list[_Strip] = []
    for name, result in [(name, result) for name in groups for result in results][::-1]:
        if scores := [row[score] for row in getattr(result, rows) if row[group] == name]:
            name_of = "constant" if "test/constant" in result.metrics else "majority"
            of_relations = {row["relation"]: row.get(name_of) for row in result.relations}
            share = of_relations.get(name, result.metrics.get(f"test/{name_of}"))
            control = {name_of: [share]} if rows == "trainings" else {}
            place = len(strips) + 0.6 * groups[::-1].index(name)  # a gap between groups
            marks = {**control, result.method: scores}
            strips.append(_Strip(f"{name} {result.method}", marks, place))
    return strips


@dataclass(frozen=True)
class _Strip:
    """A line of marks at the height `place`: control or method -> the numbers."""

    name: str
    shares: dict[str, list[float]]
    place: float


def _strips_figure(strips: Sequence[_Strip], label: str, *, inches: float, legend: int = 0) -> str:
    """Draw strips from the bottom to the top, each some inches high.

    The legend has that number of columns; with one it names only the control; 0: no legend.
    """
    places = [strip.place for strip in strips]
    height = 0.9 + {0: 0, 1: 0.3}.get(legend, 0.7) + inches * (places[-1] + 1)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(7.5, height), layout="constrained")
        axes = figure.subplots()
        marks = dict.fromkeys(mark for strip in strips for mark in strip.shares)
        for strip in strips:
            shares = [s for mark, of in strip.shares.items() if mark not in CONTROLS for s in of]
            ends = [100 * min(shares), 100 * max(shares)]
            axes.plot(ends, [strip.place] * 2, color="#cbd5e1", lw=3, zorder=1)
        for name in sorted(marks, key=lambda mark: mark not in CONTROLS):  # controls first
            mark = _MARKS[name]
            points = [
                (100 * s, strip.place) for strip in strips for s in strip.shares.get(name, [])
            ]
            percents, heights = zip(*points, strict=True)
            axes.scatter(
                percents,
                heights,
                zorder=2 if name in CONTROLS else 3,
                label=CONTROLS.get(name, name),
                s=mark.size,
                color=mark.color,
                marker=mark.shape,
                edgecolor=mark.edge,
                lw=mark.edge_width,
            )
        axes.set_yticks(places, [strip.name for strip in strips], parse_math=False)
        axes.set_xlim(-1, 101)
        axes.set_ylim(places[0] - 0.6, places[-1] + 0.6)
        axes.set_xlabel(label)
        axes.grid(axis="x", color="#e2e8f0")
        axes.set_axisbelow(True)
        if legend:
            handles, labels = axes.get_legend_handles_labels()
            shown = len(handles) if legend > 1 else 1
            figure.legend(
                handles[:shown], labels[:shown], loc="outside upper left", ncols=legend,
                frameon=False, handletextpad=0.2 if legend > 1 else None,
            )  # fmt: skip
        return _svg(figure)


def curves_figure(results: Sequence[MethodResult]) -> str:
    """Draw the dev score by epoch: a panel for each task or relation, a line for each training."""
    points = [{**point, "method": r.method} for r in results for point in r.curves]
    names = list(dict.fromkeys(point["task"] for point in points))
    methods = list(dict.fromkeys(result.method for result in results))
    label = LABELS[HEADLINE[results[0].benchmark]]
    many = len(names) >= _MANY
    columns = min(6 if many else 4, len(names))
    lines = -(-len(names) // columns)
    wide, high = (1.5, 1.2) if many else (2, 1.9)
    last = dict.fromkeys(methods, 0)
    for point in points:
        last[point["method"]] = max(last[point["method"]], point["epoch"])
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
                curves: dict[Any, list[Row]] = {}
                for point in points:
                    if (point["task"], point["method"]) == (name, method):
                        curves.setdefault(point["training"], []).append(point)
                legend = method
                if method == _SEARCHED and last[method] not in (0, epochs):
                    legend += f" (iterations 0 to {last[method]})"
                for number, curve in enumerate(curves.values()):
                    _draw_curve(panel, curve, epochs, legend if number == 0 else None)
        panels[0].set_ylim(0, 100)
        panels[0].xaxis.get_major_locator().set_params(integer=True)
        figure.supxlabel("epoch", size=10, color="#334155")
        figure.supylabel(f"dev {label}, %", size=10, color="#334155")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside upper left", ncols=min(columns, 4), frameon=False
        )
        return _svg(figure)


def _draw_curve(panel: Axes, points: Sequence[Row], epochs: int, label: str | None) -> None:
    """Draw one curve; a search is stretched over all epochs, since its iterations are far more."""
    method, last = points[0]["method"], points[-1]["epoch"]
    mark = _MARKS[method]
    values = [100 * point["dev_score"] for point in points]
    if len(points) == 1:  # nothing was trained: the same at every epoch
        panel.plot([0, epochs], values * 2, color=mark.color, ls="--", label=label)
        return
    scale = epochs / last if method == _SEARCHED else 1
    panel.plot(
        [scale * point["epoch"] for point in points],
        values,
        color=mark.color,
        marker=mark.shape,
        ms=mark.size**0.5 / 2,
        markevery=max(1, len(points) // 6),
        label=label,
    )


def _short(text: str, width: int) -> str:
    """Return text of a user in one line of at most so many characters, as XML can have it."""
    return textwrap.shorten(printable(text), width, placeholder=" …")


def _svg(figure: Figure) -> str:
    buffer = io.StringIO()
    figure.savefig(
        buffer, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type"))
    )
    return buffer.getvalue()
