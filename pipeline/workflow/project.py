"""DVC as a library: the running stage, hashes of its content, and the graph of stages.

The run key is the hash of a stage's command, dependencies, parameters and output paths, as DVC's
run cache computes it: the same in every checkout, temporary folder and machine. It identifies an
MLflow run. Only this file imports dvc.
"""

import contextlib
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from pipeline.errors import DataError, PipelineError, warn
from pipeline.files import Value, read_json, read_object, write_text
from pipeline.workflow.dvc_processes import dvc_processes
from pipeline.workflow.lock import (
    Execution,
    command_text,
    folder_hash,
    outputs_within,
    read_lock,
    whole_entries,
)

# How often `dvc.lock` is read while another process may be writing it.
_TRIES = 30
_PAUSE_SECONDS = 0.1


@dataclass(frozen=True)
class StageIdentity(Execution):
    """The execution of a running stage, without outputs.

    Attributes:
        within: Path -> hash of other stages' outputs inside the folders among the inputs.
        experiment: The name of a `dvc exp` run; None in the workspace.
    """

    within: Mapping[str, str] = field(default_factory=dict)
    experiment: str | None = None


def project_root() -> Path:
    """Return the root of the main checkout, also from a `dvc exp` temporary folder."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def repair(root: Path) -> None:
    """Repair what a kill, a full disk or a loss of power has damaged of DVC's own files.

    Raises:
        DataError: a file is damaged, and cannot be repaired; the error names it.
    """
    repair_rwlock(root)
    repair_lock(root)
    repair_run_cache(root)


def check_rwlock(root: Path) -> None:
    """Check the file in which dvc notes what its processes read and write.

    Raises:
        DataError: it is damaged, so that every `dvc repro` fails: dvc writes it in place, and a
            kill, a full disk or a loss of power cuts it.
    """
    file = _rwlock(root)
    if file.is_file():
        read_object(file)


def repair_rwlock(root: Path) -> None:
    """Delete the file of `check_rwlock` if it is damaged: no process that wrote it is alive.

    Raises:
        DataError: it is damaged, and other dvc processes run in the project.
    """
    try:
        check_rwlock(root)
        return
    except DataError:
        pass
    from dvc.lock import make_lock

    file = _rwlock(root)
    # dvc holds this lock while it writes the file.
    with _repo() as repo, make_lock(
        f"{file}.lock",
        tmp_dir=str(file.parent),
        hardlink_lock=repo.config["core"].get("hardlink_lock", False),
    ):  # fmt: skip
        try:
            check_rwlock(root)
        except DataError as error:
            if running := dvc_processes(root):
                numbers = ", ".join(map(str, running))
                raise DataError(
                    f"{file}: damaged, and dvc still runs (process {numbers}); when it has ended, "
                    "run again, or delete the file"
                ) from error
            file.unlink()
            warn(f"{file}: damaged by a kill or a full disk; deleted, as no other dvc runs")


def repair_lock(root: Path) -> None:
    """Set a `dvc.lock` aside that was cut, and keep its whole entries.

    DVC restores the outputs of the others from its cache, or runs their stages again.

    Raises:
        DataError: it cannot be parsed, but was not cut.
    """
    file = root / "dvc.lock"
    try:
        read_lock(file)
        return
    except DataError:
        pass
    try:
        _settled(lambda: read_lock(file))
    except DataError:
        kept = whole_entries(file.read_bytes())
        if kept is None:
            raise
        if dvc_processes(root):  # one of them may be writing it
            return
        aside = file.with_name(f"{file.name}.damaged")
        file.replace(aside)
        if kept:
            write_text(file, kept.decode())
        warn(
            f"{file}: cut by a kill or a full disk; kept as {aside.name}, without what was cut: "
            "these stages are restored from DVC's cache, or run again"
        )


def repair_run_cache(root: Path) -> None:
    """Delete the empty folders in DVC's run cache, where no other dvc runs.

    DVC creates the folder of a stage before it writes the file in it. If it is killed in between,
    every later `dvc repro` of the same stage fails ("join() argument must be str"). The cache may
    be shared with users whose folders this one may not read or delete.
    """
    empty = [folder for folder in _run_cache(root).glob("*/*") if _is_empty(folder)]
    if not empty or dvc_processes(root):  # one of them may be about to write
        return
    for folder in empty:
        try:
            folder.rmdir()
        except FileNotFoundError:  # deleted by another repair
            continue
        except OSError as error:
            warn(
                f"{folder}: left empty by a kill, and cannot be deleted ({error.strerror}); "
                "dvc fails at its stage until you delete it"
            )
        else:
            warn(f"{folder}: left empty by a kill; deleted, as dvc would fail at its stage")


def _is_empty(folder: Path) -> bool:
    with contextlib.suppress(OSError):
        return not any(folder.iterdir())
    return False


def _run_cache(root: Path) -> Path:
    """Return the folder of DVC's run cache."""
    from dvc.dirs import global_config_dir, system_config_dir

    own = root / ".dvc"
    others = (Path(folder) / "config" for folder in (global_config_dir(), system_config_dir()))
    if not any(_names_cache(file) for file in (*own.glob("config*"), *others)):
        return own / "cache" / "runs"
    with _repo() as repo:  # takes a second, which most projects save
        return Path(repo.stage_cache.cache_dir)


