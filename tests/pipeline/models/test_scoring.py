from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.models.encoding import MultipleChoice, Row
from pipeline.models.language_model import PromptedModel
from pipeline.models.scoring import micro_batches, score_examples
from tests.worked import hand_row, slow_scores

SENTENCES = [
    "P _Oslo _is M .",
    "P _the _capital _of _Japan _is _a _city , _located _in M _ .",
    "P _Paris _is _in M .",
    "P _Lyon _is _a _city _in M ,",
    "P _is M",
]
WORD_IDS = torch.tensor([30, 9, 17])


@pytest.fixture(params=["bert", "gpt2"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(tiny_models: dict[str, PromptedModel], family: str) -> PromptedModel:
    return tiny_models[family]


@pytest.fixture
def rows(model: PromptedModel, family: str) -> list[Row]:
    return [hand_row(family, model, spelled) for spelled in SENTENCES]


@pytest.fixture
def vectors(model: PromptedModel) -> torch.Tensor:
    return torch.randn(
        1, model.input_embeddings.shape[1], generator=torch.Generator().manual_seed(0)
    )


@pytest.mark.parametrize("max_tokens_per_forward", [1, 2, 3, 100])
def test_scores_come_in_the_order_of_the_rows(
    model: PromptedModel, rows: list[Row], vectors: torch.Tensor, max_tokens_per_forward: int
) -> None:
    with torch.no_grad():
        slow = [slow_scores(model, row, vectors, WORD_IDS.tolist()) for row in rows]

    found = score_examples(
        model, rows, vectors, WORD_IDS, max_tokens_per_forward=max_tokens_per_forward
    )

    torch.testing.assert_close(found, torch.stack(slow), rtol=1e-4, atol=1e-4)
    assert not found.requires_grad


def test_rows_without_prompt_tokens_need_no_vectors(model: PromptedModel, family: str) -> None:
    row = hand_row(family, model, "^Paris _is M")
    with torch.no_grad():
        slow = slow_scores(model, row, None, WORD_IDS.tolist())

    found = score_examples(model, [row, row], None, WORD_IDS, max_tokens_per_forward=1)

    torch.testing.assert_close(found, torch.stack([slow, slow]), rtol=1e-4, atol=1e-4)


def test_a_pass_holds_rows_of_like_length(
    model: PromptedModel,
    rows: list[Row],
    vectors: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shapes = []
    log_probs = model.log_probs

    def watched(batch, prompts, candidates=None):
        shapes.append(tuple(batch.token_ids.shape))
        return log_probs(batch, prompts, candidates)

    monkeypatch.setattr(model, "log_probs", watched)
    score_examples(model, rows, vectors, WORD_IDS, max_tokens_per_forward=2)

    lengths = sorted(len(row.token_ids) for row in rows)
    assert shapes == [(2, lengths[1]), (2, lengths[3]), (1, lengths[4])]


@settings(max_examples=50)
@given(st.lists(st.integers(1, 9)), st.integers(1, 12))
def test_passes_keep_the_order_and_are_as_full_as_may_be(sizes: list[int], most: int) -> None:
    cut = list(micro_batches(range(len(sizes)), lambda i: sizes[i], most))
    assert [i for own in cut for i in own] == list(range(len(sizes)))
    totals = [sum(sizes[i] for i in own) for own in cut]
    assert all(total <= most or len(own) == 1 for total, own in zip(totals, cut, strict=True))
    assert all(total + sizes[own[0]] > most for total, own in zip(totals, cut[1:], strict=False))


def test_each_choice_of_an_example_is_a_row_of_its_pass(
    model: PromptedModel, rows: list[Row], vectors: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    choice_scores = model.choice_scores

    def watched(batch, prompts):
        counts.append(len(batch.token_ids))
        return choice_scores(batch, prompts)

    monkeypatch.setattr(model, "choice_scores", watched)
    written = [replace(row, answer_ids=(30,)) for row in rows]
    asked = [
        MultipleChoice((written[0], written[1], written[2])),
        MultipleChoice((written[3], written[4])),
    ] * 2
    labels = torch.tensor([0, 1])
    alone = score_examples(model, asked, vectors, labels, max_tokens_per_forward=1)
    assert sorted(counts) == [2, 2, 3, 3]
    counts.clear()
    together = score_examples(model, asked, vectors, labels, max_tokens_per_forward=5)
    assert sum(counts) == 10
    assert max(counts) <= 5
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
