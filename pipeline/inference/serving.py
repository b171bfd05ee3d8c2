"""The model file of what is promoted: MLflow runs it where the model is loaded.

MLflow keeps this file in the model, beside the package `pipeline` (models from code), the trained
folder and the language model: nothing is pickled, and no checkout is needed.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow import MlflowException
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel

from pipeline.errors import DataError, PipelineError
from pipeline.inference.forms import check_needed, read_question
from pipeline.inference.predictor import (
    Answers,
    ModelCache,
    QuestionError,
    load_trained,
    predict,
)
from pipeline.models.loading import load_model
from pipeline.tasks import Example, Task, get_task
from pipeline.tasks.lama import lama_task, subject_example

_FACT = ("relation", "subject")
_ANSWER = ("answer", "probability", "answers", "probabilities")


class PromptModel(PythonModel):
    """Answers questions as evaluation does.

    The settings under `model_config` may be changed as a model is loaded: `device`, `dtype`,
    `threads` and `max_rows_per_forward` as in `params.yaml`; `top`: the number of answers.
    """

    def load_context(self, context: Any) -> None:
        """Read the prompts; the language model is loaded once, as the first question comes."""
        self._config = context.model_config
        prompts = load_trained(Path(context.artifacts["trained"]))
        self._prompts = {trained.task: trained for trained in prompts.values()}
        vocabulary = context.artifacts.get("vocabulary")
        self._words = Path(vocabulary).read_text(encoding="utf-8").split("\n") if vocabulary else []
        self._networks = ModelCache(
            partial(
                load_model,
                Path(context.artifacts["model"]),
                device=self._config["device"],
                dtype=self._config["dtype"],
                threads=self._config["threads"],
            )
        )
        self._lock = threading.Lock()  # a server asks from several threads

    # MLflow takes this form too.
    def predict(self, model_input: pd.DataFrame) -> pd.DataFrame:  # type: ignore[override]
        """Answer each row.

        Args:
            model_input: columns `relation` and `subject`; or a task's fields, as `ptune predict`
                takes them.

        Returns:
            Columns `answer` and `probability`, and `answers` and `probabilities`: lists, the best
            first, at most `top` long.

        Raises:
            MlflowException: a row cannot be asked; the text has its number, from 0.
        """
        rows = _records(model_input)
        task = self._config["task"]
        try:
            with self._lock:
                found = self._examples(get_task(task), rows) if task else self._facts(rows)
        except PipelineError as error:  # a server passes MLflow's own on to who asks
            raise MlflowException.invalid_parameter_value(str(error)) from error
        return pd.DataFrame([self._answered(answers) for answers in found], columns=_ANSWER)

    def _facts(self, rows: Sequence[dict[str, Any]]) -> list[Answers]:
        places: dict[str, list[int]] = {}
        for number, row in enumerate(rows):
            with _row_named([number]):
                check_needed(row, _FACT)
                if row["relation"] not in self._prompts:
                    known = ", ".join(self._prompts)
                    raise DataError(f"no relation {row['relation']}; there are {known}")
            places.setdefault(row["relation"], []).append(number)
        found: list[Answers] = [{} for _ in rows]
        for relation, own in places.items():
            with _row_named(own):
                answers = predict(
                    self._networks,
                    self._prompts[relation],
                    lama_task(relation, self._words),
                    [subject_example(rows[number]["subject"]) for number in own],
                    top=self._config["top"],
                    max_rows_per_forward=self._config["max_rows_per_forward"],
                )
            for number, given in zip(own, answers, strict=True):
                found[number] = given
        return found

    def _examples(self, task: Task, rows: Sequence[dict[str, Any]]) -> list[Answers]:
        examples: list[Example] = []
        for number, row in enumerate(rows):
            with _row_named([number]):
                examples += read_question(task, row, idx=number)
        (trained,) = self._prompts.values()
        with _row_named(range(len(rows))):
            return predict(
                self._networks,
                trained,
                task,
                examples,
                max_rows_per_forward=self._config["max_rows_per_forward"],
            )

    def _answered(self, answers: Answers) -> tuple[str, float, list[str], list[float]]:
        ranked = sorted(answers, key=lambda answer: -answers[answer])[: self._config["top"]]
        probabilities = [answers[answer] for answer in ranked]
        return ranked[0], probabilities[0], ranked, probabilities


@contextlib.contextmanager
def _row_named(numbers: Sequence[int]) -> Iterator[None]:
    """Say in an error which row it is about: the only one, or the one at the error's position."""
    try:
        yield
    except QuestionError as error:
        raise DataError(f"row {numbers[error.position]}: {error}") from error
    except DataError as error:
        place = f"row {numbers[0]}: " if len(numbers) == 1 else ""
        raise DataError(f"{place}{error}") from error


def _records(model_input: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows as Python's own values; what is missing in a row is not in it."""
    return [
        {str(key): value for key, value in row.items() if not _is_missing(value)}
        for row in model_input.to_dict("records")
    ]


def _is_missing(value: Any) -> bool:
    return value is None or value is pd.NA or value != value  # NaN differs from itself


set_model(PromptModel())
