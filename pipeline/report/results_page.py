"""The page of results, Markdown, from the records that `collect` made."""

from collections.abc import Sequence
from statistics import fmean

from pipeline.report.beside import Ours, beside_paper, paper_differences
from pipeline.report.gaps import not_run
from pipeline.report.paper import TABLE_3
from pipeline.report.records import (
    EncodedExample,
    Run,
    commit_name,
    machine_name,
    minutes,
    same_facts,
)
from pipeline.report.results import Row, StabilityResults, join_relations, join_templates
from pipeline.report.stability import stability_parts
from pipeline.report.tables import (
    CONTROLS,
    escaped,
    lama_counts,
    lama_relations,
    markdown_table,
    percent,
    training_budget,
)

_HEAD = """# Knowledge probing: results

Written from the records in [lama/](lama/), one JSON file a run, by the second of these commands.
The first adds what the project in the current folder has run.

```
python -m stages.report collect --name NAME --out docs/results/lama
python -m stages.report results --results docs/results/lama --out docs/results/lama.md
```

P@1 in percent: the share of facts whose object is the first answer, averaged over relations.
Majority class and naive Bayes use no language model.
"""


def results_page(records: Sequence[Row]) -> str:
    """Return the page.

    Args:
        records: as `gather` makes them, in the order of the page.
    """
    runs = [Run(record) for record in records]
    probing = [run for run in runs if run.methods]
    sections = [
        _HEAD,
        "## What was run\n",
        _runs(runs),
        *_scores(probing),
        "### Settings\n",
        _settings(runs),
        *_compared(probing),
        *_by_relation(probing),
        *_paper(probing),
        *_stability([run for run in runs if run.stability]),
        "## What was not run\n",
        not_run(runs),
    ]
    return "\n".join(sections)


def _runs(runs: Sequence[Run]) -> str:
    rows = [
        [
            run.name,
            escaped(run.model),
            run.data,
            run.relations,
            str(run.seed),
            machine_name(run.record["hardware"]),
            run.record["date"],
            commit_name(run.record["git"]),
            escaped(run.record["note"]),
        ]
        for run in runs
    ]
    columns = [
        "run", "model", "facts of", "relations", "seed", "machine", "date", "commit", "note"
    ]  # fmt: skip
    return markdown_table(columns, rows)


def _scores(runs: Sequence[Run]) -> list[str]:
    if not runs:
        return []
    columns = [
        "run", "method", "relations", "test facts", "left out", "test P@1", "dev P@1",
        "training, min", "evaluation, min",
    ]  # fmt: skip
    counts = [f"- {run.name}: {lama_counts(run.first['metrics'], run.splits)}\n" for run in runs]
    rows = [row for run in runs for row in _score_rows(run)]
    return ["### Scores\n", markdown_table(columns, rows), "".join(counts)]


def _score_rows(run: Run) -> list[list[str]]:
    def row(name: str, metrics: Row, key: str) -> list[str]:
        counts = [metrics["test/facts"], metrics["test/left_out"]]
        asked = [len(run.first["relations"]), *counts]
        return [run.name, name, *map(str, asked), percent(metrics[f"test/{key}"])]

    rows = [
        [
            *row(method, own["metrics"], "p_at_1"),
            percent(own["metrics"]["dev/p_at_1"]),
            *minutes(own["seconds"]),
        ]
        for method, own in run.methods.items()
    ]
    controls = [row(name, run.first["metrics"], control) for control, name in CONTROLS.items()]
    return rows + [[*control, "", "", ""] for control in controls]


def _settings(runs: Sequence[Run]) -> str:
    rows = [
        [run.name, method, escaped(run.lama["prompts"][method]), training_budget(training)]
        for run in runs
        for method, training in run.lama["training"].items()
    ]
    return markdown_table(["run", "method", "prompt", "training"], rows)


def _compared(runs: Sequence[Run]) -> list[str]:
    """Compare methods that were asked the same facts, on the relations that all trained share."""
    parts = []
    for title, asked in same_facts(runs):
        trained = [own for own in asked if own.method != "manual"]
        if not trained:
            continue
        shared = [r for r in trained[0].rows if all(r in own.rows for own in trained)]
        parts.append(f"### {title}\n")
        if not shared:
            parts.append("No relation was run with all trained methods.\n")
            continue
        covering = [own for own in asked if all(relation in own.rows for relation in shared)]
        parts += [f"On {', '.join(shared)}.\n", _comparison(covering, trained[0], shared)]
    return ["## On the relations that all trained methods share\n", *parts] if parts else []


def _comparison(
    asked: Sequence[EncodedExample], first: EncodedExample, shared: Sequence[str]
) -> str:
    def row(name: str, asked: EncodedExample, key: str) -> list[str]:
        own = [asked.rows[relation] for relation in shared]
        counts = [len(own), sum(relation["facts"] for relation in own)]
        return [
            name,
            asked.run.name,
            *map(str, counts),
            percent(fmean(relation[key] for relation in own)),
        ]

    rows = [row(own.method, own, "p_at_1") for own in asked]
    rows += [row(name, first, control) for control, name in CONTROLS.items()]
    return markdown_table(["method", "run", "relations", "test facts", "test P@1"], rows)


def _by_relation(runs: Sequence[Run]) -> list[str]:
    parts = []
    for title, asked in same_facts(runs):
        names = [own.method for own in asked]
        columns = {
            own.method if names.count(own.method) == 1 else f"{own.method}, {own.run.name}": list(
                own.rows.values()
            )
            for own in asked
        }
        parts += [f"### {title}\n", lama_relations(list(columns), join_relations(columns))]
    return ["## By relation\n", *parts] if parts else []


def _paper(runs: Sequence[Run]) -> list[str]:
    parts = []
    for subset in TABLE_3:
        same = [run for run in runs if run.source == "lama" and run.lama["subset"] == subset]
        ours = [_ours(run) for run in same]
        if ours:
            parts += [
                f"## Beside the paper: LAMA {subset}\n",
                beside_paper(subset, ours),
                paper_differences(subset, ours),
            ]
    return parts


def _ours(run: Run) -> Ours:
    return Ours(
        name=f"{run.model} ({run.record['name']})",
        model=run.model,
        relations=len(run.first["relations"]),
        facts=run.first["metrics"]["test/facts"],
        p_at_1={method: own["metrics"]["test/p_at_1"] for method, own in run.methods.items()},
    )


def _stability(runs: Sequence[Run]) -> list[str]:
    parts = []
    for run in runs:
        methods = run.stability
        results = StabilityResults(
            {method: own["metrics"] for method, own in methods.items()},
            join_templates({method: own["templates"] for method, own in methods.items()}),
        )
        taken = [
            f"{method} {' and '.join(minutes(own['seconds']))}" for method, own in methods.items()
        ]
        parts += [
            f"### {run.name}: {escaped(run.model)}, {run.data}\n",
            *stability_parts(run.source, results),
            f"Minutes of training and evaluation: {'; '.join(taken)}.\n",
        ]
    return ["## Stability over templates\n", *parts] if parts else []
