"""Register a trained method as a loadable MLflow model, under a stable name.

A candidate is what one method trained in this checkout, as `dvc.lock` records it.
"""

import importlib.metadata
import logging
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import pipeline
from pipeline.data.lama import OBJECTS, read_lama
from pipeline.errors import DataError, PipelineError, TrackingError
from pipeline.evaluation.metrics import mean
from pipeline.files import link_or_copy, read_json, write_json, write_text
from pipeline.history.executions import TrackedHistory
from pipeline.history.store import connect, first_line
from pipeline.inference.predictor import TrainedPrompt, best_by_task, load_trained
from pipeline.prompts.store import load_prompts, save_prompts, weights_file
from pipeline.tasks import get_task
from pipeline.tasks.own import DEFINITION, Definition, read_definition
from pipeline.workflow.command import EXPERIMENTS, StageInfo
from pipeline.workflow.lock import Execution, read_lock
from pipeline.workflow.project import workspace_hashes

BEST = "best"

# Benchmarks that can be promoted -> their metric.
_METRICS = {"lama": "p_at_1", "superglue": "score", "tasks": "score"}

# Packages that prediction imports. mlflow as a whole, for the server and for SQLite histories.
_REQUIREMENTS = ("mlflow", "numpy", "pandas", "psutil", "safetensors", "torch", "transformers")
_TOP = 5


@dataclass(frozen=True)
class Candidate:
    """The trained prompts of one method, on LAMA or on a task.

    Attributes:
        benchmark: `lama`, `superglue` or `tasks`.
        task: such as `rte`; empty for `lama`.
        folders: `trained` (written by training), `model` (the language model) and `splits`.
        hashes: of the three folders, as in `dvc.lock`.
        model: how the training loaded it: the section `model` without the name; earlier versions
            lack keys.
        test_score: the mean over relations, or over trainings; None if it was not evaluated.
    """

    benchmark: str
    task: str
    method: str
    folders: dict[str, str]
    hashes: dict[str, str]
    model: dict[str, Any]
    test_score: float | None = None

    @property
    def target(self) -> str:
        """The task, or `lama`."""
        return self.task or self.benchmark

    @property
    def definition(self) -> Definition | None:
        """What a task of the user is; None for others.

        Raises:
            DataError: the folder of its splits is damaged.
        """
        return read_definition(Path(self.folders["splits"])) if self.benchmark == "tasks" else None

    @property
    def metric(self) -> str:
        """Name of the metric of the two scores."""
        return _METRICS[self.benchmark]

    @cached_property
    def dev_score(self) -> float:
        """The mean over relations, or over trainings."""
        prompts = load_prompts(Path(self.folders["trained"])).values()
        return mean([prompt.dev_score for prompt in prompts])


def find_candidates(target: str) -> list[Candidate]:
    """List what is trained of `lama` or a task in this checkout, in the order of `dvc.lock`.

    Raises:
        PipelineError: nothing is trained of it.
        DataError: a folder is missing or differs from `dvc.lock`.
    """
    executions = read_lock(Path("dvc.lock")).values()
    recorded = [candidate for one in executions if (candidate := _read_candidate(one))]
    folders = {path for candidate in recorded for path in candidate.folders.values()}
    hashes = workspace_hashes(folders) if folders else {}
    # dvc.lock keeps stages that were removed from dvc.yaml.
    current = [candidate for candidate in recorded if candidate.folders["trained"] in hashes]
    selected = [candidate for candidate in current if candidate.target == target]
    if not selected:
        targets = ", ".join(sorted({candidate.target for candidate in current}))
        raise PipelineError(
            f"{target}: not trained in this checkout (trained: {targets or 'nothing'}); add it to "
            "params.yaml and run `dvc repro`"
        )
    for candidate in selected:
        for name, folder in candidate.folders.items():
            if hashes.get(folder) is None:
                raise DataError(
                    f"{folder}: not there; `dvc checkout` or `dvc pull` restores earlier results"
                )
            if hashes[folder] != candidate.hashes[name]:
                raise DataError(
                    f"{folder}: differs from dvc.lock; run `dvc repro`, or `dvc checkout` to "
                    "restore what it records"
                )
    return [replace(one, test_score=_test_score(one, executions)) for one in selected]


