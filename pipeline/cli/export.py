"""Export a trained method as a plain transformers folder."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.console import echo
from pipeline.cli.promote import choose_candidate

EXAMPLES = """Examples:
  ptune export rte exports/rte
  ptune export lama exports/lama --method p-tuning --force"""


def export(
    target: Annotated[str, typer.Argument(help="`lama`, or a task such as `rte`, or your own.")],
    folder: Annotated[Path, typer.Argument(help="The folder to write.", metavar="DIR")],
    method: Annotated[
        str | None, typer.Option("--method", help="Export this method. Default: the best on dev.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
) -> None:
    """Export what was trained as a folder that transformers loads without ptune.

    The trained vectors become added tokens of the vocabulary; README.md has the
    template, the scores and the code to use them. The folder is written only if
    transformers alone answers test examples as `ptune predict` does.
    """
    # torch and transformers take seconds to import.
    from pipeline.inference.export import export as write

    chosen = choose_candidate(target, method)
    compared = write(chosen, folder, force=force)
    echo(
        f"exported {chosen.method} of {target} to {folder}; on {compared.examples} test examples, "
        f"log-probabilities differ from ptune's by at most {compared.difference:.2g}"
    )
    echo(f"How to use it: {folder / 'README.md'}")
