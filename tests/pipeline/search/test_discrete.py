from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.lama import Fact
from pipeline.errors import DataError
from pipeline.evaluation.metrics import accuracy
from pipeline.models.dataset import PromptDataset, build_dataset
from pipeline.models.language_model import PromptedModel
from pipeline.models.scoring import predict
from pipeline.prompts.template import parse_template
from pipeline.search import discrete
from pipeline.search.autoprompt import search_words
from pipeline.search.discrete import Outcome, choose_published, search_prompt, usable_templates
from pipeline.tasks.lama import FIELDS, fact_values
from pipeline.training.loop import EpochRecord, TrainingJob
from pipeline.training.problems import lama_problem
from tests.tiny import FAMILIES
from tests.worked import VOCABULARY, make_facts, slow_scores

ONE_OF_EACH = ("bert", "gpt2")
FACTS = {"train": make_facts(6), "dev": make_facts(7, start=2)}
TEXTS = [
    "[X] is in [Y] .",
    "[X] is located in which city? [Y].",
    "[Y] is the capital of [X]",
    "the capital of [X] is [Y]",
]


def scripted(*scores: float) -> Callable[[Tensor, Tensor], float]:
    left = iter(scores)
    return lambda _, __: next(left)


def choose(model: PromptedModel, texts: Sequence[str] = TEXTS, **changes: Any) -> Outcome:
    options: dict[str, Any] = {
        "score": accuracy,
        "max_rows_per_forward": 8,
        "on_epoch": lambda _: None,
    }
    return choose_published(model, "P17", texts, FACTS, VOCABULARY, **options | changes)


# Published templates


def test_a_causal_model_is_asked_what_names_the_subject_first(
    tiny_models: dict[str, PromptedModel],
) -> None:
    texts = [*TEXTS, "{mask}: {subject}", "{subject}: {mask}"]
    usable = {
        family: [template.source for template in usable_templates(tiny_models[family], texts)]
        for family in ONE_OF_EACH
    }
    written = [text.replace("[X]", "{subject}").replace("[Y]", "{mask}") for text in texts]
    assert usable["bert"] == written
    assert usable["gpt2"] == [written[0], written[1], written[3], written[5]]


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ((0.1, 0.4, 0.3, 0.2), 1),
        ((0.1, 0.2, 0.3, 0.4), 3),
        ((0.4, 0.4, 0.1, 0.4), 0),  # of equals the first
        ((0.0, 0.0, 0.0, 0.0), 0),
        ((0.1, 0.2, 0.4, 0.4), 2),
    ],
)
def test_the_template_with_the_best_dev_score_is_taken(
    tiny_models: dict[str, PromptedModel], scores: tuple[float, ...], best: int
) -> None:
    heard: list[EpochRecord] = []
    stored, history = choose(tiny_models["bert"], score=scripted(*scores), on_epoch=heard.append)
    written = TEXTS[best].replace("[X]", "{subject}").replace("[Y]", "{mask}")
    assert stored.template == written
    assert stored.vectors is None
    assert stored.words is None
    assert (stored.best_epoch, stored.dev_score) == (0, scores[best])
    assert heard == history == [EpochRecord("P17", 0, None, history[0].dev_loss, scores[best])]


def test_a_causal_model_never_takes_a_template_with_the_subject_last(
    tiny_models: dict[str, PromptedModel],
) -> None:
    # Three scores are asked for: the template that would come third is not scored.
    stored, _ = choose(tiny_models["gpt2"], score=scripted(0.1, 0.2, 0.3))
    assert stored.template == "the capital of {subject} is {mask}"


