"""Build train, dev and test splits that share nothing."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from pipeline.config.schema import LamaParams, SuperGlueParams, load_params
from pipeline.data.geonames.examples import GEONAMES_EXAMPLES
from pipeline.data.geonames.facts import (
    GEONAMES_RELATIONS,
    geonames_facts,
    geonames_relation,
    geonames_vocabulary,
)
from pipeline.data.geonames.places import read_places
from pipeline.data.lama import (
    ALL,
    PAPER_PROMPTS,
    SPLITS,
    LamaSplits,
    read_facts,
    read_prompts,
    read_relations,
    read_removed_overlaps,
    read_vocabulary,
    write_lama,
)
from pipeline.data.splits import (
    clean_splits,
    holdout_split,
    multi_split,
    split_facts,
    split_items,
    take,
)
from pipeline.data.superglue import Record, read_records
from pipeline.errors import DataError
from pipeline.files import atomic_dir, write_json, write_jsonl
from pipeline.seeding import make_random
from pipeline.tasks import Task, get_task
from stages.runtime import Out, ParamsFile, TaskName, echo, stage

Raw = Annotated[Path, typer.Option("--raw", help="Folder that download wrote.")]
Metrics = Annotated[Path, typer.Option("--metrics", help="JSON file of counts to write.")]

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.command()
def lama(
    raw: Raw, out: Out, metrics: Metrics, params_file: ParamsFile = Path("params.yaml")
) -> None:
    """Split the facts of each relation; a subject-object pair stands in one split only."""
    with stage("splits", "lama") as this:
        params = load_params(params_file)
        build = {"geonames": _gazetteer, "lama": _lama}[params.lama.source]
        splits, left_out = build(raw, params.lama, params.seed)
        for name, facts in splits.facts.items():
            _check_none_empty(f"lama.splits: {name}", "facts", facts)
        counts = {
            name: {f"{split}/facts": len(own) for split, own in facts.items()} | left_out[name]
            for name, facts in splits.facts.items()
        }
        with atomic_dir(out) as folder:
            write_lama(folder, splits)
            write_json(folder / "counts.json", counts)
        totals = {"relations": len(counts), **_totals(counts.values())}
        write_json(metrics, totals)
        this.run.log_file(out / "counts.json")
        this.run.log_metrics(totals)
        this.run.log_metrics(
            {f"{key}/{name}": count for name, own in counts.items() for key, count in own.items()}
        )
        echo("  ".join(f"{key} {count}" for key, count in totals.items()))


def _gazetteer(
    raw: Path, params: LamaParams, seed: int
) -> tuple[LamaSplits, dict[str, dict[str, int]]]:
    """Deal the facts of the geonames; nothing is left out."""
    places = read_places(raw)
    names = GEONAMES_RELATIONS if params.relations == ALL else params.relations
    facts = {name: geonames_facts(places, name) for name in names}
    splits = LamaSplits(
        relations={name: geonames_relation(name) for name in names},
        facts={
            name: split_facts(
                own,
                sizes={
                    split: len(own) if size is None else size
                    for split, size in _sizes(params).items()
                },
                rng=make_random(seed, "splits", "lama", name),
            )
            for name, own in facts.items()
        },
        vocabulary=geonames_vocabulary(places),
        prompts=PAPER_PROMPTS,
    )
    return splits, {name: {} for name in names}


def _lama(raw: Path, params: LamaParams, seed: int) -> tuple[LamaSplits, dict[str, dict[str, int]]]:
    """Take LAMA's facts as they are split, without what two splits share."""
    known = read_relations(raw / "relations.jsonl")
    names = list(known) if params.relations == ALL else params.relations
    vocabulary = read_vocabulary(raw, params.subset)
    words = set(vocabulary)
    cleaned = {
        name: clean_splits(
            {split: read_facts(raw / name / f"{split}.jsonl") for split in SPLITS},
            words=words,
            sizes=_sizes(params),
            rng=make_random(seed, "splits", "lama", name),
        )
        for name in names
    }
    splits = LamaSplits(
        relations={name: known[name] for name in names},
        facts={name: facts for name, (facts, _) in cleaned.items()},
        vocabulary=vocabulary,
        prompts={**PAPER_PROMPTS, **read_prompts(raw, names)},
    )
    removed = read_removed_overlaps(raw)
    return splits, {
        name: {
            key: count + removed[name, key.removesuffix("/overlap")] for key, count in own.items()
        }
        for name, (_, own) in cleaned.items()
    }


def _sizes(params: LamaParams) -> dict[str, int | None]:
    sizes = params.splits
    return {"train": sizes.train_facts, "dev": sizes.dev_facts, "test": sizes.test_facts}