def _names_cache(config: Path) -> bool:
    """Whether a file of DVC's configuration may set the folder of the cache."""
    with contextlib.suppress(OSError):  # dvc names one that may not be read
        return b"cache" in config.read_bytes()
    return False


def _rwlock(root: Path) -> Path:
    return root / ".dvc" / "tmp" / "rwlock"


@contextlib.contextmanager
def _repo() -> Iterator[Any]:
    """Open the DVC project of the current folder; its errors become PipelineErrors."""
    from dvc.config import ConfigError
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(Path.cwd())) as repo:
            yield repo
    except DvcException as error:
        reason, cause = (" ".join(str(e or "").split()) for e in (error, error.__cause__))
        if cause not in reason:
            reason = f"{reason}: {cause}"
        file = ".dvc/config" if isinstance(error, ConfigError) else "dvc.yaml"
        raise PipelineError(
            f"{reason}; run from the root of the project, and check {file}"
        ) from error


def _settled(read: Callable[[], Value]) -> Value:
    """Call a reader of `dvc.lock`, and again if it fails: another dvc may be writing it, in place.

    Raises:
        DvcException, DataError: it failed for three seconds.
    """
    from dvc.exceptions import DvcException

    for _ in range(_TRIES - 1):
        try:
            return read()
        except (DvcException, DataError):
            time.sleep(_PAUSE_SECONDS)
    return read()


def running_stage() -> StageIdentity | None:
    """Return the stage that DVC is running this process for; None if DVC is not."""
    name = os.environ.get("DVC_STAGE")
    if not name:
        return None
    from dvc.dependency import ParamsDependency

    # Private, without a public alternative; a test compares the key with the run cache.
    from dvc.stage.cache import _can_hash, _get_stage_hash

    with _repo() as repo:
        stage = _settled(lambda: repo.stage.load_one(name=name))
        stage.save_deps()
        params: dict[str, Any] = {}
        inputs: dict[str, str] = {}
        for dependency in stage.deps:
            if isinstance(dependency, ParamsDependency):
                params.update(dependency.hash_info.value or {})
            else:
                inputs[dependency.def_path] = dependency.hash_info.value
        return StageIdentity(
            stage=stage.addressing,
            command=command_text(stage.cmd),
            params=params,
            inputs=inputs,
            # DVC records them before it runs a stage that reads them.
            within=outputs_within(_settled(lambda: read_lock(Path("dvc.lock"))), inputs),
            run_key=_get_stage_hash(stage) if _can_hash(stage) else None,
            experiment=os.environ.get("DVC_EXP_NAME"),
        )


