"""Manual prompts of LAMA under each `model.start`, on the test facts of the last `dvc repro`.

Without a start token, the subject of a manual prompt is at a causal model's first position, which
has no context; how much that costs differs between relations.
"""

from datetime import UTC, datetime
from pathlib import Path
from statistics import fmean
from typing import Annotated, Any

import numpy as np
import typer

from benchmarks.machine import describe
from pipeline.config.schema import Params, load_params
from pipeline.data.lama import LamaSplits, read_lama
from pipeline.errors import ModelError
from pipeline.evaluation.evaluate import evaluate
from pipeline.files import read_json, write_json, write_text
from pipeline.models.dataset import PromptFormat
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.models.memory import estimate_max_tokens
from pipeline.report.scores import percent
from pipeline.report.significance import Answers, score_interval
from pipeline.report.tables import data_name, escaped, markdown_table
from pipeline.tasks.lama import apply_layout, fact_examples, lama_task, manual_template

STARTS = ("none", "bos", "auto")
RESULTS = Path("docs/results/starts")

_HEAD = """# Manual prompts under each start

Written by `python -m benchmarks.starts`, from the records in [starts/](starts/).

P@1 in percent on the test facts, with 95 % intervals of a bootstrap over facts. Nothing is trained.

- `none`: a row begins with the template's first word, at a position without context.
- `bos`: with the tokenizer's own first token.
- `auto`, the default: with what the tokenizer puts there, else a newline, as LAMA does for GPT.
"""


def main(
    name: Annotated[str, typer.Option(help="Name of the record.")],
    model: Annotated[Path, typer.Option(help="Folder of the model.")] = Path("data/model"),
    splits: Annotated[Path, typer.Option(help="Folder of the splits.")] = Path("data/splits/lama"),
    params_file: Annotated[Path, typer.Option("--params")] = Path("params.yaml"),
    results: Annotated[Path, typer.Option(help="Folder of the records.")] = RESULTS,
) -> None:
    """Evaluate the manual prompts under each start, keep a record, and write the page of all."""
    params, data = load_params(params_file), read_lama(splits, ["train", "test"])
    scores: dict[str, Any] = {}
    for start in STARTS:
        try:
            network = load_model(
                model, device=params.runtime.device, dtype=params.model.dtype,
                threads=params.runtime.threads, start=start,
            )  # fmt: skip
        except ModelError as error:
            scores[start] = {"not_run": str(error)}
            continue
        if network.masked:
            raise ModelError(f"{model}: a masked model has no start of its rows to choose")
        scores[start] = evaluate_start(network, data, params)
        typer.echo(f"{start}: P@1 {percent(scores[start]['p_at_1'])}")
    record = {
        "name": name,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": describe(network.device)["name"],
        "model": params.model.name,
        "source": params.lama.source,
        "subset": params.lama.subset,
        "objects": params.lama.objects,
        "starts": scores,
    }
    write_json(results / f"{name}.json", record)
    records = [read_json(path) for path in sorted(results.glob("*.json"))]
    write_text(results.with_suffix(".md"), starts_page(records))


def evaluate_start(network: PromptedModel, data: LamaSplits, params: Params) -> dict[str, Any]:
    """Return the tokens in front, P@1, its interval, and facts and P@1 of each relation."""
    most = estimate_max_tokens(network, wanted=params.runtime.max_tokens_per_forward)
    relations, correct = {}, {}
    for name, relation in data.relations.items():
        manual = manual_template(params.lama.templates.get(name, relation.template))
        template = apply_layout("manual", manual, masked=network.masked)
        found = evaluate(
            network,
            PromptFormat(lama_task(name, data.vocabulary), template, None, None),
            None,
            {split: fact_examples(facts) for split, facts in data.facts[name].items()},
            max_tokens_per_forward=most,
        )
        relations[name] = {"facts": found.num_examples, "p_at_1": found.score}
        correct[name] = np.array([[r["answer"] == r["object"] for r in found.predictions]])
    return {
        "tokens": network.codec.tokenizer.decode(network.codec.prefix),
        "p_at_1": fmean(row["p_at_1"] for row in relations.values()),
        "interval": score_interval(Answers([(1, 0)], {}, correct)),
        "relations": relations,
    }


def starts_page(records: list[dict[str, Any]]) -> str:
    """Return the records as Markdown: the means, then each relation."""
    parts = [_HEAD]
    for record in records:
        run = {start: of for start, of in record["starts"].items() if "not_run" not in of}
        first = next(iter(run.values()))["relations"]
        means = [
            {
                "start": f"`{start}`",
                "tokens in front": escaped(repr(of["tokens"])) if of["tokens"] else "",
                "P@1": percent(of["p_at_1"]),
                "95 % interval": " to ".join(map(percent, of["interval"])),
            }
            for start, of in run.items()
        ]
        rows = [
            {
                "relation": name,
                "test facts": row["facts"],
                **{start: percent(of["relations"][name]["p_at_1"]) for start, of in run.items()},
            }
            for name, row in first.items()
        ]
        data = data_name(record["source"], record["subset"], record.get("objects", ""))
        parts += [
            f"## `{record['name']}`: {escaped(record['model'])}, {data}, {len(first)} relations",
            f"{record['date']}, {escaped(record['machine'])}.",
            markdown_table(means),
            *(
                f"`{start}` was not run: {escaped(of['not_run'])}"
                for start, of in record["starts"].items()
                if "not_run" in of
            ),
            markdown_table(rows),
        ]
    return "\n\n".join(part.strip() for part in parts) + "\n"


if __name__ == "__main__":
    typer.run(main)
