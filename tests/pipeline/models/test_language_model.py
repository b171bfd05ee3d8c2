import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM
from transformers.pytorch_utils import Conv1D

from pipeline.errors import ModelError
from pipeline.models import language_model, linear
from pipeline.models.encoding import NO_SLOT, Row
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.models.packing import Batch, PackedExample, Pass, pack, pad, upload
from tests.tiny import FAMILIES, MASKED
from tests.worked import hand_row, slow_scores

CPU = torch.device("cpu")
LINEAR = (torch.nn.Linear, Conv1D)
SENTENCES = [
    "^Paris _is _located _in M .",
    "^Oslo _is M",
    "^the _capital _of _Japan , _a _city _in _Asia , _is _located _in M , _with _no _border .",
]


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(tiny_models: dict[str, PromptedModel], family: str) -> PromptedModel:
    return tiny_models[family]


def laid_out(
    model: PromptedModel, rows: list[Row], prompts: list[int] | None, longest: int, *, packed: bool
) -> Pass:
    """Rows in one pass; `prompts` are the rows of the vectors, `longest` tokens each."""
    uses = prompts or [0] * len(rows)
    examples = [PackedExample.of(row, use * longest) for row, use in zip(rows, uses, strict=True)]
    if packed:
        (layout,) = pack(examples, model.kind, length=128, max_tokens=None)
        return layout
    return pad(examples, range(len(examples)), model.kind)


def batched(
    model: PromptedModel, rows: list[Row], prompts: list[int] | None = None, longest: int = 0
) -> Batch:
    """Each row as a sequence."""
    (batch,) = upload([laid_out(model, rows, prompts, longest, packed=False)], CPU)
    return batch


@pytest.fixture(params=["padded", "packed"])
def score(request: pytest.FixtureRequest, model: PromptedModel) -> Callable[..., Tensor]:
    """Scores rows, padded or packed; in the order of the rows."""

    def scored(
        rows: list[Row],
        vectors: Tensor | None = None,
        prompts: list[int] | None = None,
        candidates: Tensor | None = None,
    ) -> Tensor:
        longest = vectors.shape[1] if vectors is not None else 0
        layout = laid_out(model, rows, prompts, longest, packed=request.param == "packed")
        found = model.log_probs(*upload([layout], CPU), vectors, candidates)  # type: ignore[misc]
        return found[torch.tensor(layout.examples).argsort()]

    return scored


