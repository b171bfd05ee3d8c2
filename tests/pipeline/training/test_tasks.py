"""Every task with every method, on a masked and a causal model: trained, saved, loaded, scored."""

from functools import partial
from pathlib import Path
from typing import get_args

import pytest
import torch

from pipeline.config.schema import SuperGlueMethod
from pipeline.evaluation.evaluate import evaluate
from pipeline.models.dataset import PromptFormat, build_dataset
from pipeline.models.encoding import MultipleChoice
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.models.scoring import score_examples
from pipeline.prompts.template import Template
from pipeline.tasks import Example, get_task, task_names, task_template
from pipeline.training.jobs import Trial, make_job
from pipeline.training.loop import TrainingResult
from tests.jobs import ADAM, changed, task_trial, train_jobs

FAMILIES = ("bert", "gpt2")
CITIES = ("Paris", "Lyon", "Oslo", "Japan")
PLACES = ("France", "Norway", "Europe", "Asia")
TEMPLATES = {
    "boolq": "{passage} Question {question}? Answer {mask}.",
    "cb": "{premise}. {hypothesis}? {mask}.",
    "copa": "{premise} {joiner} {mask}.",
    "multirc": "{passage}. {question}? {answer}? {mask}.",
    "rte": "{premise}. {hypothesis}? {mask}.",
    "wic": "{word}: {sentence1}. {sentence2}? {mask}",
    "wsc": "{text}. {pronoun} is {mask}.",
    "cola": "{sentence}. {mask}.",
    "glue_rte": "{sentence1}. {sentence2}? {mask}.",
    "mnli": "{premise}. {hypothesis}? {mask}.",
    "mrpc": "{sentence1}. {sentence2}? {mask}.",
    "qnli": "{question}? {sentence}. {mask}.",
    "sst2": "{sentence}. {mask}.",
}
WORDS = ("yes", "no", "city")
ADAMW = changed(ADAM, optimizer="adamw", schedule="linear", warmup_ratio=0.1)


