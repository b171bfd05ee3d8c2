"""`ptune show`: what was trained: templates, label words, and the words nearest to the vectors."""

from typing import Annotated

import typer

from pipeline.cli.console import echo, print_columns

EXAMPLES = """Examples:
  ptune show rte
  ptune show lama P17 P30 --words 8
  ptune show rte --method prompt-tuning"""


def show(
    target: Annotated[str, typer.Argument(help="`lama`, or a task such as `rte`, or your own.")],
    relations: Annotated[
        list[str] | None, typer.Argument(help="Relations of lama; default: all.")
    ] = None,
    method: Annotated[
        str, typer.Option("--method", help="The method, one that trains a prompt.")
    ] = "p-tuning",
    words: Annotated[
        int, typer.Option("--words", min=1, max=50, help="Words for each vector.")
    ] = 5,
) -> None:
    """Show trained prompts, with the words nearest to each trained vector.

    Of several trainings, the one with the best dev score is shown. A high cosine
    means that the vector is close to the word's embedding; trained vectors often
    resemble no word.
    """
    # torch takes seconds to import.
    from pathlib import Path

    from pipeline.config.schema import load_params
    from pipeline.errors import PipelineError
    from pipeline.evaluation.words import nearest_words
    from pipeline.inference.predictor import best_by_task, load_trained
    from pipeline.inference.registry import choose, find_candidates
    from pipeline.models.loading import ModelCache, model_loader

    candidate = choose(find_candidates(target), method)
    prompts = best_by_task(load_trained(Path(candidate.folders["trained"])).values())
    unknown = [name for name in relations or () if name not in prompts]
    if unknown:
        raise PipelineError(
            f"{', '.join(unknown)}: {method} has no prompt of this name; it has "
            f"{', '.join(prompts)}"
        )
    models = ModelCache(
        model_loader(Path(candidate.folders["model"]), load_params(Path("params.yaml")))
    )
    for name, trained in prompts.items():
        if relations and name not in relations:
            continue
        prompt = trained.prompt
        echo(f"{trained.name}  epoch {prompt.best_epoch}, dev {100 * prompt.dev_score:.1f}")
        echo(f"  {prompt.template}")
        if prompt.verbalizer:
            pairs = [f"{label} = {word}" for label, word in prompt.verbalizer.items()]
            echo(f"  {', '.join(pairs)}")
        if prompt.vectors is None:
            echo("  no trained vectors")
            continue
        nearest = nearest_words(models.get(prompt.weights_path), prompt.vectors, words)
        print_columns(
            [f"  [P] {number}", *(f"{word} {value:.2f}" for word, value in row)]
            for number, row in enumerate(nearest, 1)
        )
