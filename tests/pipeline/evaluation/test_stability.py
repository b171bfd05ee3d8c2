import math
from typing import Any

import pytest

from pipeline.evaluation.stability import spread_over_templates


def row(relation: str, p_at_1: float) -> dict[str, Any]:
    return {"relation": relation, "template": "{subject} {mask}", "facts": 3, "p_at_1": p_at_1}


def test_one_relation_worked_by_hand() -> None:
    """The paper's Table 1, manual prompts of BERT-base: 31.3, 19.8, 31.4, 51.1."""
    found = spread_over_templates([row("P17", p) for p in (31.3, 19.8, 31.4, 51.1)])
    assert found == {
        "test/relations": 1,
        "test/templates": 4,
        "test/p_at_1": pytest.approx(33.4),
        "test/p_at_1_worst": 19.8,
        "test/p_at_1_best": 51.1,
        # Deviations -2.1, -13.6, -2.0, 17.7; their squares sum to 506.66, over n - 1 = 3.
        "test/p_at_1_std": pytest.approx(math.sqrt(506.66 / 3)),
    }


def test_relations_count_alike_however_many_templates_they_have() -> None:
    rows = [row("P17", 0.0), row("P30", 0.5), row("P17", 1.0), row("P30", 0.5), row("P30", 0.5)]
    found = spread_over_templates(rows)
    assert found == {
        "test/relations": 2,
        "test/templates": 5,
        "test/p_at_1": 0.5,
        "test/p_at_1_worst": 0.25,
        "test/p_at_1_best": 0.75,
        "test/p_at_1_std": pytest.approx((math.sqrt(0.5) + 0.0) / 2),
    }


def test_without_templates_only_their_number_is_told() -> None:
    assert spread_over_templates([]) == {"test/relations": 0, "test/templates": 0}
