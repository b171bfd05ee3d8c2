"""The model file of a promoted model: MLflow runs it where the model is loaded.

MLflow stores this file in the model, next to the package `pipeline` (models from code), the trained
folder and the language model: nothing is pickled, and no checkout is needed.
"""

import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from pipeline.errors import DataError, PipelineError
from pipeline.files import read_json
from pipeline.inference.inputs import check_required, read_example
from pipeline.inference.predictor import Answers, QuestionError, load_trained, predict_all
from pipeline.models.loading import ModelCache, load_model
from pipeline.tasks import Example, Task, get_task
from pipeline.tasks.lama import lama_task, subject_example
from pipeline.tasks.own import read_definition

# Of `load_model`, from the section `model` of the training and the model's configuration.
_LOADING = ("device", "dtype", "threads", "start", "device_map", "quantization")
_COLUMNS = ("answer", "probability", "answers", "probabilities")


class PromptModel(PythonModel):
    """Predicts as evaluation does.

    `model_config` can be overridden when the model is loaded: `device`, `dtype`,
    `threads` and `max_tokens_per_forward` as in `params.yaml`; `top`: the number of answers.
    """

    def load_context(self, context: Any) -> None:
        """Read the prompts; the language model is loaded by the first prediction."""
        self._config = context.model_config
        prompts = load_trained(Path(context.artifacts["trained"]))
        self._prompts = {trained.task: trained for trained in prompts.values()}
        vocabulary = context.artifacts.get("vocabulary")
        words = Path(vocabulary).read_text(encoding="utf-8").split("\n") if vocabulary else []
        objects = context.artifacts.get("objects")
        by_relation = read_json(Path(objects)) if objects else {}
        definition = context.artifacts.get("definition")
        self._tasks = {
            name: self._task(name, definition)
            if self._config["task"]
            else lama_task(name, words, by_relation.get(name, ()))
            for name in self._prompts
        }
        self._models = ModelCache(
            partial(
                load_model,
                Path(context.artifacts["model"]),
                **{name: self._config.get(name) for name in _LOADING},
            )
        )
        self._lock = threading.Lock()  # a server predicts in several threads

    # MLflow supports this signature too.
    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]
        """Predict the answer of each row.

        Args:
            model_input: columns `relation` and `subject`; or a task's fields, as `ptune predict`
                takes them.

        Returns:
            Columns `answer` and `probability`, and `answers` and `probabilities`: lists, the best
            first, at most `top` long.

        Raises:
            MlflowException: a row is invalid; the message has its number, from 0.
        """
        try:
            rows = _records(model_input)
            with self._lock:
                predictions = self._predict(rows)
        except PipelineError as error:  # a server passes MLflow's exceptions on to the client
            raise MlflowException.invalid_parameter_value(str(error)) from error
        table = [
            (next(iter(answers)), next(iter(answers.values())), [*answers], [*answers.values()])
            for answers in predictions
        ]
        return pd.DataFrame(table, columns=_COLUMNS)

    def _predict(self, rows: Sequence[dict[str, Any]]) -> list[Answers]:
        """The answers of each row, the likeliest first; an error names its row."""
        questions = []
        for number, row in enumerate(rows):
            try:
                questions.append(self._read(row, number))
            except DataError as error:
                raise DataError(f"row {number}: {error}") from error
        try:
            return predict_all(
                self._models,
                self._prompts,
                self._tasks,
                questions,
                top=self._config["top"],
                max_tokens_per_forward=self._config["max_tokens_per_forward"],
            )
        except QuestionError as error:
            raise DataError(f"row {error.position}: {error}") from error

    @staticmethod
    def _task(name: str, definition: str | None) -> Task:
        if definition is None:
            return get_task(name)
        return read_definition(Path(definition).parent).task

    def _read(self, row: dict[str, Any], number: int) -> tuple[str, Example]:
        """The task or relation of a row, and its example."""
        task: str = self._config["task"]
        if task:
            (example,) = read_example(self._tasks[task], row, idx=number)
            return task, example
        check_required(row, ("relation", "subject"))
        relation: str = row["relation"]
        if relation not in self._prompts:
            raise DataError(f"no relation {relation}; available: {', '.join(self._prompts)}")
        return relation, subject_example(row["subject"])


def _records(model_input: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts, without missing values."""
    repeated = model_input.columns[model_input.columns.duplicated()]
    if len(repeated):
        raise DataError(f"column {repeated[0]} appears twice; keep one")
    return [
        {str(key): value for key, value in row.items() if not _is_missing(value)}
        for row in model_input.to_dict("records")
    ]


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value  # NaN differs from itself


set_model(PromptModel())
