import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipeline.data.lama import Fact
from pipeline.errors import DataError, ModelError
from pipeline.evaluation.evaluate import evaluate
from pipeline.files import sha256
from pipeline.inference import predictor
from pipeline.inference.predictor import (
    QuestionError,
    TrainedPrompt,
    best_by_task,
    load_methods,
    load_trained,
    predict,
)
from pipeline.models.dataset import PromptFormat
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import ModelCache, load_model
from pipeline.prompts.store import StoredFile, StoredPrompt, save_prompts, weights_file
from pipeline.tasks import Example, get_task, task_names
from pipeline.tasks.lama import fact_examples, lama_task, subject_example
from tests.tiny import load_broken
from tests.worked import SUBJECTS, VOCABULARY, hand_row, ids, slow_scores

YES_NO = {
    "boolq": {"true": "yes", "false": "no"},
    "cb": {"entailment": "yes", "contradiction": "no", "neutral": "is"},
    "multirc": {"1": "yes", "0": "no"},
    "rte": {"entailment": "yes", "not_entailment": "no"},
    "wic": {"true": "yes", "false": "no"},
    "cola": {"0": "no", "1": "yes"},
    "glue_rte": {"entailment": "yes", "not_entailment": "no"},
    "mnli": {"contradiction": "no", "entailment": "yes", "neutral": "is"},
    "mrpc": {"0": "no", "1": "yes"},
    "qnli": {"entailment": "yes", "not_entailment": "no"},
    "sst2": {"0": "no", "1": "yes"},
}
TEMPLATES = {
    "boolq": "{passage:shorten} {question}? [P] {mask}.",
    "cb": "{premise:shorten} {hypothesis}? [P] {mask}.",
    "copa": "{premise} {joiner} [P] {mask}.",
    "multirc": "{passage:shorten} {question} {answer}? [P] {mask}.",
    "rte": "{premise:shorten} {hypothesis}? [P] {mask}.",
    "wic": "{word} {sentence1} {sentence2} [P] {mask}.",
    "wsc": "{text:shorten} '{pronoun}' [P] is {mask}.",
    "cola": "{sentence:shorten} [P] {mask}.",
    "glue_rte": "{opening:shorten} {continuation} [P] {mask}.",
    "mnli": "{premise:shorten} {hypothesis} [P] {mask}.",
    "mrpc": "{sentence1:shorten} {sentence2} [P] {mask}.",
    "qnli": "{question} {sentence:shorten} [P] {mask}.",
    "sst2": "{sentence:shorten} [P] {mask}.",
}
CHOICES = [("a city", "the capital of Norway"), ("Lyon", "Oslo", "Japan"), ("no", "the border")]


