"""Promote what was trained: a loadable MLflow model, registered under a stable name."""

import contextlib
import importlib.metadata
import logging
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import pipeline
from pipeline.data.lama import read_lama
from pipeline.errors import TrackingError
from pipeline.files import link_or_copy, write_text
from pipeline.history.store import connect, first_line, without_password
from pipeline.inference.candidates import Candidate
from pipeline.inference.predictor import TrainedPrompt, best_by_task, load_trained
from pipeline.prompts.store import save_prompts, weights_file
from pipeline.tasks import get_task
from pipeline.workflow.command import EXPERIMENTS

BEST = "best"

# What the code that answers imports. mlflow as a whole, for the server and for SQLite histories.
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "psutil", "safetensors", "torch", "transformers")
_TOP = 5


@dataclass(frozen=True)
class Promoted:
    """A version of a registered model.

    Attributes:
        name: of the registered model, such as `p-tuning-rte`.
        version: its number.
        new: whether it was made now; the same content has one version.
        best: the version with the best dev score on the same data, of equals the first.
        best_score: its dev score.
    """

    name: str
    version: int
    new: bool
    best: int
    best_score: float


def promote(candidate: Candidate) -> Promoted:
    """Log what was trained as a loadable model and register it; the best gets the alias `best`.

    Raises:
        TrackingError: the tracking server or store cannot be used.
        DataError: a file of what was trained is cut.
    """
    mlflow = connect(EXPERIMENTS["promote"])
    name = f"p-tuning-{candidate.target}"
    try:
        known = _find_version(mlflow, name, candidate)
        version = known or _register(mlflow, name, candidate)
        best = _best_version(mlflow, name, candidate)
        if _number(best) == _number(version):
            mlflow.MlflowClient().set_registered_model_alias(name, BEST, str(best.version))
    except mlflow.MlflowException as error:
        raise TrackingError(without_password(f"MLflow: {first_line(error)}")) from error
    return Promoted(
        name=name,
        version=_number(version),
        new=known is None,
        best=_number(best),
        best_score=float(best.tags["dev_score"]),
    )


def _versions(mlflow: ModuleType, name: str) -> list[Any]:
    """Return the versions of a registered model, the oldest first."""
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return sorted(found, key=_number)


def _number(version: Any) -> int:
    return int(version.version)  # a store may give text


def _find_version(mlflow: ModuleType, name: str, candidate: Candidate) -> Any | None:
    wanted = _content(candidate).items()
    return next((v for v in _versions(mlflow, name) if wanted <= v.tags.items()), None)


def _best_version(mlflow: ModuleType, name: str, candidate: Candidate) -> Any:
    splits = candidate.hashes["splits"]
    compared = [v for v in _versions(mlflow, name) if v.tags.get("dvc.splits_md5") == splits]
    return max(compared, key=lambda version: float(version.tags["dev_score"]))


def _content(candidate: Candidate) -> dict[str, str]:
    return {
        "dvc.md5": candidate.hashes["trained"],
        "dvc.model_md5": candidate.hashes["model"],
        "dvc.splits_md5": candidate.hashes["splits"],
    }


def _register(mlflow: ModuleType, name: str, candidate: Candidate) -> Any:
    about = {"benchmark": candidate.benchmark, "task": candidate.task, "method": candidate.method}
    tags = {**{key: value for key, value in about.items() if value}, **_content(candidate)}
    scores = {f"dev/{candidate.metric}": candidate.dev_score}
    tags |= {"metric": candidate.metric, "dev_score": repr(candidate.dev_score)}
    if candidate.test_score is not None:
        scores[f"test/{candidate.metric}"] = candidate.test_score
        tags["test_score"] = repr(candidate.test_score)
    training = _training_run(mlflow, candidate)
    if training is not None:
        tags["train_run_id"] = training
    prompts = _served(candidate)
    if candidate.task:
        (tags["training"],) = prompts
    run_name = f"promote/{candidate.target}/{candidate.method}"
    with (
        _artifacts(candidate, prompts) as artifacts,
        mlflow.start_run(run_name=run_name, tags={"stage": "promote", **tags}),
    ):
        model = _log_model(mlflow, candidate, artifacts)
        mlflow.log_metrics(scores, model_id=model.model_id)
    return mlflow.register_model(model.model_uri, name, tags=tags)


