"""Traces as a tree of text, and as JSON."""

from collections.abc import Iterator, Sequence
from datetime import UTC
from typing import Any

from pipeline.history.lineage import Artifact, LineageNode, Trace, Used

_SHORT = 10


def as_tree(node: Trace, *, params: bool = False) -> str:
    """Return a trace as lines of text, with `params` also of parameters.

    A node that occurs several times is printed once.
    """
    return "".join(f"{line}\n" for line in _lines(node, params, printed=set()))


def as_json(node: Trace) -> dict[str, Any]:
    """Return a trace as JSON values; a node that occurs several times is repeated."""
    match node:
        case Artifact():
            made_by = None if node.made_by is None else as_json(node.made_by)
            missing = {"missing": node.missing} if node.missing else {}
            return {"path": node.path, "hash": node.digest, "made_by": made_by, **missing}
        case Used():
            used_by = [as_json(consumer) for consumer in node.used_by]
            return {"path": node.path, "hash": node.digest, "used_by": used_by}
        case LineageNode():
            values: dict[str, Any] = {
                "stage": node.execution.stage,
                "command": node.execution.command,
                "run_key": node.execution.run_key,
                "run": None
                if node.run is None
                else {
                    "id": node.run.run_id,
                    "name": node.run.name,
                    "started": node.run.started.isoformat(),
                    "commit": node.run.commit,
                    "dirty": node.run.dirty,
                    "restored": node.run.restored,
                },
                "other_runs_of_the_same_content": node.other_runs,
                "params": dict(node.execution.params),
            }
            if node.outputs:
                return {**values, "outputs": [as_json(used) for used in node.outputs]}
            inputs = [as_json(artifact) for artifact in node.inputs]
            return {**values, "code_as_in_commit": dict(node.code), "inputs": inputs}


def _lines(node: Trace | str, params: bool, printed: set[str]) -> Iterator[str]:
    children: Sequence[Trace | str] = ()
    remarks: list[str] = []
    match node:
        case Artifact():
            line = f"{node.path}  {node.digest[:_SHORT]}"
            children = [node.made_by or f"missing link: {node.missing}"]
        case Used():
            unused = "" if node.used_by else "  (nothing was made from it)"
            line = f"{node.path}  {node.digest[:_SHORT]}{unused}"
            children = node.used_by
        case LineageNode():
            line = f"{node.execution.stage or node.execution.command}  {_run(node)}"
            if line in printed:
                yield f"{line}  (above)"
                return
            printed.add(line)
            children = [*node.inputs, *node.outputs]
            remarks = [f"{'│' if children else ' '}  {text}" for text in _remarks(node, params)]
        case str():
            line = node
    yield line
    yield from remarks
    for number, child in enumerate(children, 1):
        first, other = ("└─", "  ") if number == len(children) else ("├─", "│ ")
        for place, inner in enumerate(_lines(child, params, printed)):
            yield f"{other if place else first} {inner}"


def _run(node: LineageNode) -> str:
    run = node.run
    if run is None:
        return "no run in this history (`ptune sync` creates one)"
    parts = [f"run {run.run_id[:_SHORT]}", f"{run.started.astimezone(UTC):%Y-%m-%d %H:%M UTC}"]
    if run.restored:
        parts.append("restored")
    parts.append("no commit" if run.commit is None else f"commit {run.commit[:_SHORT]}")
    if run.dirty:
        parts.append("with changes (git/diff.patch)")
    if node.other_runs:
        plural = "s" if node.other_runs > 1 else ""
        parts.append(f"and {node.other_runs} other run{plural} of the same content")
    return "  ".join(parts)


def _remarks(node: LineageNode, params: bool) -> Iterator[str]:
    if params:
        for name, value in node.execution.params.items():
            yield f"{name}: {value}"
    if not node.code:
        return
    changed = [path for path, same in node.code.items() if same is False]
    if changed:
        yield f"code differs from the commit: {', '.join(changed)}"
    elif None in node.code.values():
        yield f"code: {len(node.code)} files and folders; their commit is unknown"
    else:
        yield f"code: {len(node.code)} files and folders, as in the commit"
