"""Figures are read back from their SVG: the places of the marks, and the texts."""

import re
from typing import get_args
from xml.etree import ElementTree

import pytest

from pipeline.config.schema import LamaMethod, SuperGlueMethod
from pipeline.report.figures import (
    curves_figure,
    overview_figure,
    relations_figure,
    stability_figure,
    trainings_figure,
)
from pipeline.report.scores import MethodResult

SVG = "{http://www.w3.org/2000/svg}"
FORTY_ONE = [f"P{number}" for number in range(41)]


def _results(scores, curves=(), label="of") -> list[MethodResult]:
    """Make results from method -> relation -> P@1, and (method, epoch, P@1) of relation P1."""
    return [
        MethodResult(
            "lama",
            "",
            method,
            {},
            relations=[
                {"relation": name, "label": label, "facts": 10, "left_out": 0, "majority": 0.5,
                 "naive_bayes": 0.25, "p_at_1": score}
                for name, score in by_relation.items()
            ],
            curves=[
                {"task": "P1", "training": (), "epoch": epoch, "dev_score": score}
                for of, epoch, score in curves
                if of == method
            ],
        )
        for method, by_relation in scores.items()
    ]  # fmt: skip


def _task(task, method, scores, curve=()) -> MethodResult:
    trainings = [{"task": task, "test_score": score} for score in scores]
    curves = [
        {"task": task, "training": "a", "epoch": epoch, "dev_score": score}
        for epoch, score in enumerate(curve)
    ]
    metrics = {"test/majority": 0.5}
    return MethodResult("superglue", task, method, metrics, trainings=trainings, curves=curves)


def _groups(svg: str, name: str) -> list[ElementTree.Element]:
    root = ElementTree.fromstring(svg)
    return [g for g in root.iter(f"{SVG}g") if re.fullmatch(f"{name}_\\d+", g.get("id", ""))]


def _scatters(svg: str) -> list[ElementTree.Element]:
    """Return the groups of marks within the axes, without those of the legend."""
    (axes,) = _groups(svg, "axes")
    return [g for g in axes.iter(f"{SVG}g") if g.get("id", "").startswith("PathCollection")]


def _marks(svg: str) -> list[list[tuple[float, float]]]:
    """Return the places of the marks, a list for each control and method."""
    return [
        [(float(use.get("x")), float(use.get("y"))) for use in group.iter(f"{SVG}use")]
        for group in _scatters(svg)
    ]


def _written(svg: str) -> list[str]:
    """Return the texts; they are drawn as shapes, and matplotlib notes each in a comment."""
    return [text.strip() for text in re.findall("<!-- (.*?) -->", svg)]


def _lines(svg: str, color: str) -> list[list[tuple[float, float]]]:
    """Return the corners of the lines of one color that lie within axes, not in the legend."""
    paths = [
        path
        for axes in _groups(svg, "axes")
        for path in axes.iter(f"{SVG}path")
        if path.get("clip-path") and f"stroke: {color}" in path.get("style", "")
    ]
    corner = re.compile(r"[ML] (\S+) (\S+)")
    return [[(float(x), float(y)) for x, y in corner.findall(path.get("d"))] for path in paths]


def test_marks_are_where_the_numbers_are():
    scores = {
        "manual": {"P1": 0.0, "P2": 0.25, "P3": 1.0},
        "p-tuning": {"P1": 0.5, "P2": 0.75, "P3": 0.125},
    }
    control, bayes, *methods = _marks(relations_figure(_results(scores)))
    (left, _), (_, _), (right, _) = sorted(methods[0])
    assert left < right
    # Relations are sorted by their best score, the best on top.
    order = ["P1", "P2", "P3"]
    for marks, by_relation in zip(methods, scores.values(), strict=True):
        shares = [(x - left) / (right - left) for x, _ in marks]
        assert shares == pytest.approx([by_relation[name] for name in order], abs=1e-4)
    assert [(x - left) / (right - left) for x, _ in control] == pytest.approx([0.5] * 3, abs=1e-4)
    assert [(x - left) / (right - left) for x, _ in bayes] == pytest.approx([0.25] * 3, abs=1e-4)
    heights = [[y for _, y in marks] for marks in (control, bayes, *methods)]
    assert heights[0] == sorted(heights[0], reverse=True)
    assert all(own == heights[0] for own in heights)
    assert len(set(heights[0])) == 3


def test_relations_are_named_in_the_order_of_their_best_score():
    scores = {"manual": {"P1": 0.9, "P2": 0.1}, "p-tuning": {"P1": 0.0, "P2": 0.5}}
    texts = _written(relations_figure(_results(scores)))
    names = [text for text in texts if text.startswith("P") and "n=" in text]
    assert names == ["P2 of  (n=10)", "P1 of  (n=10)"]
    assert {"manual", "p-tuning", "majority class", "naive Bayes", "test P@1, %"} <= set(texts)


