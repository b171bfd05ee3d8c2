"""Checks of the checkout: git, DVC, `params.yaml`, the history; and all checks together."""

import importlib.metadata
from pathlib import Path

from pipeline.config.checks import check_params
from pipeline.config.schema import Params, load_params
from pipeline.doctor.findings import Check, CheckResult, run_checks
from pipeline.doctor.machine import (
    check_disk,
    check_gpu,
    check_memory,
    check_packages,
    check_python,
    check_torch,
)
from pipeline.doctor.sources import MODEL_STAGE, needed_sources, source_checks
from pipeline.workflow.git import git_text
from pipeline.workflow.project import Project, project_root, read_project

# For what needs no network; an import of torch from a slow disk may take that long.
_LOCAL_SECONDS = 60.0
# For what surrounds a question to a host: imports, pip's start, reading a mirror.
_GRACE_SECONDS = 5.0


def run_all_checks(params_file: Path, *, seconds: float) -> list[CheckResult]:
    """Run all checks.

    Args:
        params_file: `params.yaml`.
        seconds: how long a host is waited for.
    """
    params_finding, params = _read_params(params_file)
    dvc_finding, project = _read_project(params)
    # One after another: they import much, and imports side by side only wait for each other.
    local: dict[str, Check] = {
        "python": check_python,
        "torch": lambda: check_torch(params.runtime.threads if params else None),
        "gpu": lambda: check_gpu(params.runtime.device if params else "auto"),
        "packages": lambda: check_packages(Path("requirements.lock")),
        "memory": check_memory,
        "disk": lambda: check_disk(_folders(project)),
        "git": check_git,
    }
    findings = [
        finding
        for name, check in local.items()
        for finding in run_checks({name: check}, _LOCAL_SECONDS)
    ]
    remote: dict[str, Check] = {"history": lambda: check_history(seconds)}
    if params is not None:
        standing = project.standing if project is not None else {}
        cache = project_root() / ".work" / "downloads"
        remote |= source_checks(params, standing, cache, seconds)
    findings += [dvc_finding, params_finding, *run_checks(remote, seconds + _GRACE_SECONDS)]
    if params is None:
        reason = f"{params_file} has to be mended first"
        findings += [CheckResult(name, "skipped", reason) for name in ("model", "data")]
    return findings


def _read_params(path: Path) -> tuple[CheckResult, Params | None]:
    valid: list[Params] = []

    def check() -> CheckResult:
        params = load_params(path)
        check_params(params)
        valid.append(params)
        about = f"{params.model.name}; lama from {params.lama.source}"
        if params.superglue.tasks:
            about += f"; {', '.join(params.superglue.tasks)} from {params.superglue.source}"
        return CheckResult("params", "ok", f"{path} is valid: {about}")

    (finding,) = run_checks({"params": check}, _LOCAL_SECONDS)
    return finding, valid[0] if valid else None


def _read_project(params: Params | None) -> tuple[CheckResult, Project | None]:
    asked = [MODEL_STAGE]
    if params is not None:
        asked += [stage for stages in needed_sources(params).values() for stage in stages]
    known: list[Project] = []

    def check() -> CheckResult:
        project = read_project(asked)
        known.append(project)
        version = importlib.metadata.version("dvc")
        return CheckResult("dvc", "ok", f"{version}, {project.stages} stages")

    (finding,) = run_checks({"dvc": check}, _LOCAL_SECONDS)
    return finding, known[0] if known else None


def _folders(project: Project | None) -> dict[str, Path]:
    root = project_root()
    folders = {"the checkout": root}
    if project is None or not project.cache.exists():
        return folders
    if project.cache.stat().st_dev == root.stat().st_dev:
        return {"checkout and DVC cache": root}
    return {**folders, "the DVC cache": project.cache}


def check_git() -> CheckResult:
    """Tell the commit, and whether files differ from it. Without git only the history suffers."""
    commit, changed = git_text("rev-parse", "--short", "HEAD"), git_text("status", "--porcelain")
    if commit is None or changed is None:
        return CheckResult(
            "git",
            "warning",
            "no commit here",
            "run from a checkout; until then no run says which code it is of",
        )
    count = len(changed.splitlines())
    if count:
        return CheckResult(
            "git",
            "warning",
            f"{commit.strip()}, and {count} file{'s' if count > 1 else ''} not as committed",
            "runs keep the difference; a commit ties them to one state of the code",
        )
    return CheckResult("git", "ok", f"{commit.strip()}, clean")


def check_history(seconds: float) -> CheckResult:
    """Tell where the history is, and whether it can be used.

    Args:
        seconds: how long a server is waited for.

    Raises:
        TrackingError: it cannot.
    """
    from pipeline.history.store import check_store

    store = check_store(seconds)
    state = "its schema is current" if store.exists else "not begun yet; the first stage makes it"
    return CheckResult("history", "ok", f"{store.address}, {state}")
