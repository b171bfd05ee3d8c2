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


def _lines(node: Trace, params: bool, printed: set[str]) -> Iterator[str]:
    match node:
        case Artifact():
            yield f"{node.path}  {node.digest[:_SHORT]}"
            if node.made_by is None:
                yield f"└─ missing link: {node.missing}"
            else:
                yield from _branch(_lines(node.made_by, params, printed), last=True)
        case Used():
            unused = "" if node.used_by else "  (nothing was made from it)"
            yield f"{node.path}  {node.digest[:_SHORT]}{unused}"
            yield from _branches(node.used_by, params, printed)
        case LineageNode():
            name = f"{node.execution.stage or node.execution.command}  {_run(node)}"
            if name in printed:
                yield f"{name}  (above)"
                return
            printed.add(name)
            yield name
            children: list[Artifact | Used] = [*node.inputs, *node.outputs]
            for remark in _remarks(node, params):
                yield f"{'│' if children else ' '}  {remark}"
            yield from _branches(children, params, printed)


def _branches(nodes: Sequence[Trace], params: bool, printed: set[str]) -> Iterator[str]:
    for number, node in enumerate(nodes, 1):
        yield from _branch(_lines(node, params, printed), last=number == len(nodes))


def _branch(lines: Iterator[str], *, last: bool) -> Iterator[str]:
    for number, line in enumerate(lines):
        if number == 0:
            yield f"{'└─' if last else '├─'} {line}"
        else:
            yield f"{'  ' if last else '│ '} {line}"


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
