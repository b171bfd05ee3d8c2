"""Build train, dev and test splits that share nothing."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.data.gazetteer.facts import gazetteer_facts, gazetteer_relation, gazetteer_vocabulary
from pipeline.data.gazetteer.places import read_places
from pipeline.data.gazetteer.rte import gazetteer_rte
from pipeline.data.lama import LamaSplits, write_lama
from pipeline.data.splits import split_facts, split_items
from pipeline.files import staged_folder, write_json, write_jsonl
from pipeline.params import SuperGlueTask, load_params
from pipeline.seeding import make_random
from pipeline.tasks import TASKS
from stages.running import Out, ParamsFile, say, stage

Raw = Annotated[Path, typer.Option("--raw", help="Folder that download wrote.")]

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.command()
def lama(raw: Raw, out: Out, params_file: ParamsFile = Path("params.yaml")) -> None:
    """Split the facts of each relation; a subject-object pair stands in one split only."""
    with stage("splits", "lama") as this:
        params = load_params(params_file)
        places = read_places(raw)
        sizes = params.lama.splits
        splits = LamaSplits(
            relations={name: gazetteer_relation(name) for name in params.lama.relations},
            facts={
                name: split_facts(
                    gazetteer_facts(places, name),
                    sizes={
                        "train": sizes.train_facts,
                        "dev": sizes.dev_facts,
                        "test": sizes.test_facts,
                    },
                    rng=make_random(params.seed, "splits", "lama", name),
                )
                for name in params.lama.relations
            },
            vocabulary=gazetteer_vocabulary(places),
        )
        counts = {name: _counts(facts) for name, facts in splits.facts.items()}
        with staged_folder(out) as folder:
            write_lama(folder, splits)
            write_json(folder / "counts.json", counts)
        this.run.log_file(out / "counts.json")
        this.run.log_metrics(
            {
                f"{split}/facts/{name}": count
                for name, by_split in counts.items()
                for split, count in by_split.items()
            }
        )
        say(f"facts: {counts}")


@app.command()
def superglue(
    task: SuperGlueTask, raw: Raw, out: Out, params_file: ParamsFile = Path("params.yaml")
) -> None:
    """Split the examples of one task; examples of one group stand in one split only."""
    with stage("splits", "superglue", task) as this:
        params = load_params(params_file)
        sizes = params.superglue.splits
        examples = list(gazetteer_rte(read_places(raw), make_random(params.seed, "examples", task)))
        splits = split_items(
            examples,
            sizes={
                "train": sizes.train_examples,
                "dev": sizes.dev_examples,
                "test": sizes.test_examples,
            },
            group=lambda example: example[TASKS[task].group],
            rng=make_random(params.seed, "splits", "superglue", task),
        )
        counts = _counts(splits)
        with staged_folder(out) as folder:
            for split, records in splits.items():
                write_jsonl(folder / f"{split}.jsonl", records)
            write_json(folder / "counts.json", counts)
        this.run.log_file(out / "counts.json")
        this.run.log_metrics({f"{split}/examples": count for split, count in counts.items()})
        say(f"examples: {counts}")


def _counts(splits: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    return {split: len(items) for split, items in splits.items()}


if __name__ == "__main__":
    app()
