"""Promote a trained method: register it as a model that loads without this repository."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import echo, print_columns

if TYPE_CHECKING:
    from pipeline.inference.registry import Candidate, Promoted

EXAMPLES = """Examples:
  ptune promote rte
  ptune promote lama --method p-tuning"""


def promote(
    target: Annotated[str, typer.Argument(help="`lama`, or a task such as `rte`, or your own.")],
    method: Annotated[
        str | None, typer.Option("--method", help="Promote this method. Default: the best on dev.")
    ] = None,
) -> None:
    """Register the best method that was trained here as an MLflow model.

    The dev score selects the method; the test score is only shown. The model
    runs wherever its requirements are installed. The best version on the same
    data has the alias `best`.
    """
    # torch and mlflow take seconds to import.
    from pipeline.inference import registry

    _print_version(registry.promote(choose_candidate(target, method)))


def choose_candidate(target: str, method: str | None) -> "Candidate":
    """Return the named method that was trained, or the best on dev; print the scores of all.

    Raises:
        PipelineError: nothing was trained, or not that method.
    """
    from pipeline.inference import registry

    candidates = registry.find_candidates(target)
    chosen = registry.choose(candidates, method)
    print_candidates(candidates, chosen, "by dev" if method is None else "as named")
    return chosen


def print_candidates(candidates: "Sequence[Candidate]", chosen: "Candidate", why: str) -> None:
    """Print the scores of each candidate, and why one was chosen."""
    rows = []
    for candidate in candidates:
        scores = f"{chosen.metric} dev {100 * candidate.dev_score:5.1f}"
        if candidate.test_score is not None:
            scores += f"  test {100 * candidate.test_score:5.1f}"
        rows.append([candidate.method, scores, f"<- chosen {why}" if candidate is chosen else ""])
    print_columns(rows)


def _print_version(promoted: "Promoted") -> None:
    state = "registered as" if promoted.new else "already registered:"
    best = promoted.best == promoted.version
    if best:
        alias = "the best by dev on this data, with the alias `best`"
    else:
        alias = (
            f"no alias: by dev, version {promoted.best} is as good or better on this data "
            f"({100 * promoted.best_score:.1f})"
        )
    place = f"{promoted.name}@best" if best else f"{promoted.name}/{promoted.version}"
    echo(f"{state} {promoted.name}, version {promoted.version}; {alias}")
    echo(f'Load it: mlflow.pyfunc.load_model("models:/{place}")')
