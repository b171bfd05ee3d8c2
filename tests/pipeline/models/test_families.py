import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pipeline.config.schema import SearchParams
from pipeline.errors import ModelError
from pipeline.models.encoding import NO_SLOT, Row
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.models.scoring import score_examples
from pipeline.prompts.template import parse_template
from pipeline.search.autoprompt import filter_words, search_words
from pipeline.tasks import Example
from pipeline.training.jobs import make_job
from pipeline.training.loop import TrainingJob, TrainingResult
from tests.families import DOCS, FAMILIES, MASKED, REFUSED, families_table, save_family
from tests.jobs import ADAM, changed, fact_job, task_trial, train_jobs
from tests.worked import VOCABULARY, make_facts

TEMPLATE = parse_template("[P] {subject} is [P] {mask}", ["subject"])
FACTS = {"train": make_facts(4), "dev": make_facts(2, start=3)}
LENGTHS = (9, 5, 12, 3)
TUNED = changed(ADAM, learning_rate=1e-3)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("families")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(root: Path, family: str) -> Path:
    return save_family(family, root / family)


@pytest.fixture(scope="module")
def loaded(folder: Path) -> PromptedModel:
    return load_model(folder, device="cpu")


@pytest.fixture
def model(loaded: PromptedModel) -> PromptedModel:
    """A copy to change."""
    return copy.deepcopy(loaded)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return tmp_path / "weights.safetensors"


def scores(model: PromptedModel, words: Tensor) -> Tensor:
    rows = [
        Row(
            tuple((7 * n + i) % 50 for i in range(5, 5 + size)), (NO_SLOT,) * size, size - 1 - n % 2
        )
        for n, size in enumerate(LENGTHS)
    ]
    return score_examples(model, rows, None, words, max_tokens_per_forward=64)


def own_scores(model: PromptedModel, words: Tensor) -> Tensor:
    """The same by transformers' own forward pass over each row."""
    found = []
    for n, size in enumerate(LENGTHS):
        ids = torch.tensor([[(7 * n + i) % 50 for i in range(5, 5 + size)]])
        logits = model.network(input_ids=ids).logits[0, size - 1 - n % 2]
        found.append(logits[words].log_softmax(0))
    return torch.stack(found)


def trained(
    model: PromptedModel, weights: Path, job: TrainingJob, **settings: object
) -> TrainingResult:
    """The result of one step."""
    options = {"best_checkpoint_path": weights, "job": {"score": lambda *_: 1.0}, **settings}
    (result,) = train_jobs(model, [job], epochs=1, batch_size=4, **options).values()
    return result


def state(model: PromptedModel) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in model.network.named_parameters()}


def changed_weights(model: PromptedModel, before: dict[str, Tensor]) -> list[str]:
    return [n for n, p in model.network.named_parameters() if not torch.equal(p, before[n])]


@torch.no_grad()
def test_a_family_scores_as_transformers_does(model: PromptedModel, family: str) -> None:
    every, some = torch.arange(model.vocabulary_size), torch.tensor([30, 7, 12])

    assert model.masked == (family in MASKED)
    assert model.network.config.model_type == family
    for words in (every, some):
        expected = own_scores(model, words)
        torch.testing.assert_close(scores(model, words), expected, rtol=0, atol=1e-5)
    model.max_packed_length = 0
    torch.testing.assert_close(scores(model, some), expected, rtol=0, atol=1e-5)


def test_a_step_trains_a_prompt_of_a_frozen_family(model: PromptedModel, weights: Path) -> None:
    before = state(model)
    job = fact_job(model, "P17", TEMPLATE, FACTS, VOCABULARY)
    for encoder in ("lstm", "embedding"):  # P-tuning, prompt tuning
        result = trained(model, weights, job, encoder=encoder, start="words")
        first, second = result.history
        assert first.dev_loss != second.dev_loss
        assert result.vectors is not None
        assert result.vectors.shape == (2, model.embedding_size)
    allowed = filter_words(model.codec, model.vocabulary_size, [])
    found = search_words(
        model,
        job,
        SearchParams.model_construct(iterations=1, candidates=3, batch_size=4),
        allowed=allowed,
        max_tokens_per_forward=64,
        checkpoint=None,
        on_iteration=lambda _: None,
    )
    assert set(found.token_ids) <= set(allowed.tolist())
    assert not changed_weights(model, before)


def test_a_step_tunes_a_family_which_is_saved_and_loaded(
    model: PromptedModel, folder: Path, weights: Path
) -> None:
    words = torch.tensor([30, 7, 12])
    job = fact_job(model, "P17", TEMPLATE, FACTS, VOCABULARY)
    for encoder in (None, "lstm"):  # fine-tuning, P-tuning of prompt and model
        before = state(model)
        trained(model, weights, job, encoder=encoder, model_optimizer=TUNED)
        assert changed_weights(model, before)
    again = load_model(folder, device="cpu", weights=weights)
    torch.testing.assert_close(scores(again, words), scores(model, words), rtol=0, atol=1e-5)

    model.add_classifier(2, seed=1)
    before = state(model)
    trained(model, weights, classifier_job(model), encoder=None, model_optimizer=TUNED)
    assert any(name.startswith("answer_classifier.") for name in changed_weights(model, before))
    again = load_model(folder, device="cpu", weights=weights, labels=2)
    words = torch.arange(2)
    torch.testing.assert_close(scores(again, words), scores(model, words), rtol=0, atol=1e-5)


def classifier_job(model: PromptedModel) -> TrainingJob:
    template = parse_template("{premise} {hypothesis}", ["premise", "hypothesis"], masks=(0,))
    values = {"premise": "Paris is in France", "hypothesis": "Oslo"}
    labels = ("entailment", "not_entailment")
    examples = [Example(label, values, label) for label in labels]
    splits = {"train": examples, "dev": examples}
    return make_job(model, task_trial("rte", template, splits, verbalizer=None, classifier=True))


@pytest.mark.parametrize("family", REFUSED)
def test_a_family_that_cannot_be_scored_is_refused(root: Path, family: str) -> None:
    folder = save_family(family, root / family)
    with pytest.raises(ModelError, match=REFUSED[family][1]):
        load_model(folder, device="cpu")


def test_the_documentation_lists_the_tested_families() -> None:
    assert families_table() in DOCS.read_text()
