"""Answers of what was trained, to new questions: the ones that evaluation would give."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from torch import Tensor

from pipeline.errors import DataError, ModelError, TemplateError
from pipeline.models.dataset import (
    PromptDataset,
    build_dataset,
    build_task_dataset,
    classifier_labels,
)
from pipeline.models.language_model import PromptedModel
from pipeline.models.memory import estimate_max_rows
from pipeline.models.scoring import predict
from pipeline.prompts.store import StoredPrompt, load_prompts, weights_file
from pipeline.prompts.template import parse_template
from pipeline.tasks import Example, Task, task_template
from pipeline.tasks.lama import FIELDS, POSITIONS

Question = TypeVar("Question")

# Answer -> probability.
Answers = dict[str, float]

RowsPerPass = int | Literal["auto"]


class QuestionError(TemplateError):
    """A question does not fit the template.

    Attributes:
        position: of the question, among those that were asked together.
    """

    def __init__(self, message: str, position: int) -> None:
        """Take the message, and which question it is about."""
        super().__init__(message)
        self.position = position


@dataclass(frozen=True)
class Trained:
    """A prompt of a method, with the tuned model's weights if it has some.

    Attributes:
        method: its name.
        name: of the prompt: a relation, or a training of a task.
        prompt: as training left it.
        weights: file of the tuned weights; None where the model is frozen.
    """

    method: str
    name: str
    prompt: StoredPrompt
    weights: Path | None


def choose_methods(folder: Path, known: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """Return the methods that are asked, in the order of `known`.

    Args:
        folder: has a folder for each method that was trained.
        known: names of methods that there may be.
        wanted: those to ask; none stands for all that were trained.

    Raises:
        DataError: nothing was trained, or not what is wanted.
    """
    found = [method for method in known if (folder / method / "prompts.json").exists()]
    if not found:
        raise DataError(
            f"{folder}: nothing was trained here; run `dvc repro`, or `dvc checkout` or `dvc pull` "
            "for what was trained before"
        )
    strange = [method for method in wanted if method not in found]
    if strange:
        raise DataError(
            f"{folder}: no method {', '.join(strange)} was trained; trained are {', '.join(found)}"
        )
    return [method for method in found if not wanted or method in wanted]


def load_trained(folder: Path) -> dict[str, Trained]:
    """Read all that a method's folder holds, by name of the prompt.

    Raises:
        DataError: a file is missing or cut.
    """
    prompts = load_prompts(folder)
    weights = {name: weights_file(folder, name) for name in prompts}
    return {
        name: Trained(folder.name, name, prompt, weights[name] if weights[name].exists() else None)
        for name, prompt in prompts.items()
    }


def best_training(trainings: Sequence[Trained]) -> Trained:
    """Return the training with the best dev score; of equals the first."""
    return max(trainings, key=lambda trained: trained.prompt.dev_score)


class ModelCache:
    """The language model as each prompt needs it; frozen ones share the one that is loaded."""

    def __init__(self, load: Callable[..., PromptedModel]) -> None:
        """Take what loads the model; it gets `weights` and `labels`, as in `load_model`."""
        self._load = load
        self._frozen: PromptedModel | None = None

    def of(self, trained: Trained, *, labels: int | None = None) -> PromptedModel:
        """Return the model of a prompt; with a classifier where there is a number of labels.

        Raises:
            ModelError: model, weights and prompt do not belong together.
        """
        plain = trained.weights is None and labels is None
        if plain and self._frozen is not None:
            return self._frozen
        self._frozen = None  # two need not fit in memory
        network = self._load(weights=trained.weights, labels=labels)
        if plain:
            self._frozen = network
        return network


def answer_subjects(
    networks: ModelCache,
    trained: Trained,
    subjects: Sequence[str],
    vocabulary: Sequence[str],
    *,
    top: int,
    max_rows_per_forward: RowsPerPass = "auto",
    on_rows: Callable[[int], object] = lambda _: None,
) -> list[Answers]:
    """Ask a relation about some subjects.

    Args:
        networks: give the model.
        trained: the prompt of the relation.
        subjects: one or more.
        vocabulary: the allowed words; those that are not one token of the model are left out.
        top: so many answers of each subject.
        max_rows_per_forward: as in `runtime.max_rows_per_forward`.
        on_rows: called with a number of subjects whenever so many are done.

    Returns:
        For each subject its likeliest words, the best first, each with its probability among the
        allowed words.

    Raises:
        QuestionError: a subject is too long.
        DataError: no word of the vocabulary is one token of the model.
        ModelError: prompt, weights and model do not belong together.
    """
    model, prompt = networks.of(trained), trained.prompt
    template = parse_template(prompt.template, FIELDS)
    # Examples come with a right answer. There is none here, so any of the words will do.
    known = (
        word
        for word in vocabulary
        if model.codec.single_token_id(word, space_before=template.space_before_mask) is not None
    )
    right = next(known, None)
    if right is None:
        raise DataError(f"{trained.name}: no allowed word is one token of the model")

    def build(asked: Sequence[str]) -> PromptDataset:
        return build_dataset(
            model,
            template,
            [({"subject": subject}, right) for subject in asked],
            vocabulary,
            max_length=prompt.max_length,
        )

    scores = _scores(model, trained, subjects, build, max_rows_per_forward, on_rows)
    return [_best(words, log_probs, top) for words, log_probs in scores]


def answer_examples(
    networks: ModelCache,
    trained: Trained,
    task: Task,
    examples: Sequence[Example],
    *,
    max_rows_per_forward: RowsPerPass = "auto",
    on_rows: Callable[[int], object] = lambda _: None,
) -> list[Answers]:
    """Ask a task's examples.

    Args:
        networks: give the model.
        trained: of the task; a method `classifier` has one.
        task: of the examples.
        examples: one or more; their labels decide nothing.
        max_rows_per_forward: as in `runtime.max_rows_per_forward`.
        on_rows: called with a number of examples whenever so many are done.

    Returns:
        For each example the probability of each label, in the order of the task's.

    Raises:
        QuestionError: an example is too long.
        ModelError: prompt, weights and model do not belong together.
    """
    classifier, prompt = trained.method == "classifier", trained.prompt
    template = task_template(task, prompt.template, classifier=classifier)
    model = networks.of(trained, labels=classifier_labels(task, template) if classifier else None)

    def build(asked: Sequence[Example]) -> PromptDataset:
        return build_task_dataset(
            model,
            task,
            template,
            asked,
            verbalizer=prompt.verbalizer,
            max_length=prompt.max_length or model.max_length,
            classifier=classifier,
        )

    scores = _scores(model, trained, examples, build, max_rows_per_forward, on_rows)
    return [dict(zip(task.labels, row.exp().tolist(), strict=True)) for _, row in scores]


def _best(words: Sequence[str], log_probs: Tensor, top: int) -> Answers:
    order = log_probs.argsort(descending=True, stable=True)[:top].tolist()
    return {words[i]: math.exp(log_probs[i]) for i in order}


def _scores(
    model: PromptedModel,
    trained: Trained,
    asked: Sequence[Question],
    build: Callable[[Sequence[Question]], PromptDataset],
    max_rows_per_forward: RowsPerPass,
    on_rows: Callable[[int], object],
) -> Iterator[tuple[Sequence[str], Tensor]]:
    """Yield for each question the allowed words, and (words,) float32 log-probabilities."""
    vectors = trained.prompt.vectors
    if vectors is not None and vectors.shape[1] != model.input_embeddings.shape[1]:
        raise ModelError(
            f"{trained.method}, {trained.name}: its prompt has vectors of {vectors.shape[1]} "
            f"numbers, the model's words have {model.input_embeddings.shape[1]}; it was trained with another "
            "model: run `dvc repro`, or `dvc checkout`"
        )
    length = trained.prompt.max_length or POSITIONS
    size = estimate_max_rows(model, length, wanted=max_rows_per_forward)
    for start in range(0, len(asked), size):
        chunk = asked[start : start + size]
        questions = _build(chunk, build, start)
        log_probs = predict(
            model, questions.rows, vectors, questions.word_ids, max_rows_per_forward=size
        )
        yield from ((questions.words, row) for row in log_probs)
        on_rows(len(chunk))


def _build(
    asked: Sequence[Question], build: Callable[[Sequence[Question]], PromptDataset], start: int
) -> PromptDataset:
    """Build questions; if that fails, find out which of them it is."""
    try:
        return build(asked)
    except TemplateError as error:
        if len(asked) == 1:
            raise QuestionError(str(error), start) from None
        for position, one in enumerate(asked, start):
            _build([one], build, position)
        raise
