import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from pipeline.models.encoding import MultipleChoice, Row
from pipeline.models.language_model import PromptedModel
from pipeline.models.packing import Batch
from pipeline.models.scoring import ScoreError, score_examples
from tests.tiny import load_broken
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
    return torch.randn(1, model.embedding_size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("max_tokens_per_forward", [1, 20, 30, 1000])
@pytest.mark.parametrize("packs", [True, False])
def test_scores_come_in_the_order_of_the_rows(
    model: PromptedModel,
    rows: list[Row],
    vectors: torch.Tensor,
    max_tokens_per_forward: int,
    packs: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model, "max_packed_length", 128 if packs else 0)
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


def shapes_of_passes(
    model: PromptedModel, monkeypatch: pytest.MonkeyPatch
) -> list[tuple[int, ...]]:
    """The shapes of the passes from now on."""
    shapes: list[tuple[int, ...]] = []
    read = model._read

    def watched(batch: Batch, prompts: torch.Tensor | None) -> torch.Tensor:
        shapes.append(tuple(batch.tokens.shape))
        return read(batch, prompts)

    monkeypatch.setattr(model, "_read", watched)
    return shapes


def test_a_pass_of_a_model_that_cannot_pack_has_rows_of_similar_length(
    model: PromptedModel,
    rows: list[Row],
    vectors: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model, "max_packed_length", 0)
    shapes = shapes_of_passes(model, monkeypatch)
    lengths = sorted(len(row.token_ids) for row in rows)

    most = lengths[0] + lengths[1]
    score_examples(model, rows, vectors, WORD_IDS, max_tokens_per_forward=most)

    assert shapes[0] == (2, lengths[1])
    assert shapes[-1] == (1, lengths[4])
    assert sum(count for count, _ in shapes) == 5


@pytest.mark.parametrize("packs", [True, False])
def test_the_choices_of_an_example_share_a_pass(
    model: PromptedModel,
    rows: list[Row],
    vectors: torch.Tensor,
    monkeypatch: pytest.MonkeyPatch,
    packs: bool,
) -> None:
    monkeypatch.setattr(model, "max_packed_length", 128 if packs else 0)
    shapes = shapes_of_passes(model, monkeypatch)
    written = [replace(row, answer_ids=(30,)) for row in rows]
    asked = [
        MultipleChoice((written[0], written[1], written[2])),
        MultipleChoice((written[3], written[4])),
    ] * 2
    labels = torch.tensor([0, 1])
    alone = score_examples(model, asked, vectors, labels, max_tokens_per_forward=1)
    single = len(shapes)
    together = score_examples(model, asked, vectors, labels, max_tokens_per_forward=10_000)
    assert len(shapes) == single + 1
    torch.testing.assert_close(alone, together, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for example, found in zip(asked, together, strict=True):
            own = [slow_scores(model, row, vectors)[30] for row in example.rows]
            pair = torch.stack([own[0], max(own[1:])])
            torch.testing.assert_close(found, pair.log_softmax(0), rtol=1e-4, atol=1e-4)


def test_no_examples_have_no_scores(model: PromptedModel) -> None:
    assert score_examples(model, [], None, WORD_IDS, max_tokens_per_forward=9).shape == (0, 3)


def test_scores_that_are_not_finite_are_refused_with_their_example(
    tiny_folders: dict[str, Path], family: str
) -> None:
    model = load_broken(tiny_folders[family], "Lyon")
    rows = [hand_row(family, model, text) for text in ("^Paris _is M", "a _Lyon _is M", "_Lyon M")]
    with pytest.raises(ScoreError, match="weights contain NaN") as caught:
        score_examples(model, rows, None, WORD_IDS, max_tokens_per_forward=1)
    assert caught.value.position == 1


def test_the_missing_choice_of_an_example_with_one_is_no_error(
    model: PromptedModel, rows: list[Row], vectors: torch.Tensor
) -> None:
    written = [replace(row, answer_ids=(30,)) for row in rows]
    asked = [MultipleChoice((written[0],)), MultipleChoice((written[1], written[2]))]
    for most in (1, 1000):  # apart, and in one pass
        found = score_examples(
            model, asked, vectors, torch.tensor([0, 1]), max_tokens_per_forward=most
        )
        assert found[0].tolist() == [0, -math.inf]
        assert found[1].isfinite().all()
