from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.config.schema import SearchParams
from pipeline.data.lama import Fact
from pipeline.errors import DataError, ModelError
from pipeline.evaluation.metrics import accuracy
from pipeline.models.dataset import PromptDataset
from pipeline.models.language_model import PromptedModel
from pipeline.models.scoring import score_examples
from pipeline.prompts.template import parse_template
from pipeline.search import discrete
from pipeline.search.autoprompt import search_words
from pipeline.search.discrete import choose_published, search_prompt, usable_templates
from pipeline.tasks.lama import FIELDS
from pipeline.training.loop import EpochRecord, TrainingJob, TrainingResult
from tests.jobs import fact_job, fact_trial
from tests.tiny import FAMILIES, load_broken
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


def choose(
    model: PromptedModel,
    texts: Sequence[str] = TEXTS,
    on_epoch: Callable[[EpochRecord], object] = lambda _: None,
) -> TrainingResult:
    trial = fact_trial("P17", parse_template("{subject} [P] {mask}", FIELDS), FACTS, VOCABULARY)
    return choose_published(model, trial, texts, max_tokens_per_forward=8, on_epoch=on_epoch)


@pytest.fixture
def score_as(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let the templates have these scores, one after the other."""

    def script(*scores: float) -> None:
        score = scripted(*scores)
        real = discrete.make_job
        monkeypatch.setattr(discrete, "make_job", lambda *given: replace(real(*given), score=score))

    return script


# Published templates


def test_a_causal_model_is_asked_what_names_the_subject_first(
    tiny_models: dict[str, PromptedModel],
) -> None:
    texts = [*TEXTS, "{mask}: {subject}", "{subject}: {mask}"]
    usable = {
        family: [
            template.source
            for template in usable_templates(texts, masked=tiny_models[family].masked)
        ]
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
    tiny_models: dict[str, PromptedModel],
    score_as: Callable[..., None],
    scores: tuple[float, ...],
    best: int,
) -> None:
    heard: list[EpochRecord] = []
    score_as(*scores)
    stored = choose(tiny_models["bert"], on_epoch=heard.append)
    written = TEXTS[best].replace("[X]", "{subject}").replace("[Y]", "{mask}")
    assert stored.template == written
    assert stored.vectors is None
    assert stored.words is None
    assert (stored.best_epoch, stored.best_score) == (0, scores[best])
    assert heard == stored.history == [EpochRecord(0, None, heard[0].dev_loss, scores[best])]


def test_a_causal_model_never_takes_a_template_with_the_subject_last(
    tiny_models: dict[str, PromptedModel], score_as: Callable[..., None]
) -> None:
    # Three scores are computed: the template that would come third is not scored.
    score_as(0.1, 0.2, 0.3)
    stored = choose(tiny_models["gpt2"])
    assert stored.template == "the capital of {subject} is {mask}"


@pytest.mark.parametrize("texts", [[TEXTS[2]], ["[Y] [X]", "in [Y] is [X]"], []])
def test_where_no_template_can_be_asked_the_message_says_what_to_do(
    tiny_models: dict[str, PromptedModel], texts: list[str]
) -> None:
    with pytest.raises(DataError) as caught:
        choose(tiny_models["gpt2"], texts)
    assert str(caught.value).startswith(
        f"P17: this model can use none of {len(texts)} published templates"
    )
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
        asked = fact_job(model, "P17", template, FACTS, VOCABULARY).dev
        with torch.no_grad():
            scores = [slow_scores(model, row, None, asked.word_ids) for row in asked.rows]
        hits = [int(s.argmax()) == int(t) for s, t in zip(scores, asked.targets, strict=True)]
        losses = [-float(s[t]) for s, t in zip(scores, asked.targets, strict=True)]
        slow.append((source, sum(hits) / len(hits), sum(losses) / len(losses)))
    best = max(slow, key=lambda entry: entry[1])

    stored = choose(model)

    (record,) = stored.history
    assert (stored.template, stored.best_score) == best[:2]
    assert record.dev_score == best[1]
    assert record.dev_loss == pytest.approx(best[2], abs=1e-4)


# A search


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What each search was asked for."""
    calls: list[dict[str, Any]] = []

    def noted(model: PromptedModel, *more: Any, **options: Any) -> Any:
        calls.append({"more": more, **options})
        return search_words(model, *more, **options)

    monkeypatch.setattr(discrete, "search_words", noted)
    return calls


def problem(
    model: PromptedModel, source: str, facts: dict[str, list[Fact]], words: list[str]
) -> TrainingJob:
    return fact_job(model, "P17", parse_template(source, FIELDS), facts, words)


def search(
    model: PromptedModel,
    asked: TrainingJob,
    folder: Path,
    *,
    iterations: int = 8,
    on_epoch: Callable[[EpochRecord], object] = lambda _: None,
) -> TrainingResult:
    params = SearchParams(prompts="gradient", iterations=iterations, candidates=6, batch_size=4)
    return search_prompt(
        model,
        replace(asked, seed=5),
        params,
        max_tokens_per_forward=16,
        checkpoint=folder / "search.json",
        on_epoch=on_epoch,
    )


def score_of(model: PromptedModel, questions: PromptDataset, vectors: Tensor | None) -> float:
    log_probs = score_examples(
        model, questions.rows, vectors, questions.word_ids, max_tokens_per_forward=3
    )
    return accuracy(log_probs.argmax(dim=1), questions.targets)


SOURCE = "{subject} [P*3] {mask} [P] ."


@pytest.mark.parametrize("family", FAMILIES)
def test_the_stored_vectors_are_the_embeddings_of_the_stored_words(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, family: str
) -> None:
    model = tiny_models[family]
    asked = problem(model, SOURCE, FACTS, VOCABULARY)

    stored = search(model, asked, tmp_path)

    history = stored.history
    assert stored.template is None
    assert stored.words is not None
    assert stored.vectors is not None
    assert len(stored.words) == len(stored.vectors) == 4
    ids = model.codec.tokenizer.convert_tokens_to_ids(stored.words)
    assert torch.equal(stored.vectors, model.input_embeddings(torch.tensor(ids)).detach().float())
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
    assert stored.best_score == history[stored.best_epoch].dev_score
    assert stored.best_score == score_of(model, asked.dev, stored.vectors)
    assert stored.best_score == max(record.dev_score for record in history)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_each_iteration_is_reported_as_an_epoch(
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    family: str,
    searched: list[dict[str, Any]],
) -> None:
    model = tiny_models[family]
    asked = problem(model, SOURCE, FACTS, VOCABULARY)
    heard: list[EpochRecord] = []

    stored = search(model, asked, tmp_path, on_epoch=heard.append)

    history = stored.history
    assert heard == history
    assert [record.epoch for record in history] == list(range(9))
    assert [record.train_loss is None for record in history] == [True] + [False] * 8
    (options,) = searched
    more = options.pop("more")
    again = search_words(
        model, *more, **options | {"checkpoint": None, "on_iteration": lambda _: None}
    )
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

    stored = search(model, asked, tmp_path, iterations=12)

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


def test_a_search_that_was_killed_resumes_where_it_was(
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
    whole = search(model, asked, tmp_path / "whole")
    with pytest.raises(Killed):
        search(model, asked, tmp_path, on_epoch=die)
    heard: list[EpochRecord] = []
    stored = search(model, asked, tmp_path, on_epoch=heard.append)
    assert stored.history == whole.history
    assert stored.words == whole.words
    # The iteration at whose end it was killed is reported again.
    assert [record.epoch for record in heard] == [5, 6, 7, 8]


def test_a_published_template_without_finite_scores_is_refused(
    tiny_folders: dict[str, Path],
) -> None:
    model = load_broken(tiny_folders["bert"], "located")
    at = r"P17/.*, prompt '{subject} is located in .*', dev example 1: its scores are not finite"
    with pytest.raises(ModelError, match=at):
        choose(model)
