"""Who is running: the stage as DVC sees it, its content hashes, and its run key.

The run key is the hash of a stage's command, dependencies, parameters and output paths, as DVC's
run cache computes it: the same in every checkout, temporary folder and machine. It is the identity
of an MLflow run. This is the only file that imports dvc.
"""

import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pipeline.errors import PipelineError
from pipeline.files import read_json
from pipeline.workflow.lock import command_text, outputs_within, read_lock


@dataclass(frozen=True)
class StageIdentity:
    """A stage execution, told apart by content.

    Attributes:
        name: as in `dvc.yaml`, such as `train-lama@p-tuning`.
        command: what DVC runs; see `command_text`.
        params: dotted path in `params.yaml` -> value, as the stage declares them.
        inputs: path -> DVC's hash of each dependency (MD5; of a folder, ending in `.dir`).
        within: the same of the other stages' outputs that lie in folders among the inputs.
        outputs: paths of the outputs.
        run_key: 64 hexadecimal digits; None for a stage that DVC's run cache leaves out.
        experiment: the name of a `dvc exp` run; None in the workspace.
    """

    name: str
    command: str
    params: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    within: dict[str, str] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    run_key: str | None = None
    experiment: str | None = None


def project_root() -> Path:
    """Return the root of the main checkout, also from within a `dvc exp` temporary folder."""
    return Path(os.environ.get("DVC_ROOT") or ".").resolve()


def running_stage() -> StageIdentity | None:
    """Return the stage that DVC is running this process for; None if DVC is not."""
    name = os.environ.get("DVC_STAGE")
    if not name:
        return None
    from dvc.dependency import ParamsDependency
    from dvc.repo import Repo

    # Private, but without another door: a test holds the key against the run cache's own.
    from dvc.stage.cache import _can_hash, _get_stage_hash

    with Repo(str(Path.cwd())) as repo:
        stage = repo.stage.load_one(name=name)
        stage.save_deps()
        params: dict[str, Any] = {}
        inputs: dict[str, str] = {}
        for dependency in stage.deps:
            if isinstance(dependency, ParamsDependency):
                params.update(dependency.hash_info.value or {})
            else:
                inputs[dependency.def_path] = dependency.hash_info.value
        return StageIdentity(
            name=stage.addressing,
            command=command_text(stage.cmd),
            params=params,
            inputs=inputs,
            # DVC has recorded them before a stage that reads them.
            within=outputs_within(read_lock(Path("dvc.lock")), inputs),
            outputs=tuple(out.def_path for out in stage.outs),
            run_key=_get_stage_hash(stage) if _can_hash(stage) else None,
            experiment=os.environ.get("DVC_EXP_NAME"),
        )


def folder_listings() -> Callable[[str], list[tuple[str, str]] | None]:
    """Return a function of a folder's hash: path and hash of each file in it.

    It returns None for a folder that DVC's cache does not have.
    """

    @cache
    def path_of() -> Callable[[str], str]:
        from dvc.repo import Repo

        with Repo(str(Path.cwd())) as repo:
            found: Callable[[str], str] = repo.cache.local.oid_to_path
            return found

    def listing(digest: str) -> list[tuple[str, str]] | None:
        path = Path(path_of()(digest))
        if not path.is_file():
            return None
        return [(entry["relpath"], entry["md5"]) for entry in read_json(path)]

    return listing


def workspace_hashes(paths: Collection[str]) -> dict[str, str | None]:
    """Return path -> DVC's hash of an output as it is in the workspace; None where it is not there.

    Args:
        paths: from the project's root; one that no stage writes any more is left out.

    Raises:
        PipelineError: this is no project of DVC, or `dvc.yaml` cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(Path.cwd())) as repo:
            outs = {out.def_path: out for stage in repo.index.stages for out in stage.outs}
            return {
                path: outs[path].get_hash().value if outs[path].exists else None
                for path in paths
                if path in outs
            }
    except DvcException as error:
        raise PipelineError(f"DVC: {error}") from error


def recorded_run_keys(keys: Collection[str]) -> set[str]:
    """Return those run keys whose stage DVC has recorded in its run cache, as done."""
    if not keys:
        return set()
    from dvc.repo import Repo

    with Repo(str(Path.cwd())) as repo:
        runs = Path(repo.stage_cache.cache_dir)
        return {key for key in keys if (runs / key[:2] / key).is_dir()}


def output_hashes() -> dict[str, str]:
    """Return path -> DVC's hash of each output that the running stage has written so far."""
    name = os.environ.get("DVC_STAGE")
    if not name:
        return {}
    from dvc.repo import Repo

    with Repo(str(Path.cwd())) as repo:
        stage = repo.stage.load_one(name=name)
        return {out.def_path: out.get_hash().value for out in stage.outs if out.exists}


@dataclass(frozen=True)
class Project:
    """What DVC knows of the project in the current folder.

    Attributes:
        stages: how many it has.
        cache: the folder that holds the content of outputs.
        standing: stage -> its output, of those stages that were asked about whose output is there
            and was made with the parameters of today.
    """

    stages: int
    cache: Path
    standing: dict[str, Path]


def read_project(asked: Collection[str] = ()) -> Project:
    """Return what DVC knows of the project, and whether outputs of some stages stand.

    Args:
        asked: names of stages that have one output; those that there are not are left out.

    Raises:
        PipelineError: this is no DVC project, or its dvc.yaml or dvc.lock cannot be read.
    """
    from dvc.dependency import ParamsDependency
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(Path.cwd())) as repo:
            stages = repo.index.stages
            standing = {
                stage.addressing: Path(stage.outs[0].def_path)
                for stage in stages
                if stage.addressing in asked
                and stage.outs[0].exists
                and not any(d.status() for d in stage.deps if isinstance(d, ParamsDependency))
            }
            return Project(len(stages), Path(repo.cache.local.path), standing)
    except DvcException as error:
        raise PipelineError(
            f"{' '.join(str(error).split())}; run from the root of the project, and check dvc.yaml"
        ) from error


@dataclass(frozen=True)
class StageNode:
    """A stage in the graph of `dvc.yaml`.

    Attributes:
        name: as in `dvc.yaml`, such as `train-lama@p-tuning`.
        after: the stages whose outputs it reads.
        changed: whether `dvc repro` would run it, or take it from the cache, as things are now.
    """

    name: str
    after: frozenset[str]
    changed: bool


def stage_graph(targets: Sequence[str] = ()) -> list[StageNode]:
    """Return the stages that `dvc repro` of some targets looks at, in the order in which it does.

    Args:
        targets: stages, or groups such as `train-lama`; none stands for all stages.

    Raises:
        PipelineError: there is no such stage, no project, or `dvc.yaml` cannot be read.
    """
    from dvc.exceptions import DvcException
    from dvc.repo import Repo
    from dvc.repo.reproduce import plan_repro

    try:
        with Repo(str(Path.cwd())) as repo:
            wanted = [stage for target in targets for stage in repo.stage.collect(target)]
            graph = repo.index.graph
            stages = plan_repro(graph, wanted)
            changed = repo.status([stage.addressing for stage in stages])
            return [
                StageNode(
                    stage.addressing,
                    frozenset(before.addressing for before in graph.successors(stage)),
                    stage.addressing in changed,
                )
                for stage in stages
            ]
    except DvcException as error:
        said = [str(error), *([str(error.__cause__)] if error.__cause__ else [])]
        raise PipelineError(": ".join(said)) from error