def test_a_curve_runs_through_its_numbers():
    results = _results(
        {"manual": {"P1": 0.1}, "p-tuning": {"P1": 0.2}},
        [("manual", 0, 0.5), ("p-tuning", 0, 0.0), ("p-tuning", 1, 0.25), ("p-tuning", 2, 1.0)],
    )
    svg = curves_figure(results)
    (trained,) = _lines(svg, "#d55e00")
    (flat,) = _lines(svg, "#64748b")
    (x0, bottom), (x1, y1), (x2, top) = trained
    assert (y1 - bottom) / (top - bottom) == pytest.approx(0.25, abs=1e-4)
    assert x1 - x0 == pytest.approx(x2 - x1, abs=1e-4)
    assert top < bottom
    # What was not trained is a level line over all epochs.
    assert [x for x, _ in flat] == pytest.approx([x0, x2], abs=1e-4)
    assert [(y - bottom) / (top - bottom) for _, y in flat] == pytest.approx([0.5] * 2, abs=1e-4)


def test_each_task_has_a_panel_with_its_own_curves():
    svg = curves_figure(
        [_task("rte", "manual", [], [0.0, 1.0]), _task("cb", "manual", [], [1.0, 0.0])]
    )
    assert len(_groups(svg, "axes")) == 2
    rising, falling = _lines(svg, "#64748b")
    assert rising[0][1] > rising[1][1]
    assert falling[0][1] < falling[1][1]
    assert {"rte", "cb", "dev score, %"} <= set(_written(svg))


def test_each_training_has_a_mark():
    svg = trainings_figure(
        [
            _task("rte", "manual", [0.0]),
            _task("rte", "p-tuning", [0.25, 1.0]),
            _task("cb", "manual", [0.75]),
        ]
    )
    # The strips from the bottom to the top.
    majority, (cb, manual), tuned = _marks(svg)
    left, right = manual[0], tuned[1][0]
    shares = [[(x - left) / (right - left) for x, _ in marks] for marks in (majority, [cb], tuned)]
    assert shares[0] == pytest.approx([0.5] * 3, abs=1e-4)
    assert shares[1] == pytest.approx([0.75], abs=1e-4)
    assert shares[2] == pytest.approx([0.25, 1.0], abs=1e-4)
    assert tuned[0][1] == tuned[1][1]
    assert [y for _, y in majority] == [cb[1], tuned[0][1], manual[1]]
    # From top to bottom as in the tables.
    assert manual[1] < tuned[0][1] < cb[1]
    assert {"rte manual", "rte p-tuning", "cb manual", "majority class"} <= set(_written(svg))


def test_relations_with_several_seeds_have_strips_with_their_own_control(files):
    files.add_lama(relations=["P17", "P30"], seeds=(1, 2))
    results = files.lama()
    svg = trainings_figure(results)
    names = [text for text in _written(svg) if text.startswith("P")]
    assert names[:4] == ["P30 p-tuning", "P30 manual", "P17 p-tuning", "P17 manual"]
    constant, manual, _ = _marks(svg)
    assert len(constant) == len(manual) == 4
    (low, _), (high, _) = constant[1], constant[3]
    scale = (manual[1][0] - manual[0][0]) / 0.01
    assert [row["constant"] for row in results[0].relations] == [0.0, 1 / 28]
    assert (low - high) / scale == pytest.approx(1 / 28, abs=1e-4)
    assert "test P@1, %, a mark for each training" in _written(svg)


@pytest.mark.parametrize("count", [1, 5, 13])
def test_every_relation_has_its_panel(count):
    names = FORTY_ONE[:count]
    svg = _curves_of(names)
    assert len(_groups(svg, "axes")) == count
    assert set(names) <= set(_written(svg))


@pytest.mark.parametrize("methods", [["p-tuning"], get_args(LamaMethod), get_args(SuperGlueMethod)])
def test_every_method_has_its_color_and_shape(methods):
    svg = relations_figure(_results({method: {"P1": 0.5, "P2": 0.25} for method in methods}))
    groups = _scatters(svg)
    marks = [next(group.iter(f"{SVG}use")) for group in groups]
    assert len(marks) == len(methods) + 2
    fills = [re.search("fill: (#\\w+)", mark.get("style")) for mark in marks[2:]]
    assert len({fill[1] for fill in fills}) == len(methods)
    # Without colors, the shapes tell them apart, the controls too.
    shapes = {
        path.get("id"): path.get("d") for path in ElementTree.fromstring(svg).iter(f"{SVG}path")
    }
    drawn = [shapes[mark.get("{http://www.w3.org/1999/xlink}href")[1:]] for mark in marks]
    assert len(set(drawn)) == len(marks)
    assert set(methods) <= set(_written(svg))


