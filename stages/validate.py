"""Check params.yaml before anything runs; writes a constant file that the downloads depend on."""

from pathlib import Path
from typing import Annotated

import typer

from pipeline.config.checks import check_params
from pipeline.config.schema import load_params
from pipeline.files import write_text
from stages.runtime import stage

app = typer.Typer(add_completion=False)


@app.command()
def main(
    out: Annotated[Path, typer.Option("--out", help="File to write if params.yaml is valid.")],
    params_file: Annotated[Path, typer.Option("--params", help="The parameters.")] = Path(
        "params.yaml"
    ),
) -> None:
    """Check every value of params.yaml: keys, types, ranges, names, templates."""
    with stage("validate") as this:
        check_params(load_params(params_file))
        this.run.log_file(params_file)
        write_text(out, "params.yaml is valid\n")


if __name__ == "__main__":
    app()