def sixteen(task: str) -> list[Example]:
    """Sixteen examples that are all different, each label alike often."""
    kind = get_task(task)
    examples = []
    for number in range(16):
        city, place = CITIES[number % 4], PLACES[number // 4]
        texts = (f"{city} is in {place}", f"the city of {place}", f"{city} shares a border")
        values = dict(zip(kind.fields, texts, strict=False))
        values |= dict.fromkeys(kind.fields[3:], city)
        # Spread so that neither city nor place alone decides.
        label = kind.labels[(number + number // 4) % len(kind.labels)]
        choices = (f"a {city}", f"the {place} city") if kind.has_choices else ()
        if task == "wsc":
            choices = (f"the {place}", f"a {city} city", f"a {city}")
        examples.append(Example(str(number), values, label, choices, question=str(number // 2)))
    return examples


def template_of(task: str, method: str) -> Template:
    text = TEMPLATES[task]
    if method == "classifier":
        text = text if get_task(task).has_choices else text.replace("{mask}", "")
    if method == "prompt-tuning":
        text = f"[P*4] {text}"
    if method == "p-tuning":
        text = text.replace("{mask}", "[P*2] {mask}")
    return task_template(get_task(task), text, classifier=method == "classifier")


def prepare(folder: Path, task: str, method: str, weights: Path | None = None) -> PromptedModel:
    labels = trial_of(task, method).format.classifier_outputs
    model = load_model(folder, device="cpu", weights=weights, labels=labels, seed=3)
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def verbalizer_of(task: str, method: str) -> dict[str, str] | None:
    kind = get_task(task)
    if kind.has_choices or method == "classifier":
        return None
    return dict(zip(kind.labels, WORDS, strict=False))


def trial_of(task: str, method: str) -> Trial:
    examples = sixteen(task)
    return task_trial(
        task,
        template_of(task, method),
        {"train": examples, "dev": examples},
        verbalizer=verbalizer_of(task, method),
        max_length=100,
        classifier=method == "classifier",
        seed=3,
    )


def run(
    model: PromptedModel, task: str, method: str, weights: Path, epochs: int, rate: float = 5e-3
) -> TrainingResult:
    config = changed(ADAMW, learning_rate=rate)
    trains_model = method in ("classifier", "manual-fine-tuning", "p-tuning")
    return train_jobs(
        model,
        [make_job(model, trial_of(task, method))],
        epochs=0 if method == "manual" else epochs,
        batch_size=8,
        patience=epochs,
        encoder="mlp" if method in ("p-tuning", "prompt-tuning") else None,
        prompt_optimizer=config,
        model_optimizer=config if trains_model else None,
        best_checkpoint_path=weights,
    )[task]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", get_args(SuperGlueMethod))
@pytest.mark.parametrize("task", task_names())
def test_what_was_trained_scores_the_same_when_it_is_loaded(
    tiny_folders: dict[str, Path], tmp_path: Path, task: str, method: str, family: str
) -> None:
    load = partial(prepare, tiny_folders[family], task, method)
    weights = tmp_path / "weights.safetensors"
    trained = run(load(), task, method, weights, epochs=2)
    assert len(trained.history) == (1 if method == "manual" else 3)
    if method != "manual":
        losses = [record.dev_loss for record in trained.history]
        assert losses[0] != losses[1] != losses[2]
    trial = trial_of(task, method)
    stored = trial.stored_prompt(trained)
    fresh = load(weights=weights if weights.exists() else None)
    assert weights.exists() == (method not in ("manual", "prompt-tuning"))
    found = evaluate(
        fresh,
        PromptFormat.from_prompt(get_task(task), stored, classifier=method == "classifier"),
        stored.vectors,
        {"train": sixteen(task), "test": sixteen(task)},
        max_tokens_per_forward=3,
    )
    # Training takes at most four answers of each, and here are no more.
    assert found.score == pytest.approx(trained.best_score)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("method", ["manual-fine-tuning", "p-tuning"])
@pytest.mark.parametrize("task", task_names())
def test_sixteen_examples_of_every_task_are_learned_by_heart(
    tiny_folders: dict[str, Path], tmp_path: Path, task: str, method: str, family: str
) -> None:
    model = prepare(tiny_folders[family], task, method)
    trained = run(model, task, method, tmp_path / "weights.safetensors", epochs=40, rate=3e-3)
    assert trained.best_score >= 0.93


@pytest.mark.parametrize("family", FAMILIES)
def test_answers_of_several_tokens_are_scored_as_one_at_a_time(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    """A slow reading: the model's own logits, a row at a time, a token at a time."""
    model = tiny_models[family]
    examples = sixteen("wsc")[:5]
    questions = build_dataset(model, trial_of("wsc", "manual").format, examples)
    found = score_examples(
        model, questions.rows, None, questions.word_ids, max_tokens_per_forward=2
    )
    for example, row, ours in zip(examples, questions.rows, found, strict=True):
        assert isinstance(row, MultipleChoice)
        scores = []
        for choice, one in zip(example.choices, row.rows, strict=True):
            ids = model.codec.encode_segment(f" {choice}", start=False)
            before = f"{example.values['text']}. {example.values['pronoun']} is"
            left = [*model.codec.prefix, *model.codec.encode_segment(before, start=True)]
            right = [*model.codec.encode_segment(".", start=False), *model.codec.suffix]
            middle = [model.codec.mask_id] * len(ids) if model.masked else ids
            whole = [*left, *middle, *right]
            with torch.no_grad():
                logits = model.network(torch.tensor([whole])).logits[0].log_softmax(dim=1)
            first = len(left) if model.masked else len(left) - 1
            tokens = [float(logits[first + i, token]) for i, token in enumerate(ids)]
            scores.append(sum(tokens) / len(tokens))
            assert one.answer_ids == tuple(ids)
        pair = torch.tensor([scores[0], max(scores[1:])]).log_softmax(dim=0)
        torch.testing.assert_close(ours, pair, rtol=1e-4, atol=1e-4)