def choose(candidates: Sequence[Candidate], method: str | None) -> Candidate:
    """Select the candidate with the best dev score, the first of several; or that of a method.

    Raises:
        PipelineError: no such method.
    """
    if method is None:
        return max(candidates, key=lambda candidate: candidate.dev_score)
    for candidate in candidates:
        if candidate.method == method:
            return candidate
    choices = ", ".join(candidate.method for candidate in candidates)
    raise PipelineError(
        f"--method {method}: not trained here for {candidates[0].target}; choose from {choices}"
    )


def _read_candidate(execution: Execution) -> Candidate | None:
    """None for a stage other than `stages.train`, or a benchmark that is not promoted."""
    info = StageInfo.from_command(execution.command)
    if info is None or info.stage != "train" or info.benchmark not in _METRICS:
        return None
    options = {"trained": "--out", "model": "--model", "splits": "--splits"}
    folders = {name: info.options.get(option, "") for name, option in options.items()}
    known = {**execution.inputs, **execution.outputs}
    if not info.method or not known.keys() >= set(folders.values()):
        return None
    hashes = {name: known[folder] for name, folder in folders.items()}
    model = execution.params["model"]
    return Candidate(
        info.benchmark,
        info.task,
        info.method,
        folders,
        hashes,
        {key: value for key, value in model.items() if key != "name"},
    )


def _test_score(candidate: Candidate, executions: Iterable[Execution]) -> float | None:
    """The score that the evaluation of this exact content wrote; None if there was none."""
    for execution in executions:
        info = StageInfo.from_command(execution.command)
        evaluated = execution.inputs.get(candidate.folders["trained"])
        if info and info.stage == "evaluate" and evaluated == candidate.hashes["trained"]:
            metrics = Path(info.options.get("--metrics", ""))
            if metrics.is_file():
                return float(read_json(metrics)[f"test/{candidate.metric}"])
    return None


@dataclass(frozen=True)
class Promoted:
    """A version of a registered model.

    Attributes:
        name: of the registered model, such as `p-tuning-rte`.
        new: whether it was registered now; the same content has one version.
        best: the version with the best dev score on the same data, the first of several.
        best_score: dev score of `best`.
    """

    name: str
    version: int
    new: bool
    best: int
    best_score: float


def promote(candidate: Candidate) -> Promoted:
    """Log a candidate as a loadable model and register it; the best version gets the alias `best`.

    Raises:
        TrackingError: the tracking server or store cannot be used.
        DataError: a file of the trained folder is missing, cut or replaced.
    """
    mlflow = connect(EXPERIMENTS["promote"])
    name = f"p-tuning-{candidate.target}"
    content = {
        "dvc.md5": candidate.hashes["trained"],
        "dvc.model_md5": candidate.hashes["model"],
        "dvc.splits_md5": candidate.hashes["splits"],
    }
    try:
        known = next(
            (v for v in _versions(mlflow, name) if content.items() <= v.tags.items()), None
        )
        version = known or _register(mlflow, name, candidate, content)
        splits = candidate.hashes["splits"]
        best = max(
            (v for v in _versions(mlflow, name) if v.tags.get("dvc.splits_md5") == splits),
            key=lambda version: float(version.tags["dev_score"]),
        )
        if _number(best) == _number(version):
            mlflow.MlflowClient().set_registered_model_alias(name, BEST, str(best.version))
    except mlflow.MlflowException as error:
        raise TrackingError(f"MLflow: {first_line(error)}") from error
    return Promoted(
        name=name,
        version=_number(version),
        new=known is None,
        best=_number(best),
        best_score=float(best.tags["dev_score"]),
    )


def _versions(mlflow: ModuleType, name: str) -> list[Any]:
    """The versions of a registered model, the oldest first."""
    return sorted(mlflow.MlflowClient().search_model_versions(f"name = '{name}'"), key=_number)


def _number(version: Any) -> int:
    return int(version.version)  # some stores return text


