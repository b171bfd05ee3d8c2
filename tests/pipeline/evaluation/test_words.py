import numpy as np
import pytest
import torch

from pipeline.evaluation.words import nearest_words
from pipeline.models.language_model import PromptedModel


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2"])
def test_the_words_are_those_of_a_plain_comparison_with_every_embedding(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    vectors = torch.randn(2, model.embedding_size, generator=torch.Generator().manual_seed(1))
    embeddings = model.input_embeddings(torch.arange(model.vocabulary_size)).detach().numpy()
    tokenizer = model.codec.tokenizer
    for vector, found in zip(vectors.numpy(), nearest_words(model, vectors, 3), strict=True):
        best: dict[str, float] = {}
        for number, row in enumerate(embeddings):
            word = tokenizer.decode([number]).strip()
            norm = np.linalg.norm(row)  # 0 for padding
            cosine = float(row @ vector / (norm or 1.0) / np.linalg.norm(vector))
            if word and word.isprintable() and norm:
                best[word] = max(best.get(word, -1.0), cosine)
        expected = sorted(best.items(), key=lambda item: -item[1])[:3]
        assert [word for word, _ in found] == [word for word, _ in expected]
        assert [value for _, value in found] == pytest.approx([v for _, v in expected], abs=1e-6)


def test_the_vector_of_a_word_is_that_word(tiny_models: dict[str, PromptedModel]) -> None:
    model = tiny_models["gpt2"]
    number = model.codec.single_token_id("Paris", space_before=True)
    vectors = model.input_embeddings(torch.tensor([number])).detach()
    ((word, cosine), *_) = nearest_words(model, 2.5 * vectors, 2)[0]
    assert (word, cosine) == ("Paris", pytest.approx(1.0))
