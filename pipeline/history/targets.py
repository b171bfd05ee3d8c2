"""What a person means: a path, a stage or a run, as something that can be traced."""

from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath

from pipeline.errors import DataError
from pipeline.history.executions import RUN_ID, TrackedRun
from pipeline.history.lineage import Artifact, Step, Tracer, Used
from pipeline.workflow.lock import Execution


def trace(
    target: str,
    tracer: Tracer,
    *,
    lock: Mapping[str, Execution],
    find_run: Callable[[str], TrackedRun | None],
    workspace_hashes: Callable[[Collection[str]], Mapping[str, str | None]],
    forward: bool,
) -> list[Artifact | Step | Used]:
    """Trace what a person named.

    Args:
        target: a stage of `dvc.lock`; a path from the project's root, of an output, within one, or
            around some; forward, also of an input; or a run's id, or its beginning.
        tracer: who follows the links.
        lock: stage -> execution.
        find_run: of an id or its beginning.
        workspace_hashes: of outputs in the workspace, by path; None where it is not there.
        forward: whether to what was made from it.

    Returns:
        One trace; several where a folder holds several outputs, or a stage or run wrote several.

    Raises:
        DataError: it is none of these.
    """
    if target in lock:
        if forward:
            return _forward(tracer, lock[target].outputs)
        return [tracer.back_from_stage(target)]
    path = PurePosixPath(target).as_posix()
    outputs = _outputs(path, lock)
    if outputs:
        # The workspace may hold something else than what DVC has recorded.
        there = workspace_hashes(outputs)
        now = {out: there.get(out) or digest for out, digest in outputs.items()}
        if forward:
            return _forward(tracer, now)
        return [tracer.back(out, digest) for out, digest in now.items()]
    inputs = {dep: digest for e in lock.values() for dep, digest in e.inputs.items() if dep == path}
    if inputs and forward:
        return _forward(tracer, inputs)
    run = find_run(target) if RUN_ID.fullmatch(target) else None
    if run is not None:
        return _forward(tracer, run.execution.outputs) if forward else [tracer.back_from(run)]
    if inputs:
        raise DataError(
            f"{target}: no stage makes it, git has it (`git log {target}`); what was made from it: "
            f"ptune lineage {target} --forward"
        )
    raise DataError(
        f"{target}: neither an output nor a stage in dvc.lock, nor a run of the history. "
        f"Outputs are {_some(sorted(o for e in lock.values() for o in e.outputs))}"
    )


def _forward(tracer: Tracer, outputs: Mapping[str, str]) -> list[Artifact | Step | Used]:
    return [tracer.forward(path, digest) for path, digest in outputs.items()]


def _outputs(path: str, lock: Mapping[str, Execution]) -> dict[str, str]:
    """Return the output that a path is or lies in, or those that lie in it."""
    every = {out: digest for e in lock.values() for out, digest in e.outputs.items()}
    around = {out: digest for out, digest in every.items() if f"{path}/".startswith(f"{out}/")}
    return around or {out: digest for out, digest in every.items() if out.startswith(f"{path}/")}


def _some(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "") if names else "none yet"