def test_a_long_label_is_cut_so_that_the_marks_have_room():
    results = _results(
        {"manual": {"P131": 0.5}}, label="located in the administrative territorial entity"
    )
    assert "P131 located in the administrative …  (n=10)" in _written(relations_figure(results))


def test_the_figure_of_41_relations_names_each():
    svg = relations_figure(_results({"manual": dict.fromkeys(FORTY_ONE, 0.5)}))
    assert [len(marks) for marks in _marks(svg)] == [41, 41, 41]
    assert {f"{name} of  (n=10)" for name in FORTY_ONE} <= set(_written(svg))


def _curves_of(names) -> str:
    (result,) = _results({"manual": dict.fromkeys(names, 0.5)})
    result.curves.extend(
        {"task": name, "training": (), "epoch": 0, "dev_score": 0.5} for name in names
    )
    return curves_figure([result])


def test_the_figure_of_relations_grows_with_them():
    heights = []
    for count in (5, 10, 20):
        svg = relations_figure(_results({"manual": dict.fromkeys(FORTY_ONE[:count], 0.5)}))
        heights.append(float(ElementTree.fromstring(svg).get("height").removesuffix("pt")))
    assert heights[2] - heights[1] == pytest.approx(2 * (heights[1] - heights[0]))
    assert heights[1] > heights[0]


def test_a_search_is_laid_over_the_epochs_of_the_others():
    results = _results(
        {"p-tuning": {"P1": 0.2}, "discrete": {"P1": 0.1}},
        [
            *[("p-tuning", epoch, 0.5) for epoch in range(3)],
            *[("discrete", iteration, 0.25) for iteration in range(21)],
        ],
    )
    svg = curves_figure(results)
    (trained,) = _lines(svg, "#d55e00")
    (searched,) = _lines(svg, "#009e73")
    assert (searched[0][0], searched[-1][0]) == pytest.approx((trained[0][0], trained[-1][0]))
    assert "discrete (iterations 0 to 20)" in _written(svg)


@pytest.mark.parametrize("others", [[], ["manual"]])
def test_a_search_without_epochs_beside_it_has_its_own(others):
    methods = [*others, "discrete"]
    results = _results(
        {method: {"P1": 0.1} for method in methods},
        [*[(m, 0, 0.1) for m in others], *[("discrete", n, 0.25) for n in range(21)]],
    )
    written = _written(curves_figure(results))
    assert "discrete" in written
    assert "20" in written


def test_a_published_prompt_that_was_chosen_is_a_level_line():
    results = _results(
        {"p-tuning": {"P1": 0.2}, "discrete": {"P1": 0.1}},
        [("p-tuning", 0, 0.5), ("p-tuning", 1, 0.5), ("discrete", 0, 0.25)],
    )
    (line,) = _lines(curves_figure(results), "#009e73")
    assert len(line) == 2
    assert line[0][1] == line[1][1]


def test_the_templates_of_a_relation_are_a_strip_for_each_method():
    svg = stability_figure(
        [
            MethodResult(
                "stability",
                "",
                method,
                {},
                templates=[
                    {"relation": relation, "p_at_1": number / 4 if method == "manual" else 0.5}
                    for relation in ("P1", "P2")
                    for number in (1, 2, 4)
                ],
            )
            for method in ("manual", "p-tuning")
        ]
    )
    names = [text for text in _written(svg) if text.startswith("P")]
    # From the bottom: the first relation is on top, its first method above the second.
    assert names == ["P2 p-tuning", "P2 manual", "P1 p-tuning", "P1 manual"]
    tuned, manual = _marks(svg)
    # From the top: both methods under P1, then under P2; the strips are drawn from the bottom.
    strips = [manual[3:], tuned[3:], manual[:3], tuned[:3]]
    heights = [{y for _, y in strip} for strip in strips]
    assert all(len(height) == 1 for height in heights)
    assert sorted(map(min, heights)) == list(map(min, heights))
    a, b, c = (x for x, _ in manual[:3])
    assert (c - b) / (b - a) == pytest.approx(2, abs=1e-3)
    assert {x for x, _ in tuned} == {b}


def test_the_overview_has_a_row_for_each_score_and_the_papers_mark_where_it_has_one(files):
    files.add_lama()
    files.add_task("rte")
    results = [*files.lama(), *files.task("rte")]
    ends = {result.name: (0.1, 0.4) for result in results}
    plain = overview_figure(results, ends, {})
    for name in ("majority class", "manual", "p-tuning", "rte majority class", "rte p-tuning"):
        assert f"<!-- {name} -->" in plain
    for shown in ("12.3", "26.6", "50.5", "65.3"):
        assert f"<!-- {shown} -->" in plain
    assert "<!-- paper -->" not in plain
    assert "<!-- paper -->" in overview_figure(results, ends, {"p-tuning": 0.483})
