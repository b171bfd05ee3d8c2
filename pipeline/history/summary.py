"""What a run's row in MLflow shows: its name, its scores, and the settings that led to them.

MLflow's tables and charts relate only parameters and metrics of one run. So an evaluation gets the
parameters of the training and the splits that it read, and trainings and evaluations are named by
the settings in which they differ from the first run of their stage.
"""

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

from pipeline.history.events import Event, metric_points
from pipeline.history.executions import MAX_TAG, tags_below
from pipeline.history.results import seconds_of
from pipeline.history.store import connect
from pipeline.report.markdown import code_span
from pipeline.report.scores import HEADLINE, percent, scores_of
from pipeline.workflow.command import StageInfo

# The tag with the settings that differ from those of the stage's first run.
CHANGED = "changed"
# A name has so many of them.
_MAX_NAMED = 4
_NOTE = "mlflow.note.content"
_FACTS = "Result: "


def log_summary(run_id: str, write: Callable[[Event], None]) -> None:
    """Write the summary of a training or an evaluation; other runs are left unchanged.

    An evaluation's headline scores get names that all benchmarks share, `dev/score` and
    `test/score`. Reads the run's tags `made_from`, so its lineage must have been written.

    Raises:
        Exception: MLflow raises many types.
    """
    mlflow = connect()
    run = mlflow.get_run(run_id)
    tags = run.data.tags
    if tags.get("stage") not in ("train", "evaluate"):
        return
    made_from = map(mlflow.get_run, sorted(set(tags_below(tags, "made_from.").values())))
    makers = {maker.data.tags.get("stage"): maker for maker in made_from}
    training = makers.get("train")
    params = dict(run.data.params)
    if tags["stage"] == "evaluate":
        for maker in filter(None, (makers.get("splits"), training)):
            params = {**maker.data.params, **params}
    scores = _headline(run)
    seconds = [seconds_of(part.data.metrics) for part in (training, run) if part is not None]
    minutes = {} if None in seconds else {"minutes": round(sum(filter(None, seconds)) / 60, 2)}
    changed = _changed(params, _first_params(mlflow, run))
    missing = {key: value for key, value in params.items() if key not in run.data.params}
    note = f"{_facts(scores, minutes, changed)}\n\n{_without_facts(tags.get(_NOTE, ''))}"
    subject = StageInfo(tags["stage"], tags["benchmark"], tags.get("task", ""), tags["method"])
    name = [subject.run_name, *changed[:_MAX_NAMED]]
    if len(changed) > _MAX_NAMED:
        name.append(f"and {len(changed) - _MAX_NAMED} more")
    write(Event("params", run_id, missing))
    write(Event("metrics", run_id, {"points": metric_points(scores | minutes, 0)}))
    write(Event("tags", run_id, {CHANGED: ", ".join(changed)[:MAX_TAG], _NOTE: note}))
    write(Event("tags", run_id, {"mlflow.runName": " ".join(name)}))


def short_names(paths: Iterable[str]) -> dict[str, str]:
    """Return dotted path -> the shortest end of it that no other of the paths has, or all of it."""
    parts = {path: path.split(".") for path in paths}

    def short(words: list[str]) -> str:
        ends = (words[-count:] for count in range(1, len(words)))
        unique = (
            end for end in ends if sum(other[-len(end) :] == end for other in parts.values()) == 1
        )
        return ".".join(next(unique, words))

    return {path: short(words) for path, words in parts.items()}


def _headline(run: Any) -> dict[str, float]:
    tags = run.data.tags
    benchmark, method = tags["benchmark"], tags["method"]
    return {
        f"{score.split}/score": score.mean
        for score in scores_of(run.data.metrics, benchmark, tags.get("task", ""), method)
        if (score.method, score.metric) == (method, HEADLINE[benchmark]) and score.mean is not None
    }


def _first_params(mlflow: ModuleType, run: Any) -> Mapping[str, str] | None:
    """Return the parameters of the first finished run of the same stage and model, if any."""
    stage, model = run.data.tags.get("dvc.stage"), run.data.params.get("model.name", "")
    quote = '"' if "'" in model else "'"
    if quote in model:  # MLflow's filters have no way to write it
        return None
    runs = mlflow.search_runs(
        [run.info.experiment_id],
        filter_string=f"tags.`dvc.stage` = '{stage}' AND attributes.status = 'FINISHED' "
        f"AND params.`model.name` = {quote}{model}{quote}",
        order_by=["attributes.start_time ASC"],
        max_results=2,
        output_format="list",
    )
    others = [other.data.params for other in runs if other.info.run_id != run.info.run_id]
    return others[0] if others else None


def _changed(params: Mapping[str, str], first: Mapping[str, str] | None) -> list[str]:
    """Return the settings that differ, such as `encoder=mlp`; `-` is one that is not set."""
    if first is None:
        return []
    keys = [key for key in {**params, **first} if params.get(key) != first.get(key)]
    names = short_names(keys)
    return [f"{names[key]}={params.get(key, '-')}" for key in keys]


def _facts(
    scores: Mapping[str, float], minutes: Mapping[str, float], changed: Iterable[str]
) -> str:
    facts = [f"**{key} {percent(value)} %**" for key, value in sorted(scores.items(), reverse=True)]
    facts += [f"{value:.1f} minutes" for value in minutes.values()]
    facts += [code_span(setting) for setting in changed]
    return f"{_FACTS}{', '.join(facts)}"


def _without_facts(note: str) -> str:
    """Return a run's description without the facts that an earlier call put in front."""
    return note.partition("\n\n")[2] if note.startswith(_FACTS) else note