def _totals(counts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    totals: Counter[str] = Counter()
    for own in counts:
        totals.update(own)
    return dict(totals)


@app.command()
def superglue(
    task: TaskName, raw: Raw, out: Out, params_file: ParamsFile = Path("params.yaml")
) -> None:
    """Split the records of one task; records of one group stand in one split only."""
    with stage("splits", "superglue", task) as this:
        params = load_params(params_file)
        read = {"geonames": _made_records, "superglue": _official_records}
        given = read[params.superglue.source](raw, task, params.superglue, params.seed)
        files = {"test": given["test"]}
        for number, pair in enumerate(_pairs(given, task, params.superglue, params.seed), 1):
            files |= {f"{number}/{split}": records for split, records in pair.items()}
        counts = {
            f"{name}/{unit}": count
            for name, records in files.items()
            for unit, count in _counted(records, get_task(task)).items()
        }
        _check_none_empty(f"superglue.splits: {task}", "examples", files)
        with atomic_dir(out) as folder:
            for name, records in files.items():
                write_jsonl(folder / f"{name}.jsonl", records)
            write_json(folder / "counts.json", counts)
        this.run.log_file(out / "counts.json")
        this.run.log_metrics(counts)
        echo("  ".join(f"{key} {count}" for key, count in counts.items()))


def _made_records(
    raw: Path, task: TaskName, params: SuperGlueParams, seed: int
) -> dict[str, list[Record]]:
    """Deal the examples that are made of the geonames's facts."""
    made = GEONAMES_EXAMPLES[task](read_places(raw), make_random(seed, "examples", task))
    records = list(made)
    return split_items(
        records,
        sizes={
            split: len(records) if size is None else size
            for split, size in _record_sizes(params).items()
        },
        group=get_task(task).group,
        rng=make_random(seed, "splits", "superglue", task),
    )


def _official_records(
    raw: Path, task: TaskName, params: SuperGlueParams, seed: int
) -> dict[str, list[Record]]:
    """Take SuperGLUE's records as the protocol has it; see `superglue.protocol`."""
    kind = get_task(task)

    def read(name: str) -> list[Record]:
        return [record for record, _ in read_records(raw / f"{name}.jsonl", kind.examples)]

    if params.protocol in ("few-shot-32", "multi-split"):
        given = {"train": read("fewglue/train"), "dev": read("fewglue/dev32")}
    elif params.protocol == "full-paper":
        given = {"train": read("train"), "dev": read("val")}
    else:
        given = holdout_split(
            read("train"),
            share=params.splits.held_out,
            group=kind.group,
            rng=make_random(seed, "held out", task),
        )
    given["test"] = read("val")
    return {
        split: take(given[split], size, make_random(seed, "splits", task, split))
        for split, size in _record_sizes(params).items()
    }


def _pairs(
    given: Mapping[str, list[Record]], task: TaskName, params: SuperGlueParams, seed: int
) -> list[dict[str, list[Record]]]:
    """Return the train and dev sets that the protocol trains on; `multi-split` has several."""
    if params.protocol != "multi-split":
        return [{"train": given["train"], "dev": given["dev"]}]
    return multi_split(
        [*given["train"], *given["dev"]],
        train_share=params.splits.train_share,
        group=get_task(task).group,
        rngs=[
            make_random(seed, "multi-split", task, str(number))
            for number in range(1, params.splits.count + 1)
        ],
    )


def _record_sizes(params: SuperGlueParams) -> dict[str, int | None]:
    sizes = params.splits
    return {"train": sizes.train_examples, "dev": sizes.dev_examples, "test": sizes.test_examples}


def _check_none_empty(where: str, unit: str, splits: Mapping[str, Sequence[object]]) -> None:
    """Check that each split has something.

    Raises:
        DataError: one is empty. Groups that must not be torn apart may be larger than its room.
    """
    empty = [name for name, own in splits.items() if not own]
    if empty:
        sizes = ", ".join(f"{name} {len(own)}" for name, own in splits.items())
        raise DataError(
            f"{where}: no {unit} for {', '.join(empty)} (there are {sizes}); what belongs together "
            f"stays in one split, so ask for more {unit} there, or for fewer elsewhere"
        )


def _counted(records: Sequence[Record], task: Task) -> dict[str, int]:
    """Return how many records these are, and how many examples where a record holds several."""
    examples = [example for record in records for example in task.examples(record)]
    counts = {"examples": len(examples)}
    if len(examples) != len(records):
        counts = {"passages": len(records), **counts}
    return counts


if __name__ == "__main__":
    app()
