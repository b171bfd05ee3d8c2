"""Finished runs of a made-up pipeline, logged as the stages log theirs."""

import itertools
import time
from collections.abc import Mapping
from datetime import date
from typing import Any

import mlflow

from pipeline.history.results import SECONDS_REUSED
from pipeline.history.run import stage_run
from pipeline.workflow.command import StageInfo
from pipeline.workflow.project import StageIdentity

MODEL = "smollm2-135m-instruct"
DAY = 24 * 60 * 60
# All runs of a process end today as it was at its start: midnight may pass while it runs.
_STARTED = time.time()
TODAY = date.fromtimestamp(_STARTED)
_TICKS = itertools.count()


def log_splits(where: str, digest: str, params: Mapping[str, Any]) -> None:
    """Log that splits with this hash were made with these parameters."""
    _log(
        "splits", ("lama",), f"--out data/splits/{where}", params,
        made={f"data/splits/{where}": digest},
    )  # fmt: skip


def log_training(
    method: str,
    digest: str,
    seconds: float,
    *,
    taken_over: float = 0.0,
    params: Mapping[str, Any] | None = None,
) -> str:
    """Log that a training on LAMA left these contents, after so long."""
    return _log(
        "train", ("lama", "", method), "", params or {}, made={f"models/lama/{method}": digest},
        metrics={"seconds": seconds, SECONDS_REUSED: taken_over},
    )  # fmt: skip


def log_evaluation(
    benchmark: str,
    task: str,
    method: str,
    metrics: Mapping[str, float],
    *,
    source: str | None = "geonames",
    splits: str = "aaaaaaaa",
    model: str = MODEL,
    days_ago: float = 0,
    trained: str = "cccccccc",
    inputs: Mapping[str, str] | None = None,
    seconds: float | None = None,
    **tags: str,
) -> str:
    """Log an evaluation and return its run's id; `source` None: one outside DVC."""
    section = "superglue" if benchmark == "superglue" else "lama"
    where = f"data/splits/{section}" + (f"/{task}" if task else "")
    return _log(
        "evaluate", (benchmark, task, method),
        f"--model data/model --splits {where}",
        None if source is None else {"model": {"name": model}, section: {"source": source}},
        read={
            "data/model": "bbbbbbbb", where: splits, f"models/{benchmark}/{method}": trained,
            **(inputs or {}),
        },
        metrics={**metrics, **({} if seconds is None else {"seconds": seconds})},
        days_ago=days_ago, tags={"model": model, **tags},
    )  # fmt: skip


def log_lama(method: str, p_at_1: float, *, relations: int = 4, **more: Any) -> str:
    """Log an evaluation of knowledge probing."""
    values = {f"test/p_at_1/P{number}": p_at_1 for number in range(relations)}
    values |= {"test/p_at_1": p_at_1, "dev/p_at_1": p_at_1 + 0.01, "test/facts": 416}
    return log_evaluation("lama", "", method, values, **more)


def log_task(task: str, method: str, score: float, *, std: float | None = None, **more: Any) -> str:
    """Log an evaluation of a SuperGLUE task, of three trainings if there is a `std`."""
    values = {"test/score": score, "dev/score": score + 0.01, "test/examples": 277}
    values["test/trainings"] = 1 if std is None else 3
    if std is not None:
        values |= {"test/score_std": std, "dev/score_std": std}
    return log_evaluation("superglue", task, method, values, **more)


def _log(
    stage: str,
    about: tuple[str, ...],
    options: str,
    params: Mapping[str, Any] | None,
    *,
    read: Mapping[str, str] | None = None,
    made: Mapping[str, str] | None = None,
    metrics: Mapping[str, float] | None = None,
    days_ago: float = 0,
    tags: Mapping[str, str] | None = None,
) -> str:
    identity = StageIdentity(
        stage=f"{stage}-{about[0]}",
        command=f"python -m stages.{stage} {' '.join(filter(None, about))} {options}",
        params=dict(params or {}),
        inputs=dict(read or {}),
    )
    with stage_run(None if params is None else identity, StageInfo(stage, *about)) as run:
        run.log_metrics(metrics or {})
        run.set_tags({**(tags or {}), **{f"dvc.out.{p}": v for p, v in (made or {}).items()}})
    ended = int((_STARTED - days_ago * DAY) * 1000) + next(_TICKS)
    mlflow.MlflowClient().set_terminated(run.run_id, "FINISHED", ended)
    return run.run_id