def output_hashes() -> dict[str, str]:
    """Return path -> DVC's hash of each existing output of the running stage."""
    name = os.environ.get("DVC_STAGE")
    if not name:
        return {}
    with _repo() as repo:
        stage = _settled(lambda: repo.stage.load_one(name=name))
        return {out.def_path: out.get_hash().value for out in stage.outs if out.exists}


def folder_listing(digest: str) -> list[tuple[str, str]] | None:
    """Return path and hash of each file in a folder with a hash; None if DVC's cache has none."""
    with _repo() as repo:
        path = Path(repo.cache.local.oid_to_path(digest))
    if not path.is_file():
        return None
    return [(entry["relpath"], entry["md5"]) for entry in read_json(path)]


def workspace_hashes(paths: Collection[str]) -> dict[str, str | None]:
    """Return path -> DVC's hash of an output in the workspace; None if it does not exist.

    Paths that no stage writes are left out.

    Raises:
        PipelineError: This is not a DVC project, or `dvc.yaml` cannot be read.
    """
    with _repo() as repo:
        outs = {out.def_path: out for stage in repo.index.stages for out in stage.outs}
        return {
            path: outs[path].get_hash().value if outs[path].exists else None
            for path in paths
            if path in outs
        }


def recorded_run_keys(keys: Collection[str]) -> set[str]:
    """Return the run keys that are in DVC's run cache, whose stages are finished."""
    if not keys:
        return set()
    runs = _run_cache(project_root())
    return {key for key in keys if any((runs / key[:2] / key).glob("*"))}


@dataclass(frozen=True)
class Project:
    """DVC's state of the project in the current folder.

    Attributes:
        stages: Their number.
        cache: The folder with the content of outputs.
        up_to_date_outputs: Stage -> its output, for those of the requested stages whose output
            exists and was made with the current parameters.
    """

    stages: int
    cache: Path
    up_to_date_outputs: dict[str, Path]


def read_project(names: Collection[str] = ()) -> Project:
    """Return the state of the project, and which outputs of some stages are up to date.

    The stages have one output each; those that do not exist are left out.

    Raises:
        PipelineError: This is not a DVC project, or dvc.yaml or dvc.lock cannot be read.
    """
    from dvc.dependency import ParamsDependency

    with _repo() as repo:
        stages = repo.index.stages
        outputs = {
            stage.addressing: Path(stage.outs[0].def_path)
            for stage in stages
            if stage.addressing in names
            and stage.outs[0].exists
            and not any(d.status() for d in stage.deps if isinstance(d, ParamsDependency))
        }
        return Project(len(stages), Path(repo.cache.local.path), outputs)


@dataclass(frozen=True)
class StageNode:
    """A stage in the graph of `dvc.yaml`.

    Attributes:
        name: As in `dvc.yaml`, such as `train-lama@p-tuning`.
        after: The stages whose outputs it reads.
        changed: Whether `dvc repro` would run it or restore it from the cache.
    """

    name: str
    after: frozenset[str]
    changed: bool


def stage_graph(targets: Sequence[str] = ()) -> list[StageNode]:
    """Return the stages that `dvc repro` would check, in its order.

    `targets` are stages, or groups such as `train-lama`; without any, it is all stages.

    Raises:
        PipelineError: There is no such stage or project, or `dvc.yaml` cannot be read.
    """
    from dvc.repo.reproduce import plan_repro

    with _repo() as repo:
        selected = [stage for target in targets for stage in repo.stage.collect(target)]
        graph = repo.index.graph
        stages = plan_repro(graph, selected)
        changed = repo.status([stage.addressing for stage in stages])
        return [
            StageNode(
                stage.addressing,
                frozenset(before.addressing for before in graph.successors(stage)),
                stage.addressing in changed,
            )
            for stage in stages
        ]


class Forecast(StrEnum):
    """What `dvc repro` would do with a stage."""

    RUN = "run"
    RESTORE = "restore"  # its outputs are in the cache
    KEEP = "keep"