@pytest.fixture(params=["bert", "gpt2"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(tiny_models: dict[str, PromptedModel], family: str) -> PromptedModel:
    return tiny_models[family]


def stored(template: str, size: int = 32, *, dev_score: float = 0.5, **more: Any) -> StoredPrompt:
    """A prompt with a random vector for each [P] of the template."""
    count = template.count("[P")
    vectors = torch.randn(count, size, generator=torch.Generator().manual_seed(count))
    return StoredPrompt(template, vectors if count else None, 1, dev_score, **more)


def trained(prompt: StoredPrompt, method: str = "p-tuning") -> TrainedPrompt:
    return TrainedPrompt(method, "P17", prompt)


def ask_relation(
    models: ModelCache,
    one: TrainedPrompt,
    subjects: Sequence[str],
    words: Sequence[str],
    **options: Any,
) -> list[dict[str, float]]:
    """Predict the objects of P17, among these words."""
    inputs = [subject_example(subject) for subject in subjects]
    return predict(models, one, lama_task("P17", words), inputs, **options)


def only(model: PromptedModel) -> ModelCache:
    return ModelCache(lambda **_: model)


def examples(task: str) -> list[Example]:
    """Some examples of different lengths; three of them with their own answers."""
    fields, labels = get_task(task).fields, get_task(task).labels
    texts = ["Paris is in France", "Oslo", "the capital of Norway is a city"]
    return [
        Example(
            str(number),
            {field: f"{text} {'in Asia ' * place}" for place, field in enumerate(fields)},
            labels[number % 2],
            CHOICES[number] if get_task(task).has_choices else (),
        )
        for number, text in enumerate(texts)
    ]


@pytest.mark.parametrize("template", ["[P] {subject} is in [P] {mask} .", "a {subject} in {mask}"])
def test_words_are_those_of_evaluation(
    model: PromptedModel, template: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "_CHUNK", 3)
    prompt = stored(template)
    words = ["Zanzibar", *VOCABULARY, "Upper Volta"]
    facts = {"train": [Fact("P17", "Oslo", "Asia")], "test": [
        Fact("P17", subject, VOCABULARY[n % 5]) for n, subject in enumerate(SUBJECTS)
    ]}  # fmt: skip
    task = lama_task("P17", words)
    splits = {split: fact_examples(own) for split, own in facts.items()}
    form = PromptFormat.from_prompt(task, prompt)
    evaluated = evaluate(model, form, prompt.vectors, splits, max_tokens_per_forward=3)

    done: list[int] = []
    found = ask_relation(
        only(model),
        trained(prompt),
        SUBJECTS,
        words,
        top=4,
        max_tokens_per_forward=3,
        on_rows=done.append,
    )

    assert done == [3, 3, 1]
    assert len(found) == len(SUBJECTS)
    for answers, record in zip(found, evaluated.predictions, strict=True):
        (best, probability), *others = answers.items()
        assert best == record["answer"]
        assert math.log(probability) == pytest.approx(record["log_prob"], abs=1e-4)
        assert [p for _, p in others] == sorted((p for _, p in others), reverse=True)
        if record["object"] in answers:
            assert list(answers).index(record["object"]) + 1 == record["rank"]
        else:
            assert record["rank"] == 5


def test_probabilities_are_those_of_one_full_pass_by_hand(
    model: PromptedModel, family: str
) -> None:
    prompt = stored("[P] {subject} is in [P] {mask} .")
    row = hand_row(family, model, "P _Paris _is _in P M _ .")
    words = ids(family, model.codec, " ".join(f"_{word}" for word in VOCABULARY))
    with torch.no_grad():
        slow = slow_scores(model, row, prompt.vectors, words).exp().tolist()

    (found,) = ask_relation(only(model), trained(prompt), ["Paris"], VOCABULARY, top=99)

    by_hand = sorted(zip(VOCABULARY, slow, strict=True), key=lambda pair: -pair[1])
    assert list(found) == [word for word, _ in by_hand]
    assert list(found.values()) == pytest.approx([p for _, p in by_hand], abs=1e-5)
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize("task", task_names())
def test_labels_are_those_of_evaluation(model: PromptedModel, task: str) -> None:
    prompt = stored(TEMPLATES[task], verbalizer=YES_NO.get(task), max_length=60)
    check_task(only(model), model, trained(prompt), task)


@pytest.mark.parametrize(
    ("task", "template"), [("rte", "{premise} {hypothesis}"), ("copa", "{premise} {mask}.")]
)
def test_labels_of_a_classifier_are_those_of_evaluation(
    tiny_folders: dict[str, Path], family: str, tmp_path: Path, task: str, template: str
) -> None:
    form = PromptFormat.from_prompt(get_task(task), stored(template), classifier=True)
    labels = form.classifier_outputs
    tuned = load_model(tiny_folders[family], device="cpu", labels=labels, seed=5)
    weights = weights_file(tmp_path, "P17")
    weights.parent.mkdir()
    save_file(dict(tuned.network.named_parameters()), weights)
    networks = ModelCache(lambda **more: load_model(tiny_folders[family], device="cpu", **more))
    prompt = stored(template, weights=StoredFile(weights, sha256(weights)))
    check_task(networks, tuned, trained(prompt, "classifier"), task)


def check_task(networks: ModelCache, model: PromptedModel, one: TrainedPrompt, task: str) -> None:
    asked = examples(task)
    form = PromptFormat.from_prompt(
        get_task(task), one.prompt, classifier=one.method == "classifier"
    )
    splits = {"train": asked, "test": asked}
    evaluated = evaluate(model, form, one.prompt.vectors, splits, max_tokens_per_forward=2)
    found = predict(networks, one, get_task(task), asked, max_tokens_per_forward=2)
    for answers, record in zip(found, evaluated.predictions, strict=True):
        assert tuple(answers) == get_task(task).labels
        assert sum(answers.values()) == pytest.approx(1)
        best = max(answers, key=lambda label: answers[label])
        assert best == record["answer"]
        assert math.log(answers[best]) == pytest.approx(record["log_prob"], abs=1e-4)


def test_a_label_decides_nothing(model: PromptedModel) -> None:
    one = trained(stored(TEMPLATES["rte"], verbalizer=YES_NO["rte"]))
    asked = examples("rte")
    swapped = [
        Example(e.name, e.values, f.label)
        for e, f in zip(asked, asked[1:] + asked[:1], strict=True)
    ]

    def ask(these: Sequence[Example]) -> list[dict[str, float]]:
        return predict(only(model), one, get_task("rte"), these)

    assert ask(asked) == ask(swapped)


def test_frozen_prompts_share_a_model_and_tuned_ones_bring_their_own(model: PromptedModel) -> None:
    loaded: list[tuple[Any, Any]] = []

    def load(*, weights: Path | None, labels: int | None, **_: Any) -> PromptedModel:
        loaded.append((weights, labels))
        return model

    networks = ModelCache(load)
    file = Path("tuned")
    for weights in (None, None, file, file, None, None):
        networks.get(weights, None)
    networks.get(file, 2)
    networks.get(None, 2)
    assert loaded == [(None, None), (file, None), (file, None), (None, None), (file, 2), (None, 2)]


def test_prompts_are_found_with_their_weights_and_the_best_by_dev_is_chosen(tmp_path: Path) -> None:
    names = [f"rte/setting-1/split-{split}/seed-{seed}" for split, seed in ((1, 1), (1, 2), (2, 1))]
    prompts = {
        name: stored("{premise} {mask}", dev_score=score)
        for name, score in zip(names, (0.4, 0.7, 0.7), strict=True)
    }
    folder = tmp_path / "p-tuning"
    weights = weights_file(folder, names[1])
    weights.parent.mkdir(parents=True)
    weights.touch()
    save_prompts(folder, "p-tuning", prompts)

    found = load_trained(folder)

    assert list(found) == names
    assert [one.prompt.weights_path for one in found.values()] == [None, weights, None]
    assert {one.method for one in found.values()} == {"p-tuning"}
    assert best_by_task(found.values()) == {"rte": found[names[1]]}


def test_methods_are_those_that_were_trained_and_wanted(tmp_path: Path) -> None:
    known = ["manual", "fine-tuning", "p-tuning"]
    with pytest.raises(DataError, match=r"nothing has been trained; run `dvc repro`, or `dvc chec"):
        load_methods(tmp_path, known, [])
    for method in ("p-tuning", "manual", "other"):
        save_prompts(tmp_path / method, method, {})
    (tmp_path / "fine-tuning").mkdir()
    assert list(load_methods(tmp_path, known, [])) == ["manual", "p-tuning"]
    assert list(load_methods(tmp_path, known, ["p-tuning", "p-tuning"])) == ["p-tuning"]
    with pytest.raises(DataError, match="no trained prompts for fine-tuning, x; available: manual"):
        load_methods(tmp_path, known, ["fine-tuning", "manual", "x"])


@pytest.mark.parametrize("chunk", [1, 2, 64])
def test_a_question_that_is_too_long_is_reported_with_its_position(
    model: PromptedModel, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "_CHUNK", chunk)
    one = trained(stored("{subject} is {mask}", max_length=9))
    subjects = ["Oslo", "Paris", "a", "the city of the capital of the city of Paris", "Lyon"]
    with pytest.raises(QuestionError, match="nothing to cut") as caught:
        ask_relation(only(model), one, subjects, VOCABULARY, top=1)
    assert caught.value.position == 3


def test_a_prompt_of_another_model_is_refused(model: PromptedModel) -> None:
    one = trained(stored("{subject} [P] {mask}", size=48))
    with pytest.raises(ModelError, match=r"p-tuning, P17: prompt vectors have size 48"):
        ask_relation(only(model), one, ["Oslo"], VOCABULARY, top=1)


def test_a_vocabulary_without_a_word_of_the_model_is_refused(model: PromptedModel) -> None:
    one = trained(stored("{subject} {mask}"))
    with pytest.raises(DataError, match="P17: no allowed word is one token of the model"):
        ask_relation(only(model), one, ["Oslo"], ["Zanzibar"], top=1)


@pytest.mark.parametrize("chunk", [1, 64])
def test_scores_that_are_not_finite_are_refused_by_their_position(
    tiny_folders: dict[str, Path], family: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(predictor, "_CHUNK", chunk)
    broken = only(load_broken(tiny_folders[family]))
    one, subjects = trained(stored("{subject} is {mask}")), ["Paris", "a Oslo", "Lyon"]
    with pytest.raises(
        QuestionError, match=r"^p-tuning, P17, example 'a Oslo': its .*not finite: .*contain NaN"
    ) as caught:
        ask_relation(broken, one, subjects, VOCABULARY, top=1)
    assert caught.value.position == 1
