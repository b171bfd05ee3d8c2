import pytest

from pipeline.report.results import StabilityResults
from pipeline.report.stability import stability_parts
from tests.pipeline.report.conftest import TABLE_1


def test_the_spread_worked_out_by_hand(files):
    files.add_stability(templates={"P17": ["a {mask}", "b {mask}"], "P19": ["c", "d", "e"]})
    _, methods, templates = stability_parts("geonames", files.stability())
    # manual: 0.1, 0.2 and 0.1, 0.2, 0.3: means 0.15, 0.2; deviations sqrt(0.005), 0.1.
    # p-tuning: the same times 10 / 9.
    assert methods.splitlines() == [
        "| method | relations | templates | mean | worst | best | std |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| manual | 2 | 5 | 17.5 | 10.0 | 25.0 | 8.54 |",
        "| p-tuning | 2 | 5 | 19.4 | 11.1 | 27.8 | 9.48 |",
    ]
    assert templates.splitlines()[:4] == [
        "| relation | number | template | facts | manual | p-tuning |",
        "| --- | ---: | --- | ---: | ---: | ---: |",
        "| P17 | 1 | a {mask} | 930 | 10.0 | 11.1 |",
        "| P17 | 2 | b {mask} | 930 | 20.0 | 22.2 |",
    ]


def test_table_1_stands_beside_the_same_templates_of_lama(files):
    files.add_stability()
    _, methods, templates, source = stability_parts("lama", files.stability())
    assert methods.splitlines()[4:] == [
        "| manual (paper) | 1 | 4 | 33.4 | 19.8 | 51.1 | 13.00 |",
        "| p-tuning (paper) | 1 | 4 | 58.0 | 57.8 | 58.1 | 0.17 |",
    ]
    assert templates.splitlines()[5] == (
        "| P17 | 4 | {subject} is located in which country? In {mask}. | 930 | 40.0 | 44.4 | 51.1 "
        "| 58.1 |"
    )
    assert "Table 1 (verified)" in source


@pytest.mark.parametrize(
    ("source", "templates"),
    [
        ("geonames", {"P17": TABLE_1}),
        ("lama", {"P17": TABLE_1[:2]}),
        ("lama", {"P19": TABLE_1}),
        ("lama", {"P17": TABLE_1, "P19": TABLE_1}),
    ],
)
def test_table_1_stands_beside_nothing_else(files, source, templates):
    files.add_stability(templates=templates)
    assert "paper" not in "".join(stability_parts(source, files.stability()))


def test_a_template_that_a_method_lacks_has_an_empty_cell():
    metrics = {f"test/p_at_1{suffix}": 0.1 for suffix in ("", "_worst", "_best", "_std")}
    metrics |= {"test/relations": 1, "test/templates": 1}
    row = {"relation": "P1", "number": 2, "template": "t", "facts": 3, "manual": 0.5}
    results = StabilityResults({"manual": metrics, "p-tuning": metrics}, [row])
    assert stability_parts("lama", results)[2].splitlines()[2] == "| P1 | 2 | t | 3 | 50.0 |  |"
