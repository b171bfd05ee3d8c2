"""Stability: how far a relation's score hangs on which manual template it was asked with."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.evaluation.metrics import mean


def spread_over_templates(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return mean, worst, best and standard deviation over templates, each averaged over relations.

    Args:
        rows: one a template: `relation` and `p_at_1`; two or more of each relation.

    Returns:
        `test/p_at_1` and, under it, `worst`, `best` and `std` (of a sample, n - 1); the numbers of
        relations and templates.

    Source: P-tuning v2, Table 1 and the claim on standard deviations; the paper names neither the
    prompts behind that claim nor which deviation it takes.
    """
    scores: dict[str, list[float]] = {}
    for row in rows:
        scores.setdefault(row["relation"], []).append(row["p_at_1"])
    values: dict[str, float] = {"test/relations": len(scores), "test/templates": len(rows)}
    if scores:
        values |= {
            "test/p_at_1": mean([mean(own) for own in scores.values()]),
            "test/p_at_1_worst": mean([min(own) for own in scores.values()]),
            "test/p_at_1_best": mean([max(own) for own in scores.values()]),
            "test/p_at_1_std": mean([statistics.stdev(own) for own in scores.values()]),
        }
    return values
