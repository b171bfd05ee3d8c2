"""Checks of the checkout: git, DVC, `params.yaml`, MLflow; and all checks together."""

import importlib.metadata
from pathlib import Path

from pipeline.config.checks import check_params
from pipeline.config.schema import Params, load_params
from pipeline.doctor import machine
from pipeline.doctor.checks import Check, CheckResult, Problem, run_checks
from pipeline.doctor.sources import needed_sources, source_checks
from pipeline.workflow.git import commit_problem, git_text
from pipeline.workflow.project import Project, check_rwlock, project_root, read_project

# Without the network; importing torch from a slow disk may take that long.
_LOCAL_SECONDS = 60.0
# In addition to a host's timeout: imports, starting pip, reading a mirror or a local history, all
# of which are slow on a busy machine.
_GRACE_SECONDS = 60.0


def run_all_checks(params_file: Path, *, seconds: float) -> list[CheckResult]:
    """Run all checks; `seconds` is the timeout for each host."""
    checkout = _Checkout(params_file)
    params_results = run_checks({"params": checkout.check_params}, _LOCAL_SECONDS)
    dvc_results = run_checks({"dvc": checkout.check_dvc}, _LOCAL_SECONDS)
    params, project = checkout.params, checkout.project
    # One after another: they import much, and imports side by side only wait for each other.
    local: dict[str, Check] = {
        "python": machine.check_python,
        "torch": lambda: machine.check_torch(params.runtime.threads if params else None),
        "gpu": lambda: _check_gpu(params),
        "packages": lambda: machine.check_packages(Path("requirements.lock")),
        "memory": machine.check_memory,
        "disk": lambda: machine.check_disk(_folders(project)),
        "git": check_git,
    }
    if params is not None and params.runtime.engine == "ray":
        runtime = params.runtime
        local["cluster"] = lambda: machine.check_cluster(runtime, project_root() / ".work")
    results = [
        result
        for name, check in local.items()
        for result in run_checks({name: check}, _LOCAL_SECONDS)
    ]
    remote: dict[str, Check] = {"history": lambda: check_history(seconds)}
    if params is not None:
        outputs = project.up_to_date_outputs if project is not None else {}
        cache = project_root() / ".work" / "downloads"
        remote |= source_checks(params, outputs, cache, seconds)
    results += [*dvc_results, *params_results, *run_checks(remote, seconds + _GRACE_SECONDS)]
    if params is None:
        reason = f"fix {params_file} first"
        results += [CheckResult(name, "skipped", reason) for name in ("model", "data")]
    return results


class _Checkout:
    """What the checks of `params.yaml` and of DVC have read; None if they fail."""

    def __init__(self, params_file: Path) -> None:
        self._params_file = params_file
        self.params: Params | None = None
        self.project: Project | None = None

    def check_params(self) -> str:
        params = load_params(self._params_file)
        check_params(params)
        self.params = params
        summary = f"{params.model.name}; lama from {params.lama.source}"
        if params.superglue.tasks:
            summary += f"; {', '.join(params.superglue.tasks)} from {params.superglue.source}"
        if params.tasks:
            summary += f"; own tasks {', '.join(params.tasks)}"
        return f"{self._params_file} is valid: {summary}"

    def check_dvc(self) -> str | Problem:
        if self.params is None:  # DVC reads the file too, and may never end
            return Problem("skipped", f"fix {self._params_file} first")
        check_rwlock(project_root())
        self.project = read_project(list(needed_sources(self.params)))
        return f"{importlib.metadata.version('dvc')}, {self.project.stages} stages"


def _check_gpu(params: Params | None) -> str | Problem:
    """With engine ray, the GPUs of a training are those of the cluster."""
    if params is None:
        return machine.check_gpu("auto")
    runtime = params.runtime
    needed = runtime.gpus_per_training if runtime.engine == "serial" else 1
    return machine.check_gpu(runtime.device, needed)


def _folders(project: Project | None) -> dict[str, Path]:
    root = project_root()
    folders = {"the checkout": root}
    if project is None or not project.cache.exists():
        return folders
    if project.cache.stat().st_dev == root.stat().st_dev:
        return {"checkout and DVC cache": root}
    return {**folders, "the DVC cache": project.cache}


def check_git() -> str | Problem:
    """The commit and uncommitted changes. Without git, only the history is incomplete."""
    commit, changed = git_text("rev-parse", "--short", "HEAD"), git_text("status", "--porcelain")
    if commit is None or changed is None:
        advice = "work in a git checkout; without it, runs do not record the version of the code"
        problem = commit_problem()
        return Problem("warning", "no commit", f"fix git: {problem}" if problem else advice)
    if count := len(changed.splitlines()):
        files = f"{count} uncommitted file{'s' if count > 1 else ''}"
        advice = "runs record the diff; commit to tie them to one version of the code"
        return Problem("warning", f"{commit.strip()}, with {files}", advice)
    return f"{commit.strip()}, clean"


def check_history(seconds: float) -> str | Problem:
    """Check that the history can be used, and return where it is.

    Raises:
        TrackingError: it cannot be used; a server has not answered within `seconds`.
    """
    from pipeline.history.locations import find_moved
    from pipeline.history.store import check_store, store_address, store_identity

    exists = check_store(seconds)
    if exists and store_identity() == "mlflow.db" and (places := find_moved(project_root())):
        return Problem(
            "warning",
            f"{store_address()} looks for artifacts in {', '.join(places)}",
            "the checkout was moved or copied: the next stage or `ptune sync` corrects this",
        )
    state = "its schema is current" if exists else "the first stage will create it"
    return f"{store_address()}, {state}"
