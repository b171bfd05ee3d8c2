"""Traces as a tree of text, and as plain data."""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from pipeline.history.executions import TrackedRun
from pipeline.history.lineage import Artifact, Step, Used

_SHORT = 10


def as_tree(node: Artifact | Step | Used, *, params: bool = False) -> str:
    """Return a trace as lines of text; what stands in several places is told in the first.

    Args:
        node: what was traced.
        params: whether to write the parameters of each step.
    """
    lines = list(_lines(node, params, told=set()))
    return "".join(f"{line}\n" for line in lines)


def as_json(node: Artifact | Step | Used) -> dict[str, Any]:
    """Return a trace as plain data; a step that stands in several places is written in each."""
    match node:
        case Artifact():
            made_by = None if node.made_by is None else as_json(node.made_by)
            known = {"path": node.path, "hash": node.digest, "made_by": made_by}
            return {**known, "missing": node.missing} if node.missing else known
        case Used():
            used_by = [as_json(step) for step in node.used_by]
            return {"path": node.path, "hash": node.digest, "used_by": used_by}
        case Step():
            written: dict[str, Any] = {
                "stage": node.execution.stage,
                "command": node.execution.command,
                "run_key": node.execution.run_key,
                "run": None if node.run is None else _run_as_json(node.run),
                "other_runs_of_the_same_content": node.other_runs,
                "params": dict(node.execution.params),
            }
            if node.outputs:
                return {**written, "outputs": [as_json(used) for used in node.outputs]}
            inputs = [as_json(artifact) for artifact in node.inputs]
            return {**written, "code_as_in_commit": dict(node.code), "inputs": inputs}


def _run_as_json(run: TrackedRun) -> dict[str, Any]:
    return {
        "id": run.run_id,
        "name": run.name,
        "started": run.started.isoformat(),
        "commit": run.commit,
        "dirty": run.dirty,
        "restored": run.restored,
    }


def _lines(node: Artifact | Step | Used, params: bool, told: set[str]) -> Iterator[str]:
    match node:
        case Artifact():
            yield f"{node.path}  {node.digest[:_SHORT]}"
            if node.made_by is None:
                yield f"└─ missing link: {node.missing}"
            else:
                yield from _branch(_lines(node.made_by, params, told), last=True)
        case Used():
            unused = "" if node.used_by else "  (nothing was made from it)"
            yield f"{node.path}  {node.digest[:_SHORT]}{unused}"
            yield from _branches(node.used_by, params, told)
        case Step():
            name = f"{node.execution.stage or node.execution.command}  {_run(node)}"
            if name in told:
                yield f"{name}  (above)"
                return
            told.add(name)
            yield name
            children: list[Artifact | Used] = [*node.inputs, *node.outputs]
            for remark in _remarks(node, params):
                yield f"{'│' if children else ' '}  {remark}"
            yield from _branches(children, params, told)


def _branches(
    nodes: Sequence[Artifact | Step | Used], params: bool, told: set[str]
) -> Iterator[str]:
    for number, node in enumerate(nodes, 1):
        yield from _branch(_lines(node, params, told), last=number == len(nodes))


def _branch(lines: Iterator[str], *, last: bool) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number == 0:
            yield f"{'└─' if last else '├─'} {line}"
        else:
            yield f"{'  ' if last else '│ '} {line}"


def _run(step: Step) -> str:
    run = step.run
    if run is None:
        return "no run in this history (`ptune sync` makes one)"
    parts = [f"run {run.run_id[:_SHORT]}", _minute(run.started)]
    if run.restored:
        parts.append("restored")
    parts.append("no commit" if run.commit is None else f"commit {run.commit[:_SHORT]}")
    if run.dirty:
        parts.append("with changes (git/diff.patch)")
    if step.other_runs:
        plural = "s" if step.other_runs > 1 else ""
        parts.append(f"and {step.other_runs} other run{plural} of the same content")
    return "  ".join(parts)


def _remarks(step: Step, params: bool) -> Iterator[str]:
    if params:
        for name, value in step.execution.params.items():
            yield f"{name}: {value}"
    if not step.code:
        return
    differing = [path for path, same in step.code.items() if same is False]
    if differing:
        yield f"code differs from the commit: {', '.join(differing)}"
    elif None in step.code.values():
        yield f"code: {len(step.code)} files and folders; which commit had them is not known"
    else:
        yield f"code: {len(step.code)} files and folders, as in the commit"


def _minute(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
