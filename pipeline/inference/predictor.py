"""Predictions of trained prompts on new inputs, with the model and the scoring of evaluation."""

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pipeline.errors import DataError, ModelError, TemplateError
from pipeline.models.dataset import PromptFormat, allowed_answers, encode_examples
from pipeline.models.encoding import EncodedExample
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import ModelCache
from pipeline.models.memory import estimate_max_tokens
from pipeline.models.scoring import ScoreError, score_examples
from pipeline.prompts.store import StoredPrompt, load_prompts
from pipeline.tasks import Example, Task

# Answer -> probability.
Answers = dict[str, float]

MaxTokens = int | Literal["auto"]


# So many examples are encoded and scored at once.
_CHUNK = 256


class QuestionError(TemplateError):
    """An input does not fit the template, or its scores are not finite.

    Attributes:
        position: of the input, among those of the call.
    """

    def __init__(self, message: str, position: int) -> None:
        """Initialize with the message and the position."""
        super().__init__(message)
        self.position = position


@dataclass(frozen=True)
class TrainedPrompt:
    """A trained prompt of a method.

    Attributes:
        name: of the trial, such as `rte/setting-1/split-1/seed-34`.
        prompt: as training saved it.
    """

    method: str
    name: str
    prompt: StoredPrompt

    @property
    def task(self) -> str:
        """The task or relation of the trial."""
        return self.name.partition("/setting-")[0]


def load_methods(
    folder: Path, known: Sequence[str], requested: Sequence[str], tuned: Collection[str] = ()
) -> dict[str, list[TrainedPrompt]]:
    """Read the prompts of the methods to use, in the order of `known`, from a folder for each.

    Without `requested`, all that were trained are used; `tuned` are those that tune the model.

    Raises:
        DataError: nothing was trained, or not what was requested.
    """
    trained = [method for method in known if (folder / method / "prompts.json").exists()]
    if not trained:
        raise DataError(
            f"{folder}: nothing has been trained; run `dvc repro`, or `dvc checkout` or `dvc pull` "
            "to restore earlier results"
        )
    unknown = [method for method in requested if method not in trained]
    if unknown:
        raise DataError(
            f"{folder}: no trained prompts for {', '.join(unknown)}; available: "
            f"{', '.join(trained)} (run `dvc repro`, or `dvc checkout` or `dvc pull` to restore "
            "earlier results)"
        )
    return {
        method: list(load_trained(folder / method, tuned=method in tuned).values())
        for method in trained
        if not requested or method in requested
    }


def load_trained(folder: Path, *, tuned: bool = False) -> dict[str, TrainedPrompt]:
    """Read all prompts in a method's folder, by name; `tuned` as in `load_prompts`.

    Raises:
        DataError: a file is missing, cut or replaced.
    """
    prompts = load_prompts(folder, tuned=tuned)
    return {name: TrainedPrompt(folder.name, name, prompt) for name, prompt in prompts.items()}


def best_by_task(prompts: Iterable[TrainedPrompt]) -> dict[str, TrainedPrompt]:
    """Select each task's prompt with the best dev score, the first of several."""
    best: dict[str, TrainedPrompt] = {}
    for trained in prompts:
        current = best.setdefault(trained.task, trained)
        if trained.prompt.dev_score > current.prompt.dev_score:
            best[trained.task] = trained
    return best


def predict_all(
    models: ModelCache,
    prompts: Mapping[str, TrainedPrompt],
    tasks: Mapping[str, Task],
    questions: Sequence[tuple[str, Example]],
    *,
    top: int | None,
    max_tokens_per_forward: MaxTokens,
    on_rows: Callable[[int], object] = lambda _: None,
) -> list[Answers]:
    """Predict the answers of examples of several tasks (see `predict`), those of a task together.

    Returns:
        The answers of each example; none for an example of a task that has no prompt.
    """
    positions: dict[str, list[int]] = {}
    for position, (task, _) in enumerate(questions):
        positions.setdefault(task, []).append(position)
    predictions: list[Answers] = [{} for _ in questions]
    for task, places in positions.items():
        if task not in prompts:
            continue
        try:
            answers = predict(
                models,
                prompts[task],
                tasks[task],
                [questions[place][1] for place in places],
                top=top,
                max_tokens_per_forward=max_tokens_per_forward,
                on_rows=on_rows,
            )
        except QuestionError as error:
            raise QuestionError(str(error), places[error.position]) from None
        for place, answer in zip(places, answers, strict=True):
            predictions[place] = answer
    return predictions


def predict(
    models: ModelCache,
    trained: TrainedPrompt,
    task: Task,
    examples: Sequence[Example],
    *,
    top: int | None = None,
    max_tokens_per_forward: MaxTokens = "auto",
    on_rows: Callable[[int], object] = lambda _: None,
) -> list[Answers]:
    """Predict the answers of a task's examples.

    Args:
        models: loads the model.
        trained: prompt of the task.
        task: of the examples; a relation is one with an open vocabulary.
        examples: one or more; their labels are not used.
        top: number of answers to return, the likeliest first; None returns all, in the order of
            the task's labels.
        max_tokens_per_forward: as in `runtime.max_tokens_per_forward`.
        on_rows: called with a number of examples whenever these are done.

    Returns:
        For each example, the answers with their probabilities among the allowed ones.

    Raises:
        QuestionError: an example is too long, or its scores are not finite.
        DataError: no word of the vocabulary is one token of the model.
        ModelError: prompt, weights and model do not belong together.
    """
    form = PromptFormat.from_prompt(task, trained.prompt, classifier=trained.method == "classifier")
    model = models.get(trained.prompt.weights_path, form.classifier_outputs)
    vectors = trained.prompt.vectors
    size = model.embedding_size
    if vectors is not None and vectors.shape[1] != size:
        raise ModelError(
            f"{trained.method}, {trained.name}: prompt vectors have size {vectors.shape[1]}, model "
            f"embeddings {size}; the prompt was trained with another model: run `dvc repro`, or "
            "`dvc checkout`"
        )
    allowed = allowed_answers(model, form)
    if not allowed.answers:
        raise DataError(
            f"{trained.name}: no allowed word is one token of the model; check vocabulary.txt of "
            "the splits, and the model's tokenizer"
        )
    most = estimate_max_tokens(model, wanted=max_tokens_per_forward)
    predictions: list[Answers] = []
    for start in range(0, len(examples), _CHUNK):
        chunk = examples[start : start + _CHUNK]
        encoded = _encode(model, form, chunk, start)
        try:
            scores = score_examples(
                model, encoded, vectors, allowed.ids, max_tokens_per_forward=most
            )
        except ScoreError as error:
            name = chunk[error.position].name
            raise QuestionError(
                f"{trained.method}, {trained.name}, example '{name}': {error}",
                start + error.position,
            ) from None
        for log_probs in scores:
            order = list(range(len(allowed.answers)))
            if top is not None:
                order = log_probs.argsort(descending=True, stable=True)[:top].tolist()
            predictions.append({allowed.answers[i]: math.exp(log_probs[i]) for i in order})
        on_rows(len(chunk))
    return predictions


def _encode(
    model: PromptedModel, form: PromptFormat, examples: Sequence[Example], start: int
) -> list[EncodedExample]:
    """Encode examples; if that fails, find out which of them is the cause."""
    try:
        return encode_examples(model, form, examples)
    except TemplateError as error:
        if len(examples) == 1:
            raise QuestionError(str(error), start) from None
        for position, example in enumerate(examples, start):
            _encode(model, form, [example], position)
        raise