def _register(
    mlflow: ModuleType, name: str, candidate: Candidate, content: Mapping[str, str]
) -> Any:
    about = {"benchmark": candidate.benchmark, "task": candidate.task, "method": candidate.method}
    tags = {**{key: value for key, value in about.items() if value}, **content}
    scores = {f"dev/{candidate.metric}": candidate.dev_score}
    tags |= {"metric": candidate.metric, "dev_score": repr(candidate.dev_score)}
    if candidate.test_score is not None:
        scores[f"test/{candidate.metric}"] = candidate.test_score
        tags["test_score"] = repr(candidate.test_score)
    trained = Path(candidate.folders["trained"])
    trainings = TrackedHistory().producers(trained.as_posix(), candidate.hashes["trained"])
    if trainings:
        tags["train_run_id"] = trainings[0].run_id
    best = best_by_task(load_trained(trained).values())
    prompts = {trained.name: trained for trained in best.values()}
    if candidate.task:
        (tags["training"],) = prompts
    run_name = f"promote/{candidate.target}/{candidate.method}"
    with (
        tempfile.TemporaryDirectory(prefix="p-tuning-") as temporary,
        mlflow.start_run(run_name=run_name, tags={"stage": "promote", **tags}),
    ):
        artifacts = _write_artifacts(Path(temporary), candidate, prompts)
        model = _log_model(mlflow, candidate, artifacts)
        mlflow.log_metrics(scores, model_id=model.model_id)
    return mlflow.register_model(model.model_uri, name, tags=tags)


def _write_artifacts(
    folder: Path, candidate: Candidate, prompts: Mapping[str, TrainedPrompt]
) -> dict[str, str]:
    """Write the files that the model file reads; name -> path."""
    trained = folder / candidate.method  # load_trained takes the method from the folder's name
    trained.mkdir()
    for name, one in prompts.items():
        if (weights := one.prompt.weights_path) is not None:
            link_or_copy(weights, weights_file(trained, name))
    save_prompts(trained, candidate.method, {name: one.prompt for name, one in prompts.items()})
    paths = {"trained": str(trained), "model": candidate.folders["model"]}
    if candidate.definition is not None:
        candidate.definition.write(folder)
        paths["definition"] = str(folder / DEFINITION)
    if not candidate.task:
        vocabulary = folder / "vocabulary.txt"
        splits = read_lama(Path(candidate.folders["splits"]), [])
        write_text(vocabulary, "\n".join(splits.vocabulary))
        paths["vocabulary"] = str(vocabulary)
        if splits.objects:
            write_json(folder / OBJECTS, splits.objects)
            paths["objects"] = str(folder / OBJECTS)
    return paths


def _log_model(mlflow: ModuleType, candidate: Candidate, artifacts: dict[str, str]) -> Any:
    import pandas as pd
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import Array, DataType

    inputs, example = _input(candidate)
    outputs = Schema(
        [
            ColSpec(DataType.string, "answer"),
            ColSpec(DataType.double, "probability"),
            ColSpec(Array(DataType.string), "answers"),
            ColSpec(Array(DataType.double), "probabilities"),
        ]
    )
    # Without the local part of a version such as `2.13.0+cpu`: the package index lacks it.
    versions = {n: importlib.metadata.version(n).partition("+")[0] for n in _REQUIREMENTS}
    logging.getLogger("mlflow.pyfunc").setLevel(logging.WARNING)
    return mlflow.pyfunc.log_model(
        name=f"{candidate.target}-{candidate.method}",
        python_model=str(Path(__file__).with_name("serving.py")),
        code_paths=[str(Path(pipeline.__file__).parent)],
        artifacts=artifacts,
        pip_requirements=[f"{name}=={number}" for name, number in versions.items()],
        signature=ModelSignature(inputs, outputs),
        input_example=pd.DataFrame(example),
        model_config={
            "task": candidate.task,
            "device": "auto",
            **candidate.model,
            "threads": None,
            "max_tokens_per_forward": "auto",
            "top": _TOP,
        },
    )


def _input(candidate: Candidate) -> tuple[Any, list[dict[str, str]]]:
    """The schema of a model's input, and an example of it."""
    from mlflow.types import ColSpec, Schema
    from mlflow.types.schema import DataType

    if not candidate.task:
        facts = read_lama(Path(candidate.folders["splits"]), ["dev"]).facts
        return Schema([ColSpec(DataType.string, name) for name in ("relation", "subject")]), [
            {"relation": relation, "subject": splits["dev"][0].sub_label}
            for relation, splits in facts.items()
        ]
    types = {str: DataType.string, int: DataType.long}
    own = candidate.definition
    fields = (own.task if own else get_task(candidate.task)).schema.fields
    columns: list[Any] = [
        ColSpec(types[field.value_type], field.name, required=field.required) for field in fields
    ]
    return Schema(columns), [{field.name: field.example for field in fields if field.required}]
