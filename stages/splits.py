"""Build disjoint train, dev and test splits."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config.schema import load_params
from pipeline.data.build_lama import build_lama
from pipeline.data.build_own import build_own
from pipeline.data.build_superglue import build_superglue
from pipeline.data.lama import write_lama
from pipeline.data.superglue import Record
from pipeline.files import atomic_dir, write_json, write_jsonl
from pipeline.tasks import Task, get_task
from pipeline.tasks.own import Definition
from stages.runtime import (
    Out,
    OwnTaskName,
    ParamsFile,
    RunningStage,
    TaskName,
    echo,
    stage,
)

Raw = Annotated[Path, typer.Option("--raw", help="Folder of the raw data.")]
Metrics = Annotated[Path, typer.Option("--metrics", help="JSON file of counts to write.")]

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.command()
def lama(
    raw: Raw, out: Out, metrics: Metrics, params_file: ParamsFile = Path("params.yaml")
) -> None:
    """Split the facts of each relation; a subject-object pair is in one split only."""
    with stage("splits", "lama") as running:
        params = load_params(params_file)
        splits, dropped = build_lama(raw, params.lama, params.seed)
        counts = {
            relation: {f"{split}/facts": len(facts) for split, facts in facts_by_split.items()}
            | dropped[relation]
            for relation, facts_by_split in splits.facts.items()
        }
        with atomic_dir(out) as folder:
            write_lama(folder, splits)
            write_json(folder / "counts.json", counts)
        sums: Counter[str] = Counter()
        for relation_counts in counts.values():
            sums.update(relation_counts)
        totals = {"relations": len(counts), **sums}
        write_json(metrics, totals)
        running.run.log_file(out / "counts.json")
        running.run.log_metrics(totals)
        running.run.log_metrics(
            {
                f"{key}/{relation}": count
                for relation, relation_counts in counts.items()
                for key, count in relation_counts.items()
            }
        )
        echo("  ".join(f"{key} {count}" for key, count in totals.items()))


@app.command()
def superglue(
    task: TaskName, raw: Raw, out: Out, params_file: ParamsFile = Path("params.yaml")
) -> None:
    """Split the records of one task; records of one group are in one split only."""
    with stage("splits", "superglue", task) as running:
        params = load_params(params_file)
        splits = build_superglue(raw, get_task(task), params.superglue, params.seed)
        counts = _counts(splits, get_task(task))
        with atomic_dir(out) as folder:
            _write(folder, splits, counts)
        _log(running, out, counts)


@app.command()
def tasks(task: OwnTaskName, out: Out, params_file: ParamsFile = Path("params.yaml")) -> None:
    """Split the rows of a task of the user, stratified by label."""
    with stage("splits", "tasks", task) as running:
        params = load_params(params_file)
        own = params.tasks[task]
        definition = Definition.from_params(task, own)
        splits, dropped = build_own(definition.task, own.data, params.seed)
        counts = _counts(splits, definition.task) | dropped
        with atomic_dir(out) as folder:
            definition.write(folder)
            _write(folder, splits, counts)
        _log(running, out, counts)


def _write(folder: Path, splits: Mapping[str, Sequence[Record]], counts: Mapping[str, int]) -> None:
    for name, records in splits.items():
        write_jsonl(folder / f"{name}.jsonl", records)
    write_json(folder / "counts.json", counts)


def _log(running: RunningStage, out: Path, counts: Mapping[str, int]) -> None:
    running.run.log_file(out / "counts.json")
    running.run.log_metrics(counts)
    echo("  ".join(f"{key} {count}" for key, count in counts.items()))


def _counts(splits: Mapping[str, Sequence[Record]], task: Task) -> dict[str, int]:
    """Number of examples of each split, and of passages if a record holds several examples."""
    counts = {}
    for name, records in splits.items():
        examples = sum(len(list(task.examples(record))) for record in records)
        if examples != len(records):
            counts[f"{name}/passages"] = len(records)
        counts[f"{name}/examples"] = examples
    return counts


if __name__ == "__main__":
    app()
