"""`ptune push`: export a trained method and push the folder to the Hugging Face hub."""

from typing import Annotated

import typer

from pipeline.cli.console import echo
from pipeline.cli.promote import choose_candidate

EXAMPLES = """Examples:
  ptune push rte my-name/rte-p-tuning --private
  ptune push lama my-name/lama-p-tuning --method p-tuning --add"""


def push(
    target: Annotated[str, typer.Argument(help="`lama`, or a task such as `rte`, or your own.")],
    repository: Annotated[
        str, typer.Argument(help="`user/name` or `organization/name`.", metavar="REPO")
    ],
    method: Annotated[
        str | None, typer.Option("--method", help="Push this method. Default: the best on dev.")
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository private.")
    ] = False,
    add: Annotated[
        bool, typer.Option("--add", help="Add a commit to a repository that exists.")
    ] = False,
) -> None:
    """Export what was trained, as `ptune export` does, to the Hugging Face hub.

    The token is that of `hf auth login` or HF_TOKEN; HF_ENDPOINT names another
    hub. Nothing is uploaded unless transformers alone answers test examples as
    `ptune predict` does.
    """
    import tempfile
    from pathlib import Path

    # torch and transformers take seconds to import.
    from pipeline.inference.export import export
    from pipeline.inference.push import check_access, push_folder

    check_access(repository)
    chosen = choose_candidate(target, method)
    with tempfile.TemporaryDirectory(prefix="ptune-push-") as temporary:
        folder = Path(temporary, "export")
        export(chosen, folder, force=False)
        url = push_folder(folder, repository, private=private, add=add)
    echo(f"pushed {chosen.method} of {target} to {url}")
