"""Promote what was trained: a model that loads without this repository."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import report_errors

if TYPE_CHECKING:
    from pipeline.inference.candidates import Candidate
    from pipeline.inference.promotion import Promoted


EXAMPLES = """Examples:
  ptune promote rte
  ptune promote lama --method p-tuning"""


def promote(
    target: Annotated[str, typer.Argument(help="`lama`, or a task such as `rte`.")],
    method: Annotated[
        str | None, typer.Option("--method", help="Promote this one, whatever its dev score.")
    ] = None,
) -> None:
    """Make the best of what was trained here a registered MLflow model.

    Dev chooses among the methods; test is shown, and chooses nothing. The
    model answers wherever its requirements are installed. The best version on
    the same data has the alias `best`.
    """
    with report_errors():
        # They bring torch and mlflow, which take seconds.
        from pipeline.inference.candidates import choose, trained_here
        from pipeline.inference.promotion import promote as register

        candidates = trained_here(target)
        chosen = choose(candidates, method)
        _tell_scores(candidates, chosen, "by dev" if method is None else "as named")
        _tell_version(register(chosen))


def _tell_scores(candidates: Sequence["Candidate"], chosen: "Candidate", why: str) -> None:
    width = max(len(candidate.method) for candidate in candidates)
    for candidate in candidates:
        scores = f"dev {100 * candidate.dev_score:5.1f}"
        if candidate.test_score is not None:
            scores += f"  test {100 * candidate.test_score:5.1f}"
        mark = f"  <- chosen {why}" if candidate is chosen else ""
        typer.echo(f"{candidate.method:{width}}  {chosen.metric} {scores}{mark}")


def _tell_version(promoted: "Promoted") -> None:
    state = "registered as" if promoted.new else "was registered before:"
    best = promoted.best == promoted.version
    if best:
        alias = "the best by dev on this data, with the alias `best`"
    else:
        alias = (
            f"no alias: by dev, version {promoted.best} is as good or better on this data "
            f"({100 * promoted.best_score:.1f})"
        )
    place = f"{promoted.name}@best" if best else f"{promoted.name}/{promoted.version}"
    typer.echo(f"{state} {promoted.name}, version {promoted.version}; {alias}")
    typer.echo(f'Load it: mlflow.pyfunc.load_model("models:/{place}")')
