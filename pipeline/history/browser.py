"""MLflow's server for one user, which opens on the table of results.

MLflow opens on its pages for chat applications, with a panel for its assistant. The app here is
MLflow's, with a script in its page that chooses otherwise for a browser that has no choice yet.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

from pipeline.history.store import connect
from pipeline.history.views import experiment_tags, table_link
from pipeline.workflow.command import EXPERIMENTS

# The name in pyproject.toml under which MLflow finds `create_app`.
APP = "p-tuning"
# MLflow's keys in the browser's storage.
_CHOICES = """<script>
for (const [key, value] of [
  ["mlflow.workflowType_v1", '"machine_learning"'],
  ["mlflow.assistant.fab.autoOpenedOnFirstLoad_v1", "true"],
]) if (localStorage.getItem(key) === null) localStorage.setItem(key, value);
</script>"""


def create_app() -> Any:
    """Return MLflow's ASGI app with the page changed; called by `mlflow server --app-name`."""
    from mlflow.server import app as pages
    from mlflow.server.fastapi_app import app

    page = Path(pages.static_folder or "", "index.html").read_text("utf-8")
    changed = page.replace("<head>", f"<head>{_CHOICES}", 1)
    pages.view_functions["serve"] = lambda: changed
    return app


def results_page(server: str) -> str:
    """Return the address of the table of results on a server; its view is created if needed.

    Raises:
        TrackingError: The history cannot be used.
    """
    name = EXPERIMENTS["evaluate"]
    mlflow = connect(name)
    client = mlflow.MlflowClient()
    for experiment in client.search_experiments():
        if experiment.name in EXPERIMENTS.values():
            for key, value in experiment_tags(experiment.name).items():
                if experiment.tags.get(key) != value:
                    # On a server with accounts, a reader may not: MLflow shows its own columns.
                    with contextlib.suppress(mlflow.MlflowException):
                        client.set_experiment_tag(experiment.experiment_id, key, value)
    return table_link(server, mlflow.get_experiment_by_name(name).experiment_id)


def serve(store: str, host: str, port: int) -> NoReturn:
    """Become the server: whatever signal ends this process ends it."""
    command = [sys.executable, "-m", "mlflow", "server", "--app-name", APP]
    command += ["--backend-store-uri", store, "--host", host, "--port", str(port)]
    environment = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "PYTHONWARNINGS": "ignore",  # of MLflow's libraries, which the user cannot fix
    }
    command += ["--workers", "1", "--uvicorn-opts", "--log-level warning"]
    sys.stdout.flush()
    os.execve(sys.executable, command, environment)
