import pytest
import torch

from pipeline.training.bank import make_encoder, stack_prompts

KINDS = ("lstm", "mlp", "embedding")
WORDS = torch.arange(80.0).reshape(20, 4)


def _encoder(kind: str = "lstm", name: str = "P17", *, count: int = 3, seed: int = 1):
    return make_encoder(kind, count, WORDS, dropout=0.0, seed=seed, name=name)


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_begins_alike_whatever_was_made_before_it(kind):
    alone = _encoder(kind)()
    for name in ("P30", "P36"):
        _encoder(kind, name)
    torch.rand(7)
    assert torch.equal(_encoder(kind)(), alone)


@pytest.mark.parametrize("kind", KINDS)
def test_another_name_or_seed_gives_another_beginning(kind):
    vectors = _encoder(kind)()
    assert not torch.equal(_encoder(kind, "P30")(), vectors)
    assert not torch.equal(_encoder(kind, seed=2)(), vectors)


@pytest.mark.parametrize("kind", KINDS)
def test_making_a_prompt_disturbs_no_other_randomness(kind):
    torch.manual_seed(5)
    undisturbed = torch.rand(3)
    torch.manual_seed(5)
    _encoder(kind)
    assert torch.equal(torch.rand(3), undisturbed)


def test_an_embedding_prompt_begins_as_words():
    words = WORDS.clone().requires_grad_()
    encoder = make_encoder("embedding", 30, words, dropout=0.0, seed=1, name="P17")
    rows = [tuple(row) for row in encoder().tolist()]
    assert set(rows) <= {tuple(row) for row in WORDS.tolist()}
    assert len(set(rows)) > 5


def test_words_of_a_half_precision_model_become_full_precision_prompts():
    encoder = make_encoder("embedding", 2, WORDS.bfloat16(), dropout=0.0, seed=1, name="P17")
    assert encoder().dtype == torch.float32


def test_joined_prompts_are_filled_up_with_zeros():
    prompts = [_encoder("mlp", "a", count=2)(), _encoder("mlp", "b", count=3)(),
               _encoder("lstm", "c", count=1)()]  # fmt: skip
    joined = stack_prompts(prompts)
    assert joined.shape == (3, 3, 4)
    for row, prompt in zip(joined, prompts, strict=True):
        assert torch.equal(row[: len(prompt)], prompt)
        assert not row[len(prompt) :].any()


def test_no_prompts_join_to_none():
    assert stack_prompts([]) is None


def test_a_prompts_gradient_is_what_it_would_be_alone():
    together = [_encoder("lstm", name) for name in "abc"]
    stack_prompts([encoder() for encoder in together])[[0, 2]].square().sum().backward()
    alone = _encoder("lstm", "a")
    alone().square().sum().backward()
    for one, other in zip(together[0].parameters(), alone.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)
    assert all(not parameter.grad.any() for parameter in together[1].parameters())