@torch.no_grad()
@pytest.mark.parametrize("spelled", SENTENCES)
def test_scores_are_those_of_the_whole_model_at_the_answer(
    model: PromptedModel, family: str, spelled: str, score: Callable[..., Tensor]
) -> None:
    row = hand_row(family, model, spelled)
    logits = model.network(input_ids=torch.tensor([row.token_ids])).logits[0, row.answer_position]

    found = score([row])

    torch.testing.assert_close(found[0], logits.log_softmax(0), rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_scores_of_candidates_are_shares_among_them(
    model: PromptedModel, family: str, score: Callable[..., Tensor]
) -> None:
    row = hand_row(family, model, SENTENCES[0])
    candidates = [9, 4, 30, 17]
    logits = model.network(input_ids=torch.tensor([row.token_ids])).logits[0, row.answer_position]
    shares = logits.exp()[candidates] / logits.exp()[candidates].sum()

    found = score([row], candidates=torch.tensor(candidates))

    assert found.dtype == torch.float32
    torch.testing.assert_close(found[0].exp(), shares, rtol=1e-4, atol=1e-6)


@torch.no_grad()
def test_padding_other_rows_and_their_order_change_nothing(
    model: PromptedModel, family: str, score: Callable[..., Tensor]
) -> None:
    rows = [hand_row(family, model, spelled) for spelled in SENTENCES]
    assert len({len(row.token_ids) for row in rows}) == 3
    alone = torch.cat([model.log_probs(batched(model, [row]), None) for row in rows])

    torch.testing.assert_close(score(rows), alone, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score(rows[::-1]), alone.flip(0), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score([rows[0], rows[2]]), alone[[0, 2]], rtol=1e-4, atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("packed", [False, True])
def test_what_the_padding_contains_changes_nothing(
    model: PromptedModel, family: str, packed: bool
) -> None:
    rows = [hand_row(family, model, spelled) for spelled in SENTENCES]
    (batch,) = upload([laid_out(model, rows, None, 0, packed=packed)], CPU)
    place = torch.arange(batch.tokens.shape[1])
    alone = (batch.seen_from == place) & (batch.seen_until == place + 1)
    alone &= batch.tokens == model.codec.pad_id
    changed = replace(batch, tokens=batch.tokens.where(~alone, 20))
    assert alone.any()

    torch.testing.assert_close(
        model.log_probs(changed, None), model.log_probs(batch, None), rtol=1e-4, atol=1e-4
    )


@torch.no_grad()
def test_prompt_vectors_are_where_an_obvious_loop_puts_them(
    model: PromptedModel, family: str, score: Callable[..., Tensor]
) -> None:
    spelled = ["P P _Paris _is P M P .", "P _Oslo _is _in P M", "^Lyon _is _a P P _city _in M _ ."]
    rows = [hand_row(family, model, s) for s in spelled]
    prompts = torch.randn(3, 4, model.embedding_size, generator=torch.Generator().manual_seed(0))
    uses = [2, 0, 2]
    slow = [slow_scores(model, row, prompts[use]) for row, use in zip(rows, uses, strict=True)]

    found = score(rows, prompts, uses)

    torch.testing.assert_close(found, torch.stack(slow), rtol=1e-4, atol=1e-4)


def test_gradients_reach_the_used_prompt_vectors_alone(
    model: PromptedModel, family: str, score: Callable[..., Tensor]
) -> None:
    rows = [hand_row(family, model, s) for s in ("P P _Paris _is P M", "P _Oslo _is M", "P _is M")]
    prompts = torch.randn(4, 5, model.embedding_size, generator=torch.Generator().manual_seed(0))
    prompts.requires_grad_()

    log_probs = score(rows, prompts, [0, 3, 3])
    (-log_probs[:, 20].mean()).backward()

    assert prompts.grad is not None
    reached = prompts.grad.abs().sum(dim=2) > 0
    used = torch.zeros(4, 5, dtype=torch.bool)
    used[0, :3] = True
    used[3, 0] = True
    assert torch.equal(reached, used)


def test_the_gradient_of_prompt_vectors_is_that_of_the_whole_model(
    model: PromptedModel, family: str, score: Callable[..., Tensor]
) -> None:
    row = hand_row(family, model, "P P _Paris _is P M .")
    start = torch.randn(1, 3, model.embedding_size, generator=torch.Generator().manual_seed(0))
    ours, slow = start.clone().requires_grad_(), start.clone().requires_grad_()

    score([row], ours)[0, 20].backward()
    slow_scores(model, row, slow[0])[20].backward()

    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, slow.grad, rtol=1e-3, atol=1e-5)


def test_a_row_may_be_as_long_as_max_length_says(
    model: PromptedModel, family: str, score: Callable[..., Tensor]
) -> None:
    row = Row((20,) * model.max_length, (NO_SLOT,) * model.max_length, model.max_length - 1)
    with torch.no_grad():
        assert score([row]).isfinite().all()
    assert model.max_length == (126 if family == "roberta" else 128)


def test_only_masked_families_are_masked(model: PromptedModel, family: str) -> None:
    assert model.masked == (family in MASKED)
    assert not model.network.training


@torch.no_grad()
@pytest.mark.parametrize("family", MASKED)
def test_the_bias_of_the_head_counts(tiny_folders: dict[str, Path], family: str) -> None:
    model = load_model(tiny_folders[family], device="cpu")
    model.network.get_output_embeddings().bias.copy_(torch.linspace(-3, 3, model.vocabulary_size))
    row = hand_row(family, model, SENTENCES[0])
    candidates = [40, 3, 20]

    found = model.log_probs(batched(model, [row]), None)
    chosen = model.log_probs(batched(model, [row]), None, torch.tensor(candidates))

    slow = [slow_scores(model, row, None), slow_scores(model, row, None, candidates)]
    torch.testing.assert_close(found[0], slow[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(chosen[0], slow[1], rtol=1e-4, atol=1e-4)


def spoiled(model: PromptedModel, change: Callable[[Any, dict[str, Any]], Any]) -> Any:
    """A copy of a network whose scores are changed, given the options of its forward pass."""
    network = copy.deepcopy(model.network)
    network.register_forward_hook(
        lambda _, __, options, output: change(output, options), with_kwargs=True
    )
    return network


def test_answers_that_depend_on_the_place_in_the_batch_are_refused(
    model: PromptedModel, family: str
) -> None:
    def shift(output: Any, _: dict[str, Any]) -> Any:
        output.logits = output.logits + output.logits.cumsum(dim=1)
        return output

    with pytest.raises(ModelError, match=f"'{family}': reading the answers at one position"):
        PromptedModel(spoiled(model, shift), model.codec, masked=model.masked)


def test_words_that_are_others_as_vectors_are_refused(model: PromptedModel, family: str) -> None:
    network = copy.deepcopy(model.network)
    embeddings = network.get_input_embeddings()
    lookup = embeddings.forward
    # Scaled for rows, but not for the vectors of prompt tokens: what Gemma's weights would give.
    embeddings.forward = lambda ids: lookup(ids) * (2.0 if ids.shape[1] > 1 else 1.0)
    with pytest.raises(ModelError, match=f"'{family}': words given as vectors have other scores"):
        PromptedModel(network, model.codec, masked=model.masked)


@torch.no_grad()
def test_a_head_that_calls_no_output_layer_scores_all_words(
    tiny_models: dict[str, PromptedModel],
) -> None:
    model = tiny_models["bert"]
    network = copy.deepcopy(model.network)
    network.cls.predictions.forward = lambda states: (
        network.cls.predictions.transform(states) @ network.cls.predictions.decoder.weight.T
    )
    row = hand_row("bert", model, SENTENCES[0])
    words = torch.tensor([40, 3, 20])

    made = PromptedModel(network, model.codec, masked=True)

    found = made.log_probs(batched(made, [row]), None, words)
    logits = network(input_ids=torch.tensor([row.token_ids])).logits[0, row.answer_position]
    torch.testing.assert_close(found[0], logits[words].log_softmax(0), rtol=1e-5, atol=1e-5)
    assert made._output_name is None
    assert model._output_name is not None


def test_a_model_without_a_body_that_takes_vectors_is_refused(
    tiny_models: dict[str, PromptedModel],
) -> None:
    network = copy.deepcopy(tiny_models["gpt2"].network)
    run = network.transformer.forward
    network.transformer.forward = lambda input_ids, **_: run(input_ids=input_ids)
    with pytest.raises(ModelError, match="GPT2LMHeadModel of transformers takes no vectors"):
        PromptedModel(network, tiny_models["gpt2"].codec, masked=False)


@torch.no_grad()
@pytest.mark.parametrize("family", ["llama"])
def test_the_vocabulary_head_runs_over_the_candidates_at_the_answers_only(
    model: PromptedModel, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [hand_row(family, model, spelled) for spelled in SENTENCES]
    shapes = []

    def noted(states: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        shapes.append((states.shape[:-1].numel(), len(weight)))
        return torch.nn.functional.linear(states, weight, bias)

    for module in (linear, language_model):  # of the network's layers, and of the head
        monkeypatch.setattr(module, "linear", noted)
    model.log_probs(batched(model, rows), None, torch.tensor([40, 3, 20, 7]))
    assert len(shapes) > 1
    assert shapes[-1] == (3, 4)
    assert all(size != model.vocabulary_size for _, size in shapes)


@pytest.mark.slow
@pytest.mark.parametrize("packed", [False, True])
def test_the_gradient_of_many_rows_is_summed_in_one_order(
    tiny_models: dict[str, PromptedModel], packed: bool
) -> None:
    """Bit for bit, with several threads: else no training is the same twice."""
    codec = tiny_models["llama"].codec
    config = LlamaConfig(
        vocab_size=len(codec.tokenizer), hidden_size=512, intermediate_size=32,
        num_hidden_layers=1, num_attention_heads=1,
    )  # fmt: skip
    model = PromptedModel(LlamaForCausalLM(config), codec, masked=False)
    slots = (0, 1, 2, *[NO_SLOT] * 6, 3, 4, 5)
    rows = [Row(tuple((7 * n + i) % 50 for i in range(12)), slots, 11) for n in range(32)]
    layout = laid_out(model, rows, [n % 4 for n in range(32)], 6, packed=packed)
    (batch,) = upload([layout], CPU)
    vectors = torch.randn(4, 6, 512, generator=torch.Generator().manual_seed(1))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(20):
            leaf = vectors.clone().requires_grad_()
            model.log_probs(batch, leaf)[:, 7].square().sum().backward()
            gradients.append(leaf.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(gradient, gradients[0]) for gradient in gradients[1:])


def test_mixed_precision_computes_in_bfloat16_and_learns_in_single(
    tiny_folders: dict[str, Path], tiny_models: dict[str, PromptedModel], family: str
) -> None:
    mixed = load_model(tiny_folders[family], device="cpu", dtype="mixed")
    row = hand_row(family, mixed, "^Paris _is P _in M")
    with torch.no_grad():
        vectors = mixed.input_embeddings(torch.tensor([7])).unsqueeze(0).clone()
    seen: list[torch.dtype] = []
    linear = next(m for m in mixed.network.base_model.modules() if isinstance(m, LINEAR))
    linear.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    scores = mixed.log_probs(batched(mixed, [row]), vectors)
    scores[0, 5].backward()
    with torch.no_grad():
        exact = tiny_models[family].log_probs(batched(mixed, [row]), vectors)
    assert seen == [torch.bfloat16]
    assert scores.dtype == torch.float32
    torch.testing.assert_close(scores.detach(), exact, rtol=0.05, atol=0.05)
    gradients = [p.grad for p in mixed.network.parameters() if p.grad is not None]
    assert {gradient.dtype for gradient in gradients} == {torch.float32}
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("dtype", ["bfloat16", "mixed"])
def test_scores_of_a_network_in_bfloat16_are_not_rounded_to_it(
    tiny_folders: dict[str, Path], family: str, dtype: str
) -> None:
    # Words whose scores are rounded tie, and the first one wins.
    model = load_model(tiny_folders[family], device="cpu", dtype=dtype)
    row = hand_row(family, model, "^Paris _is _in M")
    with torch.no_grad():
        scores = model._scores(model._read(batched(model, [row]), None), None)
    assert scores.dtype == torch.float32
    assert not torch.equal(scores, scores.bfloat16().float())
    model.add_classifier(3, seed=1)
    with torch.no_grad():
        hidden = torch.randn(4, model.hidden_size).to(model.dtype)
        labels = model._scores(hidden, None)
    assert labels.dtype == torch.float32
    assert dtype == "bfloat16" or not torch.equal(labels, labels.bfloat16().float())


# Packing


def test_all_families_pack_rows(model: PromptedModel) -> None:
    assert model.max_packed_length == model.max_length


@pytest.mark.parametrize("refuses", [False, True])
def test_a_model_that_heeds_or_takes_no_such_mask_packs_nothing(
    tiny_models: dict[str, PromptedModel], refuses: bool
) -> None:
    """Its scores would depend on the other rows of a sequence."""
    network = GPT2LMHeadModel(tiny_models["gpt2"].network.config)
    run = network.transformer.forward

    def deaf(
        input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **options: Any
    ) -> Any:
        mask = options.get("attention_mask")
        if refuses and mask is not None and mask.ndim != 2:
            raise ValueError("Wrong shape for attention_mask")
        return run(input_ids, inputs_embeds=inputs_embeds)

    network.transformer.forward = deaf
    made = PromptedModel(network, tiny_models["gpt2"].codec, masked=False)
    assert made.max_packed_length == 0


def test_dropout_is_known_by_the_configuration(tiny_models: dict[str, PromptedModel]) -> None:
    found = {family: model.has_dropout for family, model in tiny_models.items()}
    assert found == {
        "bert": True, "roberta": True, "albert": False, "gpt2": True, "llama": False
    }  # fmt: skip
