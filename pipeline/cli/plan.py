"""`ptune plan`: what `dvc repro` would run, and about how long."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.console import echo, print_columns

if TYPE_CHECKING:
    from pipeline.history.forecast import Estimate
    from pipeline.workflow.project import PlannedStage

EXAMPLES = """Examples:
  ptune plan
  ptune plan train-lama report"""

_FIRST = "validate"
_MAX_NAMED = 3


def plan(
    targets: Annotated[
        list[str] | None,
        typer.Argument(help="Stages, or groups such as train-lama; default: all."),
    ] = None,
) -> None:
    """Show which stages `dvc repro` would run, and about how long; run nothing.

    A stage takes about as long as the recorded run of it on this machine, with
    the same language model, that differs in the fewest settings; they are
    named. Stages whose results are in the cache are restored.
    """
    from pipeline.workflow.project import Forecast

    stages = _planned(targets or ())
    timed = timed_stages(stages)
    if timed:
        rows = [["stage", "minutes", "time of a run that differs in"]]
        for stage, estimate in timed:
            minutes = "unknown" if estimate is None else f"{estimate.seconds / 60:.1f}"
            rows.append([stage.name, minutes, _differing(estimate)])
        print_columns(rows, right={1})
        echo()
    restored = [stage.name for stage in stages if stage.forecast is Forecast.RESTORE]
    if restored:
        echo(f"From the cache: {', '.join(restored)}")
    unchanged = len(stages) - len(timed) - len(restored)
    echo(f"{len(timed)} to run, {len(restored)} from the cache, {unchanged} unchanged")
    if timed:
        echo(_total(timed))


def timed_stages(
    stages: Sequence["PlannedStage"],
) -> list[tuple["PlannedStage", "Estimate | None"]]:
    """Return the stages that would run, each with its time by the history; None if unknown.

    Raises:
        TrackingError: The history cannot be read.
    """
    from pipeline.history.forecast import estimate_times
    from pipeline.workflow.project import Forecast

    return list(estimate_times(stage for stage in stages if stage.forecast is Forecast.RUN))


def cost_line(params_file: Path) -> str | None:
    """Return what `dvc repro` would cost now; None if the file is not that of a DVC project."""
    if params_file.resolve() != Path("params.yaml").resolve() or not Path("dvc.yaml").is_file():
        return None
    timed = timed_stages(_planned(()))
    return _total(timed) if timed else "Nothing to run: the results are in the workspace or cache."


def _planned(targets: Sequence[str]) -> list["PlannedStage"]:
    from pipeline.config.checks import check_params
    from pipeline.config.schema import load_params
    from pipeline.workflow.project import plan_stages

    # As the first stage does; its output is then always the same.
    check_params(load_params(Path("params.yaml")))
    return plan_stages([_FIRST, *targets] if targets else (), constant=_FIRST)


def _differing(estimate: "Estimate | None") -> str:
    if estimate is None:
        return ""
    named = ", ".join(estimate.differing[:_MAX_NAMED]) or "nothing"
    more = len(estimate.differing) - _MAX_NAMED
    return f"{named} and {more} more" if more > 0 else named


def _total(timed: Sequence[tuple["PlannedStage", "Estimate | None"]]) -> str:
    known = [estimate.seconds for _, estimate in timed if estimate is not None]
    if not known:
        return f"No time known on this machine for any of the {len(timed)} stages to run."
    total = f"About {sum(known) / 60:.1f} minutes, one stage at a time, by the history"
    if len(known) < len(timed):
        total += f"; no time known for {len(timed) - len(known)} of {len(timed)} stages"
    return f"{total}."
