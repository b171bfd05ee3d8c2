"""The page of results on SuperGLUE, Markdown, from the records that `gather_tasks` made."""

from collections.abc import Iterable, Sequence
from typing import get_args

from pipeline.config.schema import SuperGlueMethod, SuperGlueParams
from pipeline.report.paper_tasks import beside_paper_tasks, scores_by_method
from pipeline.report.records import commit_name, machine_name, minutes
from pipeline.report.results import Row, TaskResults
from pipeline.report.tables import (
    escaped,
    markdown_table,
    percent,
    score_parts,
    task_methods,
    task_settings_tried,
    task_trainings,
    training_budget,
)
from pipeline.tasks import get_task, task_names

_HEAD = """# SuperGLUE: results

Written from the records in [superglue/](superglue/), one JSON file a run, by the second of these
commands. The first adds what the project in the current folder has run.

```
python -m stages.report collect-tasks --name NAME --out docs/results/superglue
python -m stages.report tasks-results --results docs/results/superglue \\
  --out docs/results/superglue.md
```

Scores in percent, on SuperGLUE's dev sets, called test here: its own test sets have no labels. The
score of a task is the mean of its metrics; behind ± stands the standard deviation (n - 1) over the
trainings. The majority class uses no language model: it answers with the most frequent label of
train.
"""

_TASKS = tuple(task_names())
_METHODS: tuple[str, ...] = get_args(SuperGlueMethod)
_PROTOCOLS: tuple[str, ...] = get_args(SuperGlueParams.model_fields["protocol"].annotation)


def tasks_page(records: Sequence[Row]) -> str:
    """Return the page.

    Args:
        records: as `gather_tasks` makes them, in the order of the page.
    """
    parts = [_HEAD, "## What was run\n", _runs(records)]
    for record in records:
        results = _results(record)
        tables = (
            ("Scores", task_methods(results)),
            ("At the level of chance", _chance(record)),
            ("Beside the paper", _paper(record)),
            ("Settings that were tried", task_settings_tried(results)),
            ("By training", task_trainings(results)),
            ("Training and prompts", _settings(record)),
            ("Examples and majority class", _majority(record)),
        )
        parts.append(f"## `{record['name']}`\n")
        parts += [part for name, table in tables if table for part in (f"### {name}\n", table)]
    return "\n".join([*parts, "## What was not run\n", _not_run(records)])


def _results(record: Row) -> list[TaskResults]:
    return [
        TaskResults(
            task=task,
            methods={method: run["metrics"] for method, run in own["methods"].items()},
            trainings={method: run["trainings"] for method, run in own["methods"].items()},
            settings={method: run["settings"] for method, run in own["methods"].items()},
            curves=[],
        )
        for task, own in record["tasks"].items()
        if own["methods"]
    ]


def _chance(record: Row) -> str:
    """Return which methods' accuracy cannot be told from guessing, task by task.

    Guessing is the majority class or an even choice among the labels, whichever is right more
    often; the margin is 1.96 standard errors of a share of one half over the test examples.
    """
    lines = []
    for task, own in record["tasks"].items():
        count, majority = own["counts"]["test/examples"], own["majority"].get("accuracy")
        if majority is None or not own["methods"]:
            continue
        guess = max(majority, 1 / len(get_task(task).labels))
        margin = 1.96 * (0.25 / count) ** 0.5
        within = [
            method
            for method, run in own["methods"].items()
            if run["metrics"]["test/accuracy"] <= guess + margin
        ]
        lines.append(
            f"- {task}: {_listed(within)} (accuracy of at most {percent(guess)} by guessing, plus "
            f"{percent(margin)} for {count} examples)\n"
        )
    text = (
        "Methods whose mean accuracy is not above guessing, the better of the majority class and "
        "an even choice, by more than 1.96 standard errors of the test set:\n\n"
    )
    return text + "".join(lines) if lines else ""


def _paper(record: Row) -> str:
    """Return the run's scores above the paper's; empty where the data are not SuperGLUE's."""
    glue, model = record["params"]["superglue"], record["params"]["model"]["name"]
    if glue["source"] != "superglue":
        return ""
    return beside_paper_tasks(glue["protocol"], model, scores_by_method(_results(record)))


def _runs(records: Sequence[Row]) -> str:
    rows = []
    for record in records:
        glue = record["params"]["superglue"]
        rows.append(
            [
                f"`{record['name']}`",
                escaped(record["params"]["model"]["name"]),
                f"`{glue['source']}`, `{glue['protocol']}`",
                ", ".join(glue["tasks"]),
                ", ".join(map(str, glue["seeds"])),
                machine_name(record["hardware"]),
                record["date"],
                commit_name(record["git"]),
                escaped(record["note"]),
            ]
        )
    columns = ["run", "model", "data", "tasks", "seeds", "machine", "date", "commit", "note"]
    return markdown_table(columns, rows)


def _settings(record: Row) -> str:
    glue = record["params"]["superglue"]
    rows = [
        [
            task,
            method,
            "; ".join(dict.fromkeys(escaped(setting["template"]) for setting in run["settings"])),
            str(glue["prompts"][task]["max_length"]),
            training_budget(glue["training"][method]),
            _listed(
                escaped(f"{path}: {value}")
                for path, value in glue["overrides"][task].get(method, {}).items()
                if path != "template"
            ),
            *minutes(run["seconds"]),
        ]
        for task, own in record["tasks"].items()
        for method, run in own["methods"].items()
    ]
    columns = ["task", "method", "template", "max. length", "training", "but for this task"]
    return markdown_table([*columns, "training, min", "evaluation, min"], rows)


def _majority(record: Row) -> str:
    rows = [
        [
            task,
            *(str(own["counts"].get(f"{split}/examples", "")) for split in ("1/train", "1/dev")),
            str(own["counts"]["test/examples"]),
            escaped(own["majority"]["label"]),
            percent(own["majority"]["score"]),
            score_parts(own["majority"], ""),
        ]
        for task, own in record["tasks"].items()
    ]
    columns = ["task", "train", "dev", "test", "majority class", "its score", "of it"]
    return markdown_table(columns, rows)


def _not_run(records: Sequence[Row]) -> str:
    """Return a list of what the records do not hold."""
    official = [r for r in records if r["params"]["superglue"]["source"] == "superglue"]
    sections = [record["params"]["superglue"] for record in official]
    done = {
        (task, method) for glue in sections for task in glue["tasks"] for method in glue["methods"]
    }
    models = sorted({escaped(record["params"]["model"]["name"]) for record in records})
    gpus = sorted({escaped(r["hardware"]["gpu"]) for r in records if r["hardware"]["gpu"]})
    lines = [
        "Tasks not run with any method: "
        + _listed(task for task in _TASKS if task not in {t for t, _ in done}),
        "Methods not run on any task: "
        + _listed(method for method in _METHODS if method not in {m for _, m in done}),
        "Protocols not run: "
        + _listed(p for p in _PROTOCOLS if p not in {glue["protocol"] for glue in sections}),
        f"Models run: {_listed(models)}. The paper's Tables 4 and 5 are of BERT, GPT-2 and "
        "ALBERT-xxlarge: none of them was run unless it is named here.",
        f"GPUs used: {_listed(gpus)}.",
    ]
    tried = [
        run["settings"]
        for r in official
        for own in r["tasks"].values()
        for run in own["methods"].values()
    ]
    if all(len(settings) == 1 for settings in tried):
        lines.append("No setting was searched: one learning rate, batch and template a method.")
    return "".join(f"- {line}\n" for line in lines)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