@dataclass(frozen=True)
class PlannedStage:
    """A stage, its parameters now, and what `dvc repro` would do with it."""

    name: str
    command: str
    params: Mapping[str, Any]
    forecast: Forecast


def plan_stages(targets: Sequence[str] = (), *, constant: str = "") -> list[PlannedStage]:
    """Return the stages that `dvc repro` would check, in its order, without running any.

    A stage that reads an output of one that runs is expected to run too, except for the stage
    `constant`, whose output is always the same. `dvc repro --dry` shows less: the stages whose
    inputs differ already.

    Raises:
        PipelineError: There is no such stage or project, or `dvc.yaml` cannot be read.
    """
    from dvc.dependency import ParamsDependency
    from dvc.repo.reproduce import plan_repro

    planned: dict[str, PlannedStage] = {}
    restored: dict[str, Any] = {}  # path -> the output that the cache has
    with _repo() as repo:
        selected = [stage for target in targets for stage in repo.stage.collect(target)]
        graph = repo.index.graph
        for stage in plan_repro(graph, selected):
            recorded = [dependency.hash_info for dependency in stage.deps]
            stage.save_deps(allow_missing=True)
            params: dict[str, Any] = {}
            for dependency in stage.deps:
                if isinstance(dependency, ParamsDependency):
                    params |= dependency.hash_info.value or {}
                else:
                    dependency.hash_info = _with_restored(dependency, restored)
            before = {node.addressing for node in graph.successors(stage)} - {constant}
            same = recorded == [dependency.hash_info for dependency in stage.deps]
            if any(planned[name].forecast is Forecast.RUN for name in before):
                forecast = Forecast.RUN
            elif same and not stage.changed_stage() and not any(o.status() for o in stage.outs):
                forecast = Forecast.KEEP
            elif (cached := _cached_outputs(repo, stage)) is not None:
                forecast = Forecast.RESTORE
                restored |= cached
            else:
                forecast = Forecast.RUN
            name = stage.addressing
            planned[name] = PlannedStage(name, command_text(stage.cmd), params, forecast)
    return list(planned.values())


def _with_restored(dependency: Any, restored: Mapping[str, Any]) -> Any:
    """Return DVC's hash of a dependency after some outputs were restored."""
    path = dependency.def_path
    if path in restored:
        return restored[path].hash_info
    inside = {name: out for name, out in restored.items() if name.startswith(f"{path}/")}
    if not inside or not dependency.hash_info:
        return dependency.hash_info
    digests = _files(path, dependency)
    for name, out in inside.items():
        for file in [file for file in digests if file == name or file.startswith(f"{name}/")]:
            del digests[file]
        digests |= _files(name, out)
    value = folder_hash((name.removeprefix(f"{path}/"), md5) for name, md5 in digests.items())
    return type(dependency.hash_info)(dependency.hash_info.name, value)


def _files(path: str, content: Any) -> dict[str, str]:
    """Return path -> MD5 of the files in a dependency or output of DVC, a file or a folder."""
    if not content.hash_info.isdir:
        return {path: content.hash_info.value}
    return {
        "/".join((path, *key)): digest.value for key, (_, digest) in content.get_obj().iteritems()
    }


def _cached_outputs(repo: Any, stage: Any) -> dict[str, Any] | None:
    """Return path -> the output that DVC would restore in place of a run; None for a run."""
    # Private, as in `running_stage`; a test compares with what `dvc repro` does.
    from dvc.stage.cache import _can_hash

    try:
        entry = repo.stage_cache._load(stage) if _can_hash(stage) else None
    except FileNotFoundError:  # an input that an earlier stage has yet to write
        return None
    except TypeError:  # an empty folder; `dvc repro` deletes it first, as `repair_run_cache` does
        return None
    if entry is None:
        return None
    cached = repo.stage_cache._create_stage(entry, wdir=stage.wdir)
    return {out.def_path: out for out in cached.outs} if cached.outs_cached() else None
