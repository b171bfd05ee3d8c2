"""`ptune ui`: MLflow's pages, opened on the table of results."""

import os
import re
from typing import Annotated

import typer

from pipeline.cli.console import echo
from pipeline.errors import PipelineError

EXAMPLES = """Examples:
  ptune ui
  ptune ui --port 5001"""


def ui(
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=1, max=65535, help="Port.")] = 5000,
) -> None:
    """Browse the history in MLflow: a row for each evaluation, newest first.

    With MLFLOW_TRACKING_URI set to a server, prints its address of that table.
    Otherwise runs MLflow's server on mlflow.db until Ctrl-C.
    """
    from pipeline.history.browser import results_page, serve
    from pipeline.history.store import history_exists, local_store, sqlite_address
    from pipeline.workflow.project import project_root

    if not history_exists():
        raise PipelineError("no history yet (mlflow.db); run `dvc repro` first")
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri and uri.startswith("http"):
        echo(results_page(re.sub("//[^/]*@", "//", uri)))
        return
    echo(f"{results_page(f'http://{host}:{port}')}   (Ctrl-C stops it)")
    store = uri or sqlite_address(local_store(project_root()))
    serve(store, host, port)