def _log_model(mlflow: ModuleType, candidate: Candidate, artifacts: dict[str, str]) -> Any:
    import pandas as pd

    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    return mlflow.pyfunc.log_model(
        name=f"{candidate.target}-{candidate.method}",
        python_model=str(Path(__file__).with_name("serving.py")),
        code_paths=[str(Path(pipeline.__file__).parent)],
        artifacts=artifacts,
        pip_requirements=requirements(),
        signature=_signature(candidate),
        input_example=pd.DataFrame(_example(candidate)),
        model_config={
            "task": candidate.task,
            "device": "auto",
            "dtype": candidate.dtype,
            "threads": None,
            "max_rows_per_forward": "auto",
            "top": _TOP,
        },
    )


def requirements() -> list[str]:
    """Return what a promoted model needs, at the versions that are installed here.

    Of a version such as `2.13.0+cpu` the machine's part is left out: the package index has none.
    """
    versions = {name: importlib.metadata.version(name) for name in _REQUIREMENTS}
    return [f"{name}=={version.partition('+')[0]}" for name, version in versions.items()]


def _served(candidate: Candidate) -> dict[str, TrainedPrompt]:
    """Return the prompts that predict, by name: of each task or relation the best on dev."""
    best = best_by_task(load_trained(candidate.trained).values())
    return {trained.name: trained for trained in best.values()}


@contextlib.contextmanager
def _artifacts(candidate: Candidate, prompts: dict[str, TrainedPrompt]) -> Iterator[dict[str, str]]:
    """Yield name -> path of what the model file reads."""
    with tempfile.TemporaryDirectory(prefix="p-tuning-") as temporary:
        trained = Path(temporary) / candidate.method  # the folder's name tells the method
        trained.mkdir()
        save_prompts(trained, candidate.method, {n: own.prompt for n, own in prompts.items()})
        for name, own in prompts.items():
            if own.weights is not None:
                link_or_copy(own.weights, weights_file(trained, name))
        paths = {"trained": str(trained), "model": str(candidate.model)}
        if not candidate.task:
            vocabulary = Path(temporary) / "vocabulary.txt"
            write_text(vocabulary, "\n".join(read_lama(candidate.splits, []).vocabulary))
            paths["vocabulary"] = str(vocabulary)
        yield paths


def _signature(candidate: Candidate) -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Array, DataType

    kinds = {str: DataType.string, int: DataType.long}
    asked: list[Any]
    if candidate.task:
        asked = [
            ColSpec(kinds[field.value_type], field.name, required=field.required)
            for field in get_task(candidate.task).schema.fields
        ]
    else:
        asked = [ColSpec(DataType.string, name) for name in ("relation", "subject")]
    given: list[Any] = [
        ColSpec(DataType.string, "answer"),
        ColSpec(DataType.double, "probability"),
        ColSpec(Array(DataType.string), "answers"),
        ColSpec(Array(DataType.double), "probabilities"),
    ]
    return ModelSignature(Schema(asked), Schema(given))


def _example(candidate: Candidate) -> list[dict[str, str]]:
    if candidate.task:
        fields = get_task(candidate.task).schema.fields
        return [{field.name: field.example for field in fields if field.required}]
    facts = read_lama(candidate.splits, ["dev"]).facts
    return [
        {"relation": relation, "subject": own["dev"][0].sub_label}
        for relation, own in facts.items()
    ]


def _training_run(mlflow: ModuleType, candidate: Candidate) -> str | None:
    """Return the id of the newest run that made this content; None if the history has none."""
    path = candidate.trained.as_posix()
    runs = mlflow.search_runs(
        filter_string=f"tags.`dvc.out.{path}` = '{candidate.hashes['trained']}'",
        search_all_experiments=True,
        order_by=["attributes.start_time DESC"],
        max_results=1,
        output_format="list",
    )
    return runs[0].info.run_id if runs else None
