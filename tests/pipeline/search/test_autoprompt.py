import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from torch import Tensor
from transformers import AutoTokenizer

from pipeline.config.schema import SearchParams
from pipeline.errors import ModelError, TemplateError
from pipeline.evaluation.metrics import accuracy
from pipeline.models.dataset import PromptDataset
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.models.packing import Batch
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.prompts.template import parse_template
from pipeline.search import autoprompt as search
from pipeline.search.autoprompt import (
    SearchRecord,
    SearchResult,
    filter_words,
    prompt_gradient,
    prompt_losses,
    propose_words,
    search_words,
)
from pipeline.training.loop import TrainingJob
from tests.jobs import fact_job
from tests.tiny import FAMILIES, WORDS, load_broken
from tests.worked import VOCABULARY, ids, make_facts, slow_scores

SEED = 7
ONE_OF_EACH = ("bert", "gpt2")
SOURCE = "[P*2] {subject} is in [P] {mask} ."


def problem(
    model: PromptedModel, source: str = SOURCE, *, facts: int = 7, dev: int = 4
) -> TrainingJob:
    template = parse_template(source, ["subject"])
    split = {"train": make_facts(facts), "dev": make_facts(dev, start=3)}
    return fact_job(model, "P17", template, split, VOCABULARY)


def run(model: PromptedModel, asked: TrainingJob, **changes: Any) -> SearchResult:
    """Search; what is changed is of the job, of the section `search`, or an argument."""
    job = replace(asked, score=accuracy, seed=SEED)
    params = {"prompts": "gradient", "iterations": 6, "candidates": 5, "batch_size": 4}
    options: dict[str, Any] = {
        "allowed": filter_words(model.codec, model.vocabulary_size, VOCABULARY),
        "max_tokens_per_forward": 64,
        "checkpoint": None,
        "on_iteration": lambda _: None,
    }
    for name, value in changes.items():
        if name in params:
            params[name] = value
        elif name in options:
            options[name] = value
        else:
            job = replace(job, **{name: value})
    return search_words(model, job, SearchParams.model_construct(**params), **options)


def assert_equal_searches(ours: SearchResult, other: SearchResult) -> None:
    assert (ours.token_ids, ours.best_iteration) == (other.token_ids, other.best_iteration)
    assert len(ours.history) == len(other.history)
    for mine, theirs in zip(ours.history, other.history, strict=True):
        assert (mine.iteration, mine.token_ids) == (theirs.iteration, theirs.token_ids)
        assert mine.train_loss == pytest.approx(theirs.train_loss, abs=1e-5)
        assert mine.dev_loss == pytest.approx(theirs.dev_loss, abs=1e-5)
        assert mine.dev_score == pytest.approx(theirs.dev_score, abs=1e-5)


# Slow versions


def right_word(questions: PromptDataset, example: int) -> int:
    return int(questions.word_ids[questions.targets[example]])


@torch.no_grad()
def slow_loss(
    model: PromptedModel, questions: PromptDataset, chosen: list[int], prompt: tuple[int, ...]
) -> float:
    """Mean loss, a row at a time, with the prompt's words as plain token ids."""
    losses = []
    for example in chosen:
        row = questions.rows[example]
        written = [
            token if slot < 0 else prompt[slot]
            for token, slot in zip(row.token_ids, row.slots, strict=True)
        ]
        logits = model.network(input_ids=torch.tensor([written])).logits[0, row.answer_position]
        losses.append(-logits.float().log_softmax(0)[right_word(questions, example)].item())
    return sum(losses) / len(losses)


def slow_gradient(
    model: PromptedModel, questions: PromptDataset, chosen: list[int], prompt: tuple[int, ...]
) -> Tensor:
    vectors = torch.stack(list(model.input_embeddings(torch.tensor(prompt)).detach().float()))
    vectors.requires_grad_()
    losses = [
        -slow_scores(model, questions.rows[i], vectors)[right_word(questions, i)] for i in chosen
    ]
    (gradient,) = torch.autograd.grad(torch.stack(losses).mean(), vectors)
    return gradient


