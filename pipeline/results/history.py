"""One page over the whole history: every evaluation, and every run with those it was made from."""

from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from pipeline.history.executions import TrackedRun
from pipeline.history.results import Result, seconds_of
from pipeline.report.page import render
from pipeline.results.compare import differing_settings, groups_of, minutes_of

_TIME = "%Y-%m-%d %H:%M"


def history_page(results: Sequence[Result], runs: Sequence[TrackedRun], written: datetime) -> str:
    """Return the page as HTML without links to other files, of results and runs newest first."""
    groups = {
        f"{group[0].model} on {group[0].data}": [*_rows(group)] for group in groups_of(results)
    }
    body = render(
        "history.html.j2",
        Path(__file__).parent,
        groups=groups,
        runs=[*_runs(runs)],
        counts=f"{len(results)} evaluations, {len(runs)} finished runs.",
        written=written.strftime(_TIME),
    )
    return render("index.html.j2", title="History of results", body=body)


def _rows(group: Sequence[Result]) -> Iterator[dict[str, str | None]]:
    for result, settings in zip(group, differing_settings(group), strict=True):
        yield {
            "date": result.ended.strftime(_TIME),
            "now": "*" if result.current else "",
            "task": result.name,
            "method": result.method,
            "settings": ", ".join(f"{name}={value}" for name, value in settings.items()),
            "test": str(result.score("test") or ""),
            "dev": str(result.score("dev") or ""),
            "minutes": minutes_of(result),
            "machine": result.tags.get("hardware", ""),
            "commit": result.tags.get("mlflow.source.git.commit"),
            "run": result.run_id,
        }


def _runs(runs: Sequence[TrackedRun]) -> Iterator[dict[str, Any]]:
    # Path and hash of an output -> the newest run that wrote it.
    producers: dict[tuple[str, str], TrackedRun] = {}
    for run in runs:
        for output in run.execution.outputs.items():
            producers.setdefault(output, run)
    for run in runs:
        origins = filter(None, map(producers.get, run.execution.inputs.items()))
        seconds = seconds_of(run.metrics)
        yield {
            "id": run.run_id,
            "started": run.started.astimezone().strftime(_TIME),
            "name": run.name,
            "minutes": "" if seconds is None else f"{seconds / 60:.1f}",
            "commit": run.commit,
            "changed": "yes" if run.dirty else "",
            "made_from": {origin.name: origin.run_id for origin in origins},
        }