@pytest.mark.parametrize("texts", [[TEXTS[2]], ["[Y] [X]", "in [Y] is [X]"], []])
def test_where_no_template_can_be_asked_the_message_says_what_to_do(
    tiny_models: dict[str, PromptedModel], texts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        choose(tiny_models["gpt2"], texts)
    assert str(caught.value).startswith(f"P17: none of {len(texts)} published templates")
    assert "lama.training.discrete.search.prompts" in str(caught.value)


@pytest.mark.parametrize("family", FAMILIES)
def test_scores_of_published_templates_are_those_of_one_fact_at_a_time(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    slow: list[tuple[str, float, float]] = []
    for text in TEXTS:
        if not model.masked and text.index("[Y]") < text.index("[X]"):
            continue
        source = text.replace("[X]", "{subject}").replace("[Y]", "{mask}")
        template = parse_template(source, FIELDS)
        examples = [(fact_values(fact), fact.obj_label) for fact in FACTS["dev"]]
        asked = build_dataset(model, template, examples, VOCABULARY)
        with torch.no_grad():
            scores = [slow_scores(model, row, None, asked.word_ids) for row in asked.rows]
        hits = [int(s.argmax()) == int(t) for s, t in zip(scores, asked.targets, strict=True)]
        losses = [-float(s[t]) for s, t in zip(scores, asked.targets, strict=True)]
        slow.append((source, sum(hits) / len(hits), sum(losses) / len(losses)))
    best = max(slow, key=lambda entry: entry[1])

    stored, (record,) = choose(model)

    assert (stored.template, stored.dev_score) == best[:2]
    assert record.dev_score == best[1]
    assert record.dev_loss == pytest.approx(best[2], abs=1e-4)


# A search


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each search was asked for."""
    calls: list[dict[str, Any]] = []

    def noted(model: PromptedModel, **options: Any) -> Any:
        calls.append(options)
        return search_words(model, **options)

    monkeypatch.setattr(discrete, "search_words", noted)
    return calls


def problem(
    model: PromptedModel, source: str, facts: dict[str, list[Fact]], words: list[str]
) -> TrainingJob:
    return lama_problem(model, "P17", parse_template(source, FIELDS), facts, words)


def search(
    model: PromptedModel, asked: TrainingJob, source: str, folder: Path, **changes: Any
) -> Outcome:
    options: dict[str, Any] = {
        "score": accuracy,
        "iterations": 8,
        "candidates": 6,
        "batch": 4,
        "max_rows_per_forward": 16,
        "seed": 5,
        "checkpoint": folder / "search.json",
        "on_epoch": lambda _: None,
    }
    template = parse_template(source, FIELDS)
    return search_prompt(model, asked, template, **options | changes)


def score_of(model: PromptedModel, questions: PromptDataset, vectors: Tensor | None) -> float:
    log_probs = predict(model, questions.rows, vectors, questions.word_ids, max_rows_per_forward=3)
    return accuracy(log_probs, questions.targets)


SOURCE = "{subject} [P*3] {mask} [P] ."


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stored_vectors_are_the_embeddings_of_the_stored_words(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, family: str
) -> None:
    model = tiny_models[family]
    asked = problem(model, SOURCE, FACTS, VOCABULARY)

    stored, history = search(model, asked, SOURCE, tmp_path)

    assert stored.template == SOURCE
    assert stored.words is not None
    assert stored.vectors is not None
    assert len(stored.words) == len(stored.vectors) == 4
    ids = model.codec.tokenizer.convert_tokens_to_ids(stored.words)
    assert torch.equal(stored.vectors, model.input_embeddings[ids].detach().float())
    assert not stored.vectors.requires_grad
    # The words as plain token ids give the same scores as their vectors.
    for row in asked.dev.rows:
        written = [
            token if slot < 0 else ids[slot]
            for token, slot in zip(row.token_ids, row.slots, strict=True)
        ]
        with torch.no_grad():
            logits = model.network(input_ids=torch.tensor([written])).logits
            slow = slow_scores(model, row, stored.vectors)
        plain = logits[0, row.answer_position].log_softmax(dim=0)
        torch.testing.assert_close(slow, plain, rtol=1e-4, atol=1e-4)
    assert stored.dev_score == history[stored.best_epoch].dev_score
    assert stored.dev_score == score_of(model, asked.dev, stored.vectors)
    assert stored.dev_score == max(record.dev_score for record in history)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_each_iteration_is_told_as_an_epoch(
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    family: str,
    searched: list[dict[str, Any]],
) -> None:
    model = tiny_models[family]
    asked = problem(model, SOURCE, FACTS, VOCABULARY)
    heard: list[EpochRecord] = []

    stored, history = search(model, asked, SOURCE, tmp_path, on_epoch=heard.append)

    assert heard == history
    assert [record.epoch for record in history] == list(range(9))
    assert {record.problem for record in history} == {"P17"}
    assert [record.train_loss is None for record in history] == [True] + [False] * 8
    (options,) = searched
    del options["on_iteration"]
    again = search_words(model, **options | {"checkpoint": None, "on_iteration": lambda _: None})
    for mine, theirs in zip(history, again.history, strict=True):
        assert asdict(theirs).items() >= {
            "train_loss": mine.train_loss, "dev_loss": mine.dev_loss, "dev_score": mine.dev_score,
        }.items()  # fmt: skip
    assert stored.best_epoch == again.best_iteration


@pytest.mark.parametrize("family", FAMILIES)
def test_the_answers_of_train_are_no_candidates_and_other_words_are(
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    family: str,
    searched: list[dict[str, Any]],
) -> None:
    model = tiny_models[family]
    answers, others = ["city", "capital"], ["border", "yes"]
    facts = {
        "train": [Fact("P31", s, o) for s in ("Paris", "Oslo", "Lyon") for o in answers],
        "dev": [Fact("P31", s, "yes") for s in ("Paris", "Japan")],
    }
    asked = problem(model, "{subject} [P*2] {mask}", facts, [*answers, "yes"])

    stored, _ = search(model, asked, "{subject} [P*2] {mask}", tmp_path, iterations=12)

    allowed = set(searched[0]["allowed"].tolist())
    for word, is_in in (*((a, False) for a in answers), *((o, True) for o in others)):
        within, bare = (
            model.codec.single_token_id(word, space_before=space) for space in (True, False)
        )
        assert (within in allowed) == is_in, word
        assert (bare in allowed) == is_in or bare is None, word
    assert stored.words is not None
    plain = {word.lstrip("Ġ▁").removeprefix("##").lower() for word in stored.words}
    assert not plain & set(answers)


def test_a_search_that_was_killed_goes_on_where_it_was(
    tiny_models: dict[str, PromptedModel], tmp_path: Path
) -> None:
    class Killed(Exception):
        pass

    def die(record: EpochRecord) -> None:
        if record.epoch == 5:
            raise Killed

    model = tiny_models["bert"]
    asked = problem(model, SOURCE, FACTS, VOCABULARY)
    (tmp_path / "whole").mkdir()
    whole = search(model, asked, SOURCE, tmp_path / "whole")
    with pytest.raises(Killed):
        search(model, asked, SOURCE, tmp_path, on_epoch=die)
    heard: list[EpochRecord] = []
    stored, history = search(model, asked, SOURCE, tmp_path, on_epoch=heard.append)
    assert history == whole[1]
    assert stored.words == whole[0].words
    # The iteration at whose end it was killed is told again.
    assert [record.epoch for record in heard] == [5, 6, 7, 8]