def slow_proposals(
    model: PromptedModel, gradient: Tensor, allowed: list[int], count: int, current: int
) -> list[int]:
    """The words by the first-order change of the loss, one dot product at a time."""
    embeddings = model.input_embeddings(torch.arange(model.vocabulary_size))
    change = {
        word: float((embeddings[word] - embeddings[current]).detach() @ gradient)
        for word in allowed
        if word != current
    }
    return sorted(change, key=lambda word: change[word])[:count]


# Against slow versions


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens_per_forward", [2, 640])
def test_the_gradient_is_that_of_the_mean_loss_row_by_row(
    tiny_models: dict[str, PromptedModel], family: str, max_tokens_per_forward: int
) -> None:
    model = tiny_models[family]
    train = problem(model).train
    prompt = tuple(ids(family, model.codec, "_capital _of _city"))
    chosen = [5, 0, 3, 6, 1]
    model.network.zero_grad()  # another test may have left some at the weights that all share
    found = prompt_gradient(model, train, chosen, prompt, max_tokens_per_forward)
    expected = slow_gradient(model, train, chosen, prompt)
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    assert all(parameter.grad is None for parameter in model.network.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens_per_forward", [1, 40, 640])
def test_losses_equal_those_of_the_words_written_as_tokens(
    tiny_models: dict[str, PromptedModel], family: str, max_tokens_per_forward: int
) -> None:
    model = tiny_models[family]
    train = problem(model).train
    spelled = ("_the _city _of", "_in _the _in", "_border _with _no")
    prompts = [tuple(ids(family, model.codec, text)) for text in spelled]
    chosen = [6, 2, 0, 4]
    found = prompt_losses(model, train, chosen, prompts, max_tokens_per_forward)
    expected = [slow_loss(model, train, chosen, prompt) for prompt in prompts]
    assert found == pytest.approx(expected, abs=1e-4)
    assert max(expected) - min(expected) > 1e-2


def test_words_in_bfloat16_are_scored_as_they_are(tiny_folders: dict[str, Path]) -> None:
    model = load_model(tiny_folders["llama"], device="cpu", dtype="bfloat16")
    train = problem(model).train
    prompt = tuple(ids("llama", model.codec, "_the _city _of"))
    chosen = list(range(7))
    found = prompt_losses(model, train, chosen, [prompt], 64)
    assert found == pytest.approx([slow_loss(model, train, chosen, prompt)], abs=0.05)
    gradient = prompt_gradient(model, train, chosen, prompt, 64)
    assert gradient.dtype == torch.float32
    assert len(run(model, problem(model)).history) == 7


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_the_proposed_words_are_those_with_the_greatest_first_order_decrease(
    tiny_models: dict[str, PromptedModel], data: st.DataObject
) -> None:
    model = tiny_models["bert"]
    every = range(model.vocabulary_size)
    allowed = sorted(data.draw(st.sets(st.sampled_from(every), min_size=1, max_size=30)))
    current = data.draw(st.sampled_from(allowed) | st.sampled_from(every))
    count = data.draw(st.integers(1, 40))
    seed = data.draw(st.integers(0, 1000))
    gradient = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    words = torch.tensor(allowed)
    found = propose_words(
        gradient, model.input_embeddings(words).detach(), words, count, current=current
    )
    assert found == slow_proposals(model, gradient, allowed, count, current)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_each_iteration_tries_what_the_gradient_proposes_at_one_place(
    tiny_models: dict[str, PromptedModel], family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models[family]
    asked = problem(model)
    tried: list[list[tuple[int, ...]]] = []

    def note(*args: Any) -> list[float]:
        tried.append(args[3])
        return prompt_losses(*args)

    monkeypatch.setattr(search, "prompt_losses", note)
    history = run(model, asked, batch_size=99).history
    allowed = filter_words(model.codec, model.vocabulary_size, VOCABULARY).tolist()
    places = set()
    for before, prompts in zip(history, tried, strict=False):
        current, *others = prompts
        assert current == before.token_ids
        (place,) = {p for other in others for p in range(3) if other[p] != current[p]}
        places.add(place)
        gradient = slow_gradient(model, asked.train, list(range(7)), current)[place]
        expected = slow_proposals(model, gradient, allowed, 5, current[place])
        assert [other[place] for other in others] == expected
    assert len(tried) == len(history) - 1
    assert len(places) > 1


# What the search does


@pytest.mark.parametrize("family", FAMILIES)
def test_no_iteration_raises_the_loss_of_its_batch(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    """Over all examples, the batch is the same each time."""
    model = tiny_models[family]
    asked = problem(model)
    every = list(range(7))
    history = run(model, asked, batch_size=99).history
    losses = [slow_loss(model, asked.train, every, record.token_ids) for record in history]
    assert [record.train_loss for record in history[1:]] == pytest.approx(losses[1:], abs=1e-4)
    assert all(after <= before + 1e-5 for before, after in itertools.pairwise(losses))
    assert losses[-1] < losses[0] - 1e-2


@pytest.mark.parametrize("family", FAMILIES)
def test_with_one_place_and_all_words_tried_the_search_equals_brute_force(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    asked = problem(model, "{subject} is [P] {mask}")
    words = ids(family, model.codec, "_the _city _of _capital _with _no _yes _located _shares")
    every = list(range(7))
    losses = {word: slow_loss(model, asked.train, every, (word,)) for word in words}
    found = run(
        model,
        replace(asked, dev=asked.train),
        allowed=torch.tensor(words),
        candidates=99,
        batch_size=99,
        iterations=1,
        score=lambda *_: 0.0,
    )
    assert found.token_ids == (min(losses, key=lambda word: losses[word]),)
    assert found.history[1].train_loss == pytest.approx(min(losses.values()), abs=1e-4)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_a_long_search_ends_where_no_single_word_is_better(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    asked = problem(model, "[P] {subject} [P] {mask}", facts=4)
    words = ids(family, model.codec, "_the _city _of _with _no")
    every = list(range(4))
    options = {"allowed": torch.tensor(words), "candidates": 99, "batch_size": 99}
    end = run(model, asked, iterations=20, **options).history[-1].token_ids
    loss = slow_loss(model, asked.train, every, end)
    for word in words:
        for other in ((word, end[1]), (end[0], word)):
            assert slow_loss(model, asked.train, every, other) >= loss - 1e-5


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_words_are_allowed_ones_and_change_one_at_a_time(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    allowed = filter_words(model.codec, model.vocabulary_size, VOCABULARY)
    history = run(model, problem(model), iterations=12).history
    for record in history:
        assert len(record.token_ids) == 3
        assert set(record.token_ids) <= set(allowed.tolist())
    for before, after in itertools.pairwise(history):
        pairs = zip(before.token_ids, after.token_ids, strict=True)
        assert sum(old != new for old, new in pairs) <= 1
    changed = [
        place for place in range(3) if len({record.token_ids[place] for record in history}) > 1
    ]
    assert changed == [0, 1, 2]


def test_words_behind_the_mask_of_a_causal_model_stay(
    tiny_models: dict[str, PromptedModel],
) -> None:
    asked = problem(tiny_models["gpt2"], "{subject} [P] {mask} [P*2]")
    history = run(tiny_models["gpt2"], asked, iterations=8).history
    assert len({record.token_ids[0] for record in history}) > 1
    assert len({record.token_ids[1:] for record in history}) == 1


@pytest.mark.parametrize(
    ("scores", "best"),
    [
        ([0.1, 0.3, 0.3, 0.2], 2),  # of equals the latest
        ([0.5, 0.4, 0.4, 0.3], 0),  # the start
        ([0.2, 0.2, 0.2, 0.9], 3),
    ],
)
def test_dev_chooses_the_prompt(
    tiny_models: dict[str, PromptedModel],
    monkeypatch: pytest.MonkeyPatch,
    scores: list[float],
    best: int,
) -> None:
    left = iter(scores)
    always_change(monkeypatch)
    found = run(
        tiny_models["bert"], problem(tiny_models["bert"]), iterations=3, score=lambda *_: next(left)
    )
    assert [record.dev_score for record in found.history] == scores
    assert found.best_iteration == best
    assert found.token_ids == found.history[best].token_ids
    assert len({record.token_ids for record in found.history}) == 4


def always_change(monkeypatch: pytest.MonkeyPatch, *, at: set[int] | None = None) -> None:
    """Make another word look better in each iteration, or in those of `at`."""
    count = itertools.count(1)

    def losses(*args: Any) -> list[float]:
        changes = at is None or next(count) in at
        return [1.0, *([0.5] if changes else [1.0]), *([1.0] * (len(args[3]) - 2))]

    monkeypatch.setattr(search, "prompt_losses", losses)


def test_dev_is_asked_only_when_a_word_has_changed(
    tiny_models: dict[str, PromptedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal losses change no word, and a prompt that stays is not a later one."""
    model = tiny_models["bert"]
    left = iter([0.1, 0.7, 0.2])
    always_change(monkeypatch, at={2, 5})
    found = run(model, problem(model), score=lambda *_: next(left))
    assert [r.dev_score for r in found.history] == [0.1, 0.1, 0.7, 0.7, 0.7, 0.2, 0.2]
    assert len({record.dev_loss for record in found.history}) == 3
    assert found.best_iteration == 2
    assert next(left, None) is None


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_dev_losses_and_scores_are_those_of_the_words_among_the_answers(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    asked = problem(model)
    for record in run(model, asked, score=accuracy).history:
        vectors = torch.stack(list(model.input_embeddings(torch.tensor(record.token_ids)).detach()))
        with torch.no_grad():
            slow = torch.stack(
                [slow_scores(model, row, vectors, asked.dev.word_ids) for row in asked.dev.rows]
            )
        right = slow[torch.arange(4), asked.dev.targets]
        assert record.dev_loss == pytest.approx(-right.mean().item(), abs=1e-4)
        assert record.dev_score == accuracy(slow.argmax(dim=1), asked.dev.targets)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_stays_bit_equal(tiny_folders: dict[str, Path], family: str) -> None:
    model = load_model(tiny_folders[family], device="cpu")
    before = {name: w.clone() for name, w in model.network.state_dict().items()}
    model.network.train()
    run(model, problem(model), iterations=3)
    assert all(torch.equal(w, before[n]) for n, w in model.network.state_dict().items())
    assert not model.network.training
    for parameter in model.network.parameters():
        assert parameter.grad is None
        assert not parameter.requires_grad


# What must not matter, and what must


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_two_searches_are_equal_whatever_was_drawn_before(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = run(model, problem(model))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    assert run(model, problem(model)) == first


@pytest.mark.parametrize("changes", [{"seed": SEED + 1}, {"name": "P30"}])
def test_another_seed_or_name_starts_and_continues_differently(
    tiny_models: dict[str, PromptedModel],
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, Any],
) -> None:
    model = tiny_models["bert"]
    draws: list[list[list[int]]] = []

    def note(*args: Any) -> list[float]:
        draws[-1].append(args[2])
        return prompt_losses(*args)

    monkeypatch.setattr(search, "prompt_losses", note)
    results = []
    for options in ({}, changes):
        draws.append([])
        results.append(run(model, problem(model), **options))
    assert results[0].history[0].token_ids != results[1].history[0].token_ids
    assert draws[0] != draws[1]
    assert all(len(set(chosen)) == 4 for chosen in draws[0])
    assert len({tuple(sorted(chosen)) for chosen in draws[0]}) > 1


def test_the_gradient_and_the_choice_see_their_own_examples(
    tiny_models: dict[str, PromptedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models["bert"]
    seen: dict[str, list[frozenset[int]]] = {"prompt_gradient": [], "prompt_losses": []}

    def noted(name: str) -> Any:
        function = getattr(search, name)

        def note(*args: Any) -> Any:
            seen[name].append(frozenset(args[2]))
            return function(*args)

        return note

    for name in seen:
        monkeypatch.setattr(search, name, noted(name))
    run(model, problem(model))
    assert [len(chosen) for batches in seen.values() for chosen in batches] == [4] * 12
    assert seen["prompt_gradient"] != seen["prompt_losses"]
    assert all(len(set(batches)) > 1 for batches in seen.values())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("max_tokens_per_forward", [1, 70])
def test_tokens_per_pass_change_nothing(
    tiny_models: dict[str, PromptedModel], family: str, max_tokens_per_forward: int
) -> None:
    model = tiny_models[family]
    whole = run(model, problem(model), iterations=4)
    parts = run(model, problem(model), iterations=4, max_tokens_per_forward=max_tokens_per_forward)
    assert_equal_searches(whole, parts)


def test_no_pass_has_more_tokens_than_it_may(
    tiny_models: dict[str, PromptedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models["bert"]
    shapes: list[tuple[int, int]] = []
    read = model._read

    def note(batch: Batch, *args: Any) -> Tensor:
        sequences, length = batch.tokens.shape
        shapes.append((sequences, length))
        return read(batch, *args)

    monkeypatch.setattr(model, "_read", note)
    run(model, problem(model), iterations=1, max_tokens_per_forward=100, score=lambda *_: 0.0)
    assert any(sequences > 1 for sequences, _ in shapes)
    assert all(sequences == 1 or sequences * length <= 100 for sequences, length in shapes)
    # Six prompts with four examples take several passes.
    assert len(shapes) > 4


# Killed and resumed


class Killed(Exception):
    """In place of the end of the process."""


@pytest.mark.parametrize("family", ONE_OF_EACH)
@pytest.mark.parametrize("stops", [[0], [6], [0, 1, 4], [1, 2, 3, 4, 5, 6]])
def test_a_killed_search_ends_as_an_undisturbed_one(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, family: str, stops: list[int]
) -> None:
    model = tiny_models[family]
    asked = problem(model)
    heard: list[SearchRecord] = []
    left = list(stops)

    def hear(record: SearchRecord) -> None:
        heard.append(record)
        if record.iteration in left:
            left.remove(record.iteration)
            raise Killed

    options: dict[str, Any] = {"checkpoint": tmp_path / "search.json", "on_iteration": hear}
    for _ in stops:
        with pytest.raises(Killed):
            run(model, asked, **options)
    found = run(model, asked, **options)

    assert found == run(model, asked)
    # An iteration at whose end it was killed is reported again.
    assert list(dict.fromkeys(heard)) == found.history
    assert len(heard) == 7 + len(stops)
    assert [file.name for file in tmp_path.iterdir()] == ["search.json"]
    assert run(model, asked, **options) == found
    assert len(heard) == 7 + len(stops)


def test_a_search_killed_within_an_iteration_begins_that_iteration_anew(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models["bert"]
    file = tmp_path / "folder" / "search.json"
    calls = itertools.count(1)

    def killed(*args: Any) -> list[float]:
        if next(calls) == 4:
            raise Killed
        return prompt_losses(*args)

    with monkeypatch.context() as patch:
        patch.setattr(search, "prompt_losses", killed)
        with pytest.raises(Killed):
            run(model, problem(model), checkpoint=file)
    assert len(json.loads(file.read_text())["history"]) == 4
    heard: list[SearchRecord] = []
    found = run(model, problem(model), checkpoint=file, on_iteration=heard.append)
    assert found == run(model, problem(model))
    assert heard == found.history[4:]


def test_more_iterations_go_on_from_fewer_and_fewer_are_cut_from_more(
    tiny_models: dict[str, PromptedModel], tmp_path: Path
) -> None:
    model = tiny_models["bert"]
    file = tmp_path / "search.json"
    for iterations in (2, 6, 4):
        found = run(model, problem(model), iterations=iterations, checkpoint=file)
        assert found == run(model, problem(model), iterations=iterations)


def test_a_search_resumes_with_other_passes(
    tiny_models: dict[str, PromptedModel], tmp_path: Path
) -> None:
    model = tiny_models["bert"]
    options = {"checkpoint": tmp_path / "search.json"}
    run(model, problem(model), iterations=3, **options)
    heard: list[SearchRecord] = []
    run(model, problem(model), max_tokens_per_forward=5, on_iteration=heard.append, **options)
    assert [record.iteration for record in heard] == [4, 5, 6]


def other_words(model: PromptedModel, *, unused_by: SearchResult) -> Tensor:
    """Another word is allowed in place of one that the start has no use for."""
    allowed = filter_words(model.codec, model.vocabulary_size, VOCABULARY)
    unused = next(i for i, word in enumerate(allowed.tolist()) if word not in unused_by.token_ids)
    allowed[unused] = ids("bert", model.codec, "_France")[0]
    return allowed


@pytest.mark.parametrize(
    "other",
    ["seed", "name", "candidates", "batch_size", "allowed", "train", "dev", "template", "model"],
)
def test_a_checkpoint_of_another_search_is_written_over(
    tiny_models: dict[str, PromptedModel], tiny_folders: dict[str, Path], tmp_path: Path, other: str
) -> None:
    model = tiny_models["bert"]
    asked = problem(model)
    changes: dict[str, Any] = {
        "seed": {"seed": SEED + 1},
        "name": {"name": "P30"},
        "candidates": {"candidates": 6},
        "batch_size": {"batch_size": 3},
        "allowed": {"allowed": other_words(model, unused_by=run(model, asked, iterations=0))},
        "train": {"train": problem(model, facts=6).train},
        "dev": {"dev": problem(model, dev=5).dev},
    }.get(other, {})
    if other == "template":
        asked = problem(model, "[P*2] {subject} lies in [P] {mask} .")
    if other == "model":
        model = load_model(tiny_folders["bert"], device="cpu")
        with torch.no_grad():
            model.input_embeddings.weight.mul_(1.1)
    file = tmp_path / "search.json"
    run(tiny_models["bert"], problem(tiny_models["bert"]), iterations=2, checkpoint=file)
    heard: list[SearchRecord] = []
    found = run(model, asked, iterations=2, checkpoint=file, on_iteration=heard.append, **changes)
    assert found == run(model, asked, iterations=2, **changes)
    assert heard == found.history


# Words that a prompt may contain


@pytest.mark.parametrize("family", FAMILIES)
def test_special_and_forbidden_words_and_names_may_not_stand_in_a_prompt(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    codec = model.codec
    forbidden = ["france", "CITY", "Norway", "b"]
    found = filter_words(codec, model.vocabulary_size, forbidden)
    kept = set(found.tolist())
    assert found.dtype == torch.int64
    assert found.tolist() == sorted(kept)
    assert not kept & {*codec.tokenizer.all_special_ids, *codec.prefix, *codec.suffix}
    assert codec.mask_id not in kept
    forbidden_words = {"France", "Norway", "city"}
    names = {word for word in WORDS if word[0].isupper()} if family != "albert" else set()
    for word in WORDS:
        (token,) = ids(family, codec, f"_{word}")
        assert (token in kept) == (word not in forbidden_words | names), word
    texts = {codec.tokenizer.convert_ids_to_tokens(token) for token in kept}
    assert {text.strip("▁Ġ#") for text in texts}.isdisjoint({"b", "city", "france", "France"})
    assert {"c", ".", "3"} <= texts
    assert texts.isdisjoint({"▁", "▁▁", "\n", "Ġ", "Ċ", "ĉ", "Ā", "Â", "À", "A", "##B", "Par"})


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_pieces_of_words_may_stand_in_a_prompt(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    kept = set(filter_words(model.codec, model.vocabulary_size, ["d"]).tolist())
    vocabulary = model.codec.tokenizer.get_vocab()
    piece, forbidden = ("##c", "##d") if family == "bert" else ("c", "d")
    assert vocabulary[piece] in kept
    assert vocabulary[forbidden] not in kept


@settings(deadline=None, max_examples=25)
@given(family=st.sampled_from(FAMILIES), forbidden=st.sets(st.sampled_from(WORDS)))
def test_what_is_forbidden_leaves_out_its_own_tokens_only(
    tiny_models: dict[str, PromptedModel], family: str, forbidden: set[str]
) -> None:
    model = tiny_models[family]
    every = set(filter_words(model.codec, model.vocabulary_size, []).tolist())
    kept = set(filter_words(model.codec, model.vocabulary_size, forbidden).tolist())
    lost = model.codec.tokenizer.convert_ids_to_tokens(sorted(every - kept))
    folded = {word.casefold() for word in forbidden}
    assert kept <= every
    assert {token.strip("▁Ġ#").casefold() for token in lost} <= folded
    for word in forbidden:
        assert model.codec.single_token_id(word, space_before=True) not in kept


def test_what_the_tokenizer_makes_of_a_forbidden_word_may_not_stand_in_a_prompt(
    tiny_folders: dict[str, Path],
) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_folders["bert"])
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFD(), normalizers.StripAccents()]
    )
    codec = PieceTokenizer(tokenizer)
    kept = set(filter_words(codec, len(tokenizer), ["cít\u00fd"]).tolist())
    assert ids("bert", codec, "_city")[0] not in kept
    assert ids("bert", codec, "_border")[0] in kept


def test_only_words_with_an_embedding_may_stand_in_a_prompt(
    tiny_models: dict[str, PromptedModel],
) -> None:
    model = tiny_models["gpt2"]
    every = filter_words(model.codec, model.vocabulary_size, [])
    assert torch.equal(filter_words(model.codec, 10_000, []), every)
    assert torch.equal(filter_words(model.codec, 100, []), every[every < 100])


# Refused


def test_a_template_without_prompt_tokens_is_refused(
    tiny_models: dict[str, PromptedModel],
) -> None:
    with pytest.raises(TemplateError, match=r"P17: no prompt token .* put \[P\]"):
        run(tiny_models["bert"], problem(tiny_models["bert"], "{subject} {mask}"))


@pytest.mark.parametrize("changes", [{"prompt_tokens": 2}, {"allowed": torch.tensor([]).long()}])
def test_too_few_tokens_or_words_are_refused(
    tiny_models: dict[str, PromptedModel], changes: dict[str, Any]
) -> None:
    with pytest.raises(ValueError, match=r"P17: . tokens for .*words allowed"):
        run(tiny_models["bert"], problem(tiny_models["bert"]), **changes)


# Scores that are not finite


def test_a_prompt_without_finite_scores_is_refused(tiny_folders: dict[str, Path]) -> None:
    model = load_broken(tiny_folders["bert"])
    at = rf"^P17/setting-1/split-1/seed-{SEED}, prompt '\S+ \S+ \S+', dev example 1: .*contain NaN"
    with pytest.raises(ModelError, match=at):
        run(model, problem(model), allowed=torch.tensor(ids("bert", model.codec, "_Oslo")))


def test_a_loss_that_is_not_finite_stops_the_search(tiny_folders: dict[str, Path]) -> None:
    model = load_broken(tiny_folders["bert"])  # train has the word, dev does not
    with pytest.raises(ModelError, match=r"seed-7, iteration 1: the loss .*contain NaN"):
        run(model, problem(model))
