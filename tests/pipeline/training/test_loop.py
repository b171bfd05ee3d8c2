import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.data.lama import Fact
from pipeline.errors import ModelError
from pipeline.evaluation.metrics import accuracy
from pipeline.models import packing
from pipeline.models.dataset import PromptDataset
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.models.scoring import score_examples
from pipeline.prompts.template import parse_template
from pipeline.tasks import Example, get_task
from pipeline.tasks.lama import apply_layout, manual_template
from pipeline.training import loop
from pipeline.training import passes as planning
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.jobs import make_job
from pipeline.training.loop import EpochRecord, TrainingJob, TrainingResult
from pipeline.training.prompt_encoders import EncoderBank, PromptEncoder, make_encoder
from tests.jobs import ADAM, SEED, changed, diverge_above, fact_job, method, task_trial, train_jobs
from tests.operations import Operations
from tests.tiny import FAMILIES, load_broken
from tests.worked import VOCABULARY, hand_row, ids, make_facts, slow_scores, torch_vectors

ONE_OF_EACH = ("bert", "gpt2")


def run(
    model: PromptedModel, jobs: list[TrainingJob], **settings: Any
) -> dict[str, TrainingResult]:
    """Train; score, seed and open_vocabulary are of every job, the rest of the method."""
    names = ("score", "seed", "open_vocabulary")
    of_jobs = {name: settings.pop(name) for name in names if name in settings}
    return train_jobs(model, jobs, job=of_jobs, **settings)


def encoder_of(kind: str, count: int, model: PromptedModel, *, name: str) -> PromptEncoder:
    config = method(encoder=kind).prompt
    assert config is not None
    return make_encoder(config, count, model.input_embeddings, seed=SEED, name=name)


def scripted(**scores: list[float]) -> Callable[[Tensor, Tensor], float]:
    """Give out scores as written; a job is known by its number of dev examples."""
    left = {int(name.removeprefix("dev_")): iter(values) for name, values in scores.items()}
    return lambda _, targets: next(left[len(targets)])


def latest(_: Tensor, __: Tensor) -> float:
    """Score every epoch alike: the best is the last."""
    return 0.5


def job(
    model: PromptedModel,
    name: str = "P17",
    source: str = "[P*2] {subject} is in [P] {mask} [P] .",
    *,
    facts: int = 5,
    dev: int = 4,
    words: list[str] = VOCABULARY,
) -> TrainingJob:
    template = parse_template(source, ["subject"])
    split = {"train": make_facts(facts), "dev": make_facts(dev, start=3)}
    return fact_job(model, name, template, split, words)


def three_jobs(model: PromptedModel) -> list[TrainingJob]:
    """Problems of different lengths, prompt lengths and numbers of steps."""
    return [
        job(model, "P17", "[P*3] {subject} is located in [P*2] {mask} .", facts=7, dev=4),
        job(model, "P30", "{subject} [P] {mask}", facts=3, dev=5),
        job(model, "P36", "the capital of {subject} is [P*2] {mask} [P*4]", facts=11, dev=6),
    ]


def without_dropout(model: PromptedModel) -> PromptedModel:
    for module in model.network.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return model


def assert_equal_results(ours: TrainingResult, other: TrainingResult, *, tolerance: float) -> None:
    assert ours.best_epoch == other.best_epoch
    assert len(ours.history) == len(other.history)
    for mine, theirs in zip(ours.history, other.history, strict=True):
        assert mine.epoch == theirs.epoch
        assert mine.train_loss == pytest.approx(theirs.train_loss, abs=tolerance)
        assert mine.dev_loss == pytest.approx(theirs.dev_loss, abs=tolerance)
        assert mine.dev_score == pytest.approx(theirs.dev_score, abs=1e-9)
    if ours.vectors is None or other.vectors is None:
        assert ours.vectors is other.vectors
    else:
        torch.testing.assert_close(ours.vectors, other.vectors, rtol=0, atol=tolerance)


# Epochs of so many steps


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_epochs_of_so_many_steps_take_the_steps_of_whole_passes(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    """Seven examples by threes are three steps a pass; 12 steps are four passes."""
    jobs = [job(tiny_models[family], facts=7)]
    common: dict[str, Any] = {"score": latest, "batch_size": 3}
    (whole,) = run(tiny_models[family], jobs, epochs=4, **common).values()
    for steps, epochs in ((3, 4), (4, 3), (6, 2), (12, 1), (1, 12)):
        (cut,) = run(
            tiny_models[family], jobs, epochs=epochs, steps_per_epoch=steps, **common
        ).values()
        assert [record.epoch for record in cut.history] == list(range(epochs + 1))
        assert whole.vectors is not None
        assert cut.vectors is not None
        torch.testing.assert_close(cut.vectors, whole.vectors, rtol=0, atol=1e-5)
        # The loss of an epoch is the mean over the examples of its steps: 3, 3 and 1 in a pass.
        sizes = [(3, 3, 1)[step % 3] for step in range(12)]
        taken = [sum(sizes[steps * n : steps * (n + 1)]) for n in range(epochs)]
        losses = [record.train_loss or 0.0 for record in cut.history[1:]]
        total = sum(loss * n for loss, n in zip(losses, taken, strict=True)) / sum(taken)
        expected = sum(record.train_loss or 0.0 for record in whole.history[1:]) / 4
        assert total == pytest.approx(expected, abs=1e-5)


# Against a slow version


@pytest.mark.parametrize("family", ONE_OF_EACH)
@pytest.mark.parametrize("over_vocabulary", [True, False])
def test_a_step_equals_one_written_out_row_by_row(
    tiny_models: dict[str, PromptedModel], family: str, over_vocabulary: bool
) -> None:
    model = tiny_models[family]
    spelled = {"Paris": "_Paris", "Oslo": "_Oslo", "Lyon city": "_Lyon _city"}
    facts = make_facts(3)
    rows = [
        hand_row(family, model, f"P P {spelled[fact.sub_label]} _is _in P M P _ .")
        for fact in facts
    ]
    words = ids(family, model.codec, " ".join(f"_{word}" for word in VOCABULARY))
    places = [VOCABULARY.index(fact.obj_label) for fact in facts]
    encoder = encoder_of("lstm", 4, model, name="P17")
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    losses = []
    for row, place in zip(rows, places, strict=True):
        if over_vocabulary:
            losses.append(-slow_scores(model, row, torch_vectors(encoder))[words[place]])
        else:
            losses.append(-slow_scores(model, row, torch_vectors(encoder), words)[place])
    loss = torch.stack(losses).mean()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
    optimizer.step()

    trained = run(
        model,
        [job(model, facts=3, dev=3)],
        score=latest,
        open_vocabulary=over_vocabulary,
        epochs=1,
    )["P17"]

    assert trained.history[1].train_loss == pytest.approx(loss.item(), abs=1e-4)
    assert trained.vectors is not None
    torch.testing.assert_close(trained.vectors, torch_vectors(encoder).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_steps_of_unequal_size_each_follow_the_mean_of_their_examples(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    """The same fact five times in steps of two: each of the three steps has that fact's loss."""
    model = tiny_models[family]
    facts = [Fact("P17", "Paris", "France")] * 5
    template = parse_template("{subject} is [P] {mask}", ["subject"])
    five = fact_job(model, "five", template, {"train": facts, "dev": facts}, VOCABULARY)
    row = hand_row(family, model, "^Paris _is P M")
    target = ids(family, model.codec, "_France")[0]
    encoder = encoder_of("mlp", 1, model, name="five")
    optimizer = torch.optim.Adam(encoder.parameters(), lr=1e-2)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = -slow_scores(model, row, torch_vectors(encoder))[target]
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())

    trained = run(
        model,
        [five],
        score=latest,
        encoder="mlp",
        epochs=1,
        batch_size=2,
    )["five"]

    # Two examples see the first loss, two the second, one the third.
    mean = (2 * losses[0] + 2 * losses[1] + losses[2]) / 5
    assert trained.history[1].train_loss == pytest.approx(mean, abs=1e-4)
    assert trained.vectors is not None
    torch.testing.assert_close(trained.vectors, torch_vectors(encoder).detach(), rtol=0, atol=1e-5)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_dev_is_scored_as_by_one_row_at_a_time(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    asked = job(model)
    encoder = encoder_of("lstm", 4, model, name="P17")
    with torch.no_grad():
        slow = torch.stack(
            [
                slow_scores(model, row, torch_vectors(encoder), asked.dev.word_ids)
                for row in asked.dev.rows
            ]
        )
    right = [float(scores[target]) for scores, target in zip(slow, asked.dev.targets, strict=True)]
    given = []

    def score(answers: Tensor, targets: Tensor) -> float:
        given.append((answers, targets))
        return 0.25

    record = run(model, [asked], score=score, epochs=0)["P17"].history[0]

    assert torch.equal(given[0][0], slow.argmax(dim=1))
    assert torch.equal(given[0][1], asked.dev.targets)
    assert record.dev_loss == pytest.approx(-sum(right) / len(right), abs=1e-4)
    assert record == EpochRecord(0, None, record.dev_loss, 0.25)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "layout", ["[P*2] {subject} is in [P] {mask} [P] .", "paper-v2", "released-code"]
)
def test_loss_and_score_read_the_same_position(
    tiny_models: dict[str, PromptedModel], family: str, layout: str
) -> None:
    model = tiny_models[family]
    manual = manual_template("[X] is located in [Y] .")
    asked = job(model, source=apply_layout(layout, manual, masked=model.masked).source, facts=6)
    history = run(
        model,
        [replace(asked, dev=asked.train)],
        open_vocabulary=False,
        epochs=1,
        batch_size=6,
    )["P17"].history
    assert history[1].train_loss == pytest.approx(history[0].dev_loss, abs=1e-5)
    assert history[1].dev_loss != pytest.approx(history[0].dev_loss, abs=1e-3)


# What must not matter

TOGETHER = {
    "epochs": 4,
    "patience": 2,
    "prompt_optimizer": changed(ADAM, schedule="linear", warmup_ratio=0.2, weight_decay=0.01),
}


# Name, template, numbers of train and dev facts, dev scores of the epochs. The last score that is
# reached with a patience of 2, and the best epoch, differ from job to job.
BANK: list[tuple[str, str, int, int, list[float]]] = [
    ("P17", "[P*3] {subject} is located in [P*3] {mask} [P*3] .", 7, 4, [0.1, 0.4, 0.3, 0.3]),
    ("P30", "{subject} [P] {mask}", 3, 5, [0.1, 0.2, 0.1, 0.3, 0.3]),
    ("P36", "the capital of {subject} is [P*2] {mask} [P*4]", 11, 6, [0.1, 0.2, 0.3, 0.2, 0.1]),
    ("P47", "[P*3] {subject} [P*3] {mask} [P*3]", 1, 7, [0.5, 0.4, 0.4]),
    ("P101", "[P*9] {subject} {mask}", 5, 8, [0.0, 0.0, 0.0, 0.0, 0.0]),
    ("P1001", "[P] {subject} is a city in the capital of [P] {mask} .", 9, 9, [0.9, 0.1, 0.1]),
    ("P103", "{subject} is [P*5] {mask}", 4, 10, [0.1, 0.2, 0.1, 0.2, 0.1]),
    ("P1376", "[P*2] {subject} , [P*2] {mask} [P] .", 6, 11, [0.1, 0.9, 0.1, 0.1]),
]
BEST = {"P17": 1, "P30": 4, "P36": 2, "P47": 0, "P101": 4, "P1001": 0, "P103": 3, "P1376": 1}
CHUNKS = [(1, 1), (200, -1), (10_000, 1)]  # tokens in a pass, order of the jobs


@pytest.mark.parametrize("family", ONE_OF_EACH)
@pytest.mark.parametrize(
    ("encoder", "seed", "dropout"),
    [("lstm", 0, 0.0), ("lstm", 34, 0.2), ("mlp", 34, 0.2), ("embedding", 34, 0.0)],
)
def test_a_bank_of_many_relations_ends_as_each_alone(
    tiny_models: dict[str, PromptedModel], family: str, encoder: str, seed: int, dropout: float
) -> None:
    """Over a whole training, whatever the order of relations and the tokens of a pass."""
    model = tiny_models[family]
    jobs = [job(model, n, source, facts=f, dev=d) for n, source, f, d, _ in BANK]
    scores = {f"dev_{dev}": values for _, _, _, dev, values in BANK}
    settings = TOGETHER | {"encoder": encoder, "seed": seed, "dropout": dropout}
    alone = {
        one.name: run(model, [one], score=scripted(**scores), **settings)[one.name] for one in jobs
    }
    starts = run(model, jobs, **settings | {"epochs": 0})
    for name, result in alone.items():
        moved = result.vectors - starts[name].vectors  # type: ignore[operator]
        assert (moved.abs().max().item() > 1e-2) == (BEST[name] > 0)
    assert {name: result.best_epoch for name, result in alone.items()} == BEST
    assert [len(result.history) for result in alone.values()] == [len(row[-1]) for row in BANK]
    for max_tokens_per_forward, order in CHUNKS:
        together = run(
            model,
            jobs[::order],
            score=scripted(**scores),
            max_tokens_per_forward=max_tokens_per_forward,
            **settings,
        )
        assert list(together) == [one.name for one in jobs[::order]]
        for name, result in together.items():
            assert_equal_results(result, alone[name], tolerance=1e-4)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_jobs_with_their_own_words_train_together_as_each_alone(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    jobs = [
        job(model, "P17", words=VOCABULARY),
        job(model, "P30", words=[*reversed(VOCABULARY), "yes", "no"]),
    ]
    settings: dict[str, Any] = {"score": latest, "open_vocabulary": False}
    together = run(model, jobs, **settings)
    for one in jobs:
        alone = run(model, [one], **settings)
        assert_equal_results(together[one.name], alone[one.name], tolerance=1e-4)


@pytest.mark.parametrize("family", ["albert", "llama", "bert"])
def test_tokens_per_pass_change_nothing_where_the_model_is_tuned(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    """The configuration of bert has dropout, those of albert and llama have none."""
    results = []
    for max_tokens_per_forward in (100, 2):
        model = load_model(tiny_folders[family], device="cpu")
        results.append(
            run(
                model,
                [job(model, facts=12)],
                score=latest,
                batch_size=6,
                model_optimizer=changed(ADAM, learning_rate=1e-3),
                best_checkpoint_path=tmp_path / "weights.safetensors",
                max_tokens_per_forward=max_tokens_per_forward,
            )["P17"]
        )
    assert_equal_results(*results, tolerance=1e-3)


@pytest.mark.parametrize("family", ["albert", "llama"])
@pytest.mark.parametrize("encoder", [None, "lstm"])
def test_passes_that_share_a_step_add_up_to_it(
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    family: str,
    encoder: str | None,
) -> None:
    """Eleven facts in steps of six: the last step has five."""
    asked: list[int] = []
    real = loop.score_batch

    def watched(*given: Any) -> Tensor:
        if torch.is_grad_enabled():  # of training, not of dev
            asked.append(len(given[1].choices))
        return real(*given)

    monkeypatch.setattr(loop, "score_batch", watched)
    results = []
    for passes, sizes in [(1, [6, 5]), (2, [3, 3, 3, 2]), (6, [1] * 11)]:
        model = load_model(tiny_folders[family], device="cpu")
        asked.clear()
        results.append(
            run(
                model,
                [job(model, facts=11, source="[P] {subject} is {mask}")],
                score=latest,
                epochs=1,
                batch_size=6,
                gradient_accumulation_steps=passes,
                encoder=encoder,
                model_optimizer=changed(ADAM, learning_rate=1e-3),
                best_checkpoint_path=tmp_path / f"{passes}.safetensors",
            )["P17"]
        )
        assert asked == sizes
        weights = load_file(tmp_path / f"{passes}.safetensors")
        for name, weight in load_file(tmp_path / "1.safetensors").items():
            if name.endswith("key.bias"):
                continue  # its gradient is rounding alone, which Adam magnifies
            torch.testing.assert_close(weights[name], weight, rtol=1e-3, atol=1e-4)
    assert_equal_results(results[0], results[1], tolerance=1e-3)
    assert_equal_results(results[0], results[2], tolerance=1e-3)


def test_each_pass_of_a_step_has_its_own_dropout(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    """The same fact twice in a step: its two losses differ, in the same way in every run."""
    losses = []
    for passes in (1, 2, 2):
        model = load_model(tiny_folders["bert"], device="cpu")
        template = parse_template("{subject} is {mask}", ["subject"])
        facts = [Fact("P17", "Paris", "France")] * 2
        two = fact_job(model, "two", template, {"train": facts, "dev": facts}, VOCABULARY)
        record = run(
            model,
            [two],
            score=latest,
            epochs=1,
            batch_size=2,
            gradient_accumulation_steps=passes,
            encoder=None,
            model_optimizer=ADAM,
            best_checkpoint_path=tmp_path / "weights.safetensors",
        )["two"].history[1]
        losses.append(record.train_loss)
    assert losses[1] == losses[2]
    assert losses[0] != losses[1]


def test_jobs_of_another_name_or_seed_start_and_shuffle_differently(
    tiny_models: dict[str, PromptedModel],
) -> None:
    model = tiny_models["bert"]
    first = run(model, [job(model)])["P17"].vectors
    named = run(model, [job(model, "P30")])["P30"].vectors
    seeded = run(model, [job(model)], seed=SEED + 1)["P17"].vectors
    assert first is not None
    assert named is not None
    assert seeded is not None
    assert not torch.allclose(first, named, atol=1e-2)
    assert not torch.allclose(first, seeded, atol=1e-2)


# The work of a step


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """The operations of each step, and of each dev round."""
    found: dict[str, list[int]] = {"_step": [], "score_dev": []}
    for name, counts in found.items():
        real = getattr(loop._Bank, name)

        def watched(*given: Any, real: Any = real, counts: list[int] = counts) -> Any:
            with Operations() as operations:
                result = real(*given)
            counts.append(operations.counts.total())
            return result

        monkeypatch.setattr(loop._Bank, name, watched)
    return found


def equal_jobs(model: PromptedModel, count: int) -> list[TrainingJob]:
    source = "[P*3] {subject} is [P*3] {mask} [P*3]"
    return [job(model, f"P{n}", source, facts=3, dev=4) for n in range(count)]


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_many_relations_take_as_many_operations_as_one(
    tiny_models: dict[str, PromptedModel], family: str, counted: dict[str, list[int]]
) -> None:
    model = tiny_models[family]
    operations = {}
    for relations in (1, 41):
        jobs = equal_jobs(model, relations)
        run(model, jobs, score=latest, epochs=2, max_tokens_per_forward=10**6)
        operations[relations] = {name: max(counts) for name, counts in counted.items()}
        for counts in counted.values():
            counts.clear()
    for name, most in operations[41].items():
        assert most <= 1.2 * operations[1][name]
    assert 300 < operations[41]["_step"] <= 800


READS = ("cpu", "item", "tolist", "to", "numpy", "__bool__", "__float__", "__int__")


@pytest.mark.parametrize("encoder", ["lstm", "embedding"])
@pytest.mark.parametrize("dropout", [0.0, 0.1])
def test_no_step_waits_for_the_device(
    tiny_models: dict[str, PromptedModel],
    monkeypatch: pytest.MonkeyPatch,
    encoder: str,
    dropout: float,
) -> None:
    """A step reads no number and moves no tensor; an epoch moves its passes, and reads once."""
    within: list[str] = []
    stepping = [False]
    for name in READS:
        real = getattr(torch.Tensor, name)

        def watched(*given: Any, name: str = name, real: Any = real, **options: Any) -> Any:
            caller = sys._getframe(1).f_code.co_filename
            if name == "to" and isinstance(given[1], torch.dtype):
                return real(*given, **options)
            if stepping[0] and f"{os.sep}pipeline{os.sep}" in caller:
                within.append(name)
            return real(*given, **options)

        monkeypatch.setattr(torch.Tensor, name, watched)
    step, read, moved = loop._Bank._step, loop._Bank._read, packing.to_device
    reads: list[int] = []
    moves: list[int] = []

    def watched_step(*given: Any) -> None:
        stepping[0] = True
        step(*given)
        stepping[0] = False

    monkeypatch.setattr(loop._Bank, "_step", watched_step)
    monkeypatch.setattr(loop._Bank, "_read", lambda *given: (reads.append(1), read(*given))[1])
    monkeypatch.setattr(planning, "to_device", lambda *given: (moves.append(1), moved(*given))[1])
    model = tiny_models["gpt2"]
    run(model, three_jobs(model), epochs=3, encoder=encoder, dropout=dropout, score=latest)
    assert within == []
    # Epoch 0 moves dev, each other epoch its passes.
    assert (len(reads), len(moves)) == (4, 4)


def test_the_passes_of_an_epoch_have_few_shapes(
    tiny_models: dict[str, PromptedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models["gpt2"]
    shapes: list[tuple[int, ...]] = []
    real = loop._Bank._backward_pass

    def watched(bank: Any, each: Any, vectors: Any) -> Tensor:
        shapes.append(tuple(each.batch.tokens.shape))
        return real(bank, each, vectors)

    monkeypatch.setattr(loop._Bank, "_backward_pass", watched)
    jobs = [job(model, f"P{n}", "[P] {subject} is [P] {mask}", facts=5 + 3 * n) for n in range(9)]
    run(model, jobs, epochs=1, max_tokens_per_forward=60)
    assert len(shapes) > 10
    assert 1 < len(set(shapes)) <= 4


# Frozen and tuned


@pytest.fixture
def banks(monkeypatch: pytest.MonkeyPatch) -> list[EncoderBank]:
    """The encoders that training stacks, as they are while and after it trains."""
    made: list[EncoderBank] = []

    def make(*args: Any, **options: Any) -> EncoderBank:
        made.append(EncoderBank(*args, **options))
        return made[-1]

    monkeypatch.setattr(loop, "EncoderBank", make)
    return made


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoder", ["lstm", "mlp", "embedding"])
def test_a_frozen_model_stays_bit_equal_and_every_encoder_parameter_moves(
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    family: str,
    encoder: str,
    banks: list[EncoderBank],
) -> None:
    model = tiny_models[family]
    before = {name: w.clone() for name, w in model.network.state_dict().items()}
    starts: dict[str, Tensor] = {}

    def note(_: str, record: EpochRecord) -> None:
        if record.epoch == 0:
            starts.update({name: w.detach().clone() for name, w in banks[0].weights.items()})

    run(
        model,
        # A single prompt token would leave the LSTM's recurrent weights without a gradient.
        [one for one in three_jobs(model) if one.prompt_tokens > 1],
        epochs=1,
        encoder=encoder,
        on_epoch=note,
        best_checkpoint_path=tmp_path / "weights.safetensors",
    )

    assert all(torch.equal(w, before[n]) for n, w in model.network.state_dict().items())
    assert not model.network.training
    assert not list(tmp_path.iterdir())
    (bank,) = banks
    assert len(starts) == {"lstm": 13, "mlp": 5, "embedding": 1}[encoder]
    for name, weight in bank.weights.items():
        assert len(weight) == 2
        for now, start in zip(weight, starts[name], strict=True):
            assert not torch.equal(now, start), name


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoder", ["lstm", "mlp", "embedding"])
@pytest.mark.parametrize("layout", ["paper-v2", "released-code"])
def test_every_prompt_token_that_the_model_reads_moves(
    tiny_models: dict[str, PromptedModel], family: str, encoder: str, layout: str
) -> None:
    model = tiny_models[family]
    template = apply_layout(layout, manual_template("[X] is in [Y] ."), masked=model.masked)
    asked = job(model, source=template.source)
    settings: dict[str, Any] = {"encoder": encoder, "score": latest}

    start, end = (run(model, [asked], epochs=n, **settings)["P17"].vectors for n in (0, 1))

    assert start is not None
    assert end is not None
    moved = (start != end).any(dim=1).tolist()
    read = sorted({slot for row in asked.train.rows for slot in row.slots} - {-1})
    # A causal model never sees the last three of paper-v2; released-code has none there.
    assert len(read) == (9 if model.masked else 6)
    assert len(moved) == (6 if layout == "released-code" and not model.masked else 9)
    assert all(moved[slot] for slot in read)
    if encoder == "embedding":
        assert [slot for slot, has in enumerate(moved) if has] == read


@pytest.mark.parametrize("family", FAMILIES)
def test_the_weights_of_the_best_epoch_are_in_the_file(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    model = load_model(tiny_folders[family], device="cpu")
    start = {name: p.detach().clone() for name, p in model.network.named_parameters()}
    file = tmp_path / "weights.safetensors"
    asked = job(model, facts=8)

    trained = run(
        model,
        [asked],
        score=scripted(dev_4=[0.1, 0.2, 0.4, 0.3, 0.2]),
        epochs=4,
        model_optimizer=changed(ADAM, learning_rate=1e-3),
        best_checkpoint_path=file,
    )["P17"]

    assert trained.best_epoch == 2
    # Types of segments and the pooler are no part of an answer; keys' biases cancel out.
    moved = {n for n, w in load_file(file).items() if not torch.equal(w, start[n])}
    assert len(moved) > 0.8 * len(start)
    fresh = load_model(tiny_folders[family], device="cpu", weights=file)
    log_probs = score_examples(
        fresh, asked.dev.rows, trained.vectors, asked.dev.word_ids, max_tokens_per_forward=64
    )
    loss = float(torch.nn.functional.nll_loss(log_probs, asked.dev.targets))
    dev_losses = [record.dev_loss for record in trained.history]
    assert loss == pytest.approx(dev_losses[2], abs=1e-5)
    assert loss != pytest.approx(dev_losses[1], abs=1e-3)
    assert loss != pytest.approx(dev_losses[3], abs=1e-3)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_a_model_without_a_prompt_is_tuned_as_one_written_out(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    model, slow = (load_model(tiny_folders[family], device="cpu") for _ in range(2))
    without_dropout(model)
    without_dropout(slow)
    facts = [Fact("P17", "Paris", "France"), Fact("P17", "Oslo", "Norway")]
    template = parse_template("{subject} is {mask}", ["subject"])
    asked = fact_job(model, "tune", template, {"train": facts, "dev": facts}, VOCABULARY)
    rows = [hand_row(family, slow, f"^{name} _is M") for name in ("Paris", "Oslo")]
    words = ids(family, slow.codec, " ".join(f"_{word}" for word in VOCABULARY))
    loss = -(
        slow_scores(slow, rows[0], None, words)[0] + slow_scores(slow, rows[1], None, words)[1]
    )
    (loss / 2).backward()
    torch.nn.utils.clip_grad_norm_(slow.network.parameters(), 1.0)
    torch.optim.AdamW(slow.network.parameters(), lr=1e-2, weight_decay=0.0).step()
    with torch.no_grad():
        expected = torch.stack([slow_scores(slow, row, None, words) for row in rows])

    trained = run(
        model,
        [asked],
        score=latest,
        open_vocabulary=False,
        epochs=1,
        encoder=None,
        model_optimizer=changed(ADAM, optimizer="adamw"),
        best_checkpoint_path=tmp_path / "weights.safetensors",
    )["tune"]

    found = score_examples(
        model, asked.dev.rows, None, asked.dev.word_ids, max_tokens_per_forward=2
    )
    assert trained.vectors is None
    assert trained.history[1].train_loss == pytest.approx(loss.item() / 2, abs=1e-4)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_a_tuned_model_belongs_to_one_job(tiny_models: dict[str, PromptedModel]) -> None:
    model = tiny_models["bert"]
    with pytest.raises(ValueError, match="train the jobs one by one"):
        run(model, three_jobs(model), model_optimizer=ADAM)


# The best epoch


@pytest.mark.parametrize(
    ("scores", "patience", "best", "records"),
    [
        ([0.1, 0.3, 0.3, 0.2], 99, 2, 4),  # of equals the latest
        ([0.5, 0.4, 0.4, 0.4], 99, 0, 4),  # the prompt as it began
        ([0.5, 0.4, 0.4, 0.9], 2, 0, 3),  # stops before it would get better
        ([0.5, 0.4, 0.5, 0.4, 0.9], 2, 4, 5),  # as good as the best begins the count again
        ([0.5, 0.4, 0.45, 0.9], 2, 0, 3),  # better than the last is not better than the best
        ([0.5, 0.5, 0.5, 0.5], 1, 3, 4),
        ([0.5, 0.4, 0.9, 0.9], 1, 0, 2),
    ],
)
def test_dev_chooses_the_epoch_and_the_end(
    tiny_models: dict[str, PromptedModel],
    scores: list[float],
    patience: int,
    best: int,
    records: int,
) -> None:
    model = tiny_models["bert"]
    heard: list[EpochRecord] = []

    trained = run(
        model,
        [job(model)],
        score=scripted(dev_4=scores),
        epochs=len(scores) - 1,
        patience=patience,
        on_epoch=lambda _, record: heard.append(record),
    )["P17"]

    assert trained.best_epoch == best
    assert trained.best_score == scores[best]
    assert [record.dev_score for record in trained.history] == scores[:records]
    assert [record.epoch for record in trained.history] == list(range(records))
    assert heard == trained.history


@pytest.mark.parametrize("best", [0, 1, 2])
@pytest.mark.parametrize("encoder", ["lstm", "mlp", "embedding"])
def test_the_vectors_are_those_of_the_best_epoch(
    tiny_models: dict[str, PromptedModel], encoder: str, best: int
) -> None:
    model = tiny_models["bert"]
    asked = job(model)
    scores = [0.1, 0.1, 0.1, 0.1]
    scores[best] = 0.9

    trained = run(model, [asked], score=scripted(dev_4=scores), epochs=3, encoder=encoder)["P17"]

    until = run(model, [asked], score=latest, epochs=best, encoder=encoder)["P17"].vectors
    assert trained.best_epoch == best
    assert trained.vectors is not None
    assert until is not None
    assert torch.equal(trained.vectors, until)
    assert trained.vectors.dtype == torch.float32
    assert not trained.vectors.requires_grad
    log_probs = score_examples(
        model, asked.dev.rows, trained.vectors, asked.dev.word_ids, max_tokens_per_forward=64
    )
    losses = [record.dev_loss for record in trained.history]
    loss = torch.nn.functional.nll_loss(log_probs, asked.dev.targets).item()
    assert loss == pytest.approx(losses[best], abs=1e-5)
    assert len(set(losses)) == 4


@pytest.mark.parametrize("encoder", [None, "lstm"])
def test_without_epochs_dev_is_scored_and_nothing_trained(
    tiny_folders: dict[str, Path], tmp_path: Path, encoder: str | None
) -> None:
    model = load_model(tiny_folders["bert"], device="cpu")
    before = {name: w.clone() for name, w in model.network.state_dict().items()}
    asked = job(model) if encoder else job(model, source="{subject} is in {mask} .")

    trained = run(
        model,
        [asked],
        epochs=0,
        encoder=encoder,
        model_optimizer=ADAM,
        best_checkpoint_path=tmp_path / "weights.safetensors",
    )["P17"]

    assert trained.best_epoch == 0
    assert [record.train_loss for record in trained.history] == [None]
    assert not list(tmp_path.iterdir())
    assert all(torch.equal(w, before[n]) for n, w in model.network.state_dict().items())
    if encoder is None:
        assert trained.vectors is None
    else:
        start = encoder_of(encoder, 4, model, name="P17")
        assert trained.vectors is not None
        torch.testing.assert_close(trained.vectors, torch_vectors(start).detach())


# Same in, same out


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_two_runs_are_bit_identical(tiny_models: dict[str, PromptedModel], family: str) -> None:
    model = tiny_models[family]
    torch.manual_seed(1)
    first = run(model, three_jobs(model), dropout=0.2)
    torch.manual_seed(2)
    second = run(model, three_jobs(model), dropout=0.2)
    for name, result in first.items():
        other = second[name]
        assert result.history == other.history
        assert result.vectors is not None
        assert other.vectors is not None
        assert torch.equal(result.vectors, other.vectors)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_two_runs_that_tune_the_model_write_the_same_bytes(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str
) -> None:
    files = [tmp_path / "first.safetensors", tmp_path / "second.safetensors"]
    histories = []
    for number, file in enumerate(files):
        torch.manual_seed(number)
        model = load_model(tiny_folders[family], device="cpu")
        trained = run(
            model, [job(model)], dropout=0.2, model_optimizer=ADAM, best_checkpoint_path=file
        )
        histories.append(trained["P17"].history)
    assert histories[0] == histories[1]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_global_random_state_stays_as_it_is(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = load_model(tiny_folders["bert"], device="cpu")
    torch.manual_seed(5)
    before = torch.get_rng_state()
    run(
        model,
        [job(model)],
        dropout=0.2,
        encoder="embedding",
        model_optimizer=ADAM,
        best_checkpoint_path=tmp_path / "weights.safetensors",
    )
    assert torch.equal(torch.get_rng_state(), before)


# It learns


def rte_examples() -> list[Example]:
    """Sixteen examples in RTE's schema, half of each label."""
    cities = [("Paris", "France", "Europe"), ("Oslo", "Norway", "Europe"),
              ("Lyon", "France", "Europe"), ("a city", "Japan", "Asia")]  # fmt: skip
    examples = []
    for city, country, continent in cities:
        other = ("Norway", "Asia") if country == "France" else ("France", "Asia")
        if country == "Japan":
            other = ("Norway", "Europe")
        for place in (country, continent, *other):
            label = "entailment" if place in (country, continent) else "not_entailment"
            values = {
                "premise": f"{city} is located in {country}, in {continent}.",
                "hypothesis": f"{city} is in {place}",
            }
            examples.append(Example(str(len(examples)), values, label))
    return examples


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize(
    ("method", "dtype"),
    [("manual-fine-tuning", "float32"), ("p-tuning", "float32"), ("p-tuning", "mixed")],
)
def test_a_tuned_model_learns_sixteen_examples_by_heart(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str, method: str, dtype: str
) -> None:
    model = without_dropout(load_model(tiny_folders[family], device="cpu", dtype=dtype))
    task = get_task("rte")
    prompt = "[P] " if method == "p-tuning" else ""
    template = parse_template(
        f"{{premise:shorten}} Question: {{hypothesis}}? {prompt}Answer: {{mask}}.", task.fields
    )
    examples = rte_examples()
    file = tmp_path / "weights.safetensors"
    asked = make_job(
        model,
        task_trial(
            "rte",
            template,
            {"train": examples, "dev": examples},
            verbalizer={"entailment": "yes", "not_entailment": "no"},
        ),
    )
    adamw = changed(
        ADAM, optimizer="adamw", learning_rate=3e-3, schedule="linear", warmup_ratio=0.2
    )

    trained = run(
        model,
        [asked],
        open_vocabulary=False,
        epochs=60,
        batch_size=8,
        encoder="lstm" if prompt else None,
        prompt_optimizer=adamw,
        model_optimizer=adamw,
        best_checkpoint_path=file,
    )["rte"]

    assert len(examples) == 16
    assert trained.best_score >= 15 / 16
    fresh = load_model(tiny_folders[family], device="cpu", dtype=dtype, weights=file)
    assert accuracy_of(fresh, asked.dev, trained.vectors) == trained.best_score


def accuracy_of(model: PromptedModel, dataset: PromptDataset, vectors: Tensor | None) -> float:
    log_probs = score_examples(
        model, dataset.rows, vectors, dataset.word_ids, max_tokens_per_forward=5
    )
    return accuracy(log_probs.argmax(dim=1), dataset.targets)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_a_prompt_learns_facts_while_the_model_is_frozen(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    asked = job(model, facts=5)
    trained = run(
        model,
        [replace(asked, dev=asked.train)],
        epochs=40,
        prompt_optimizer=changed(ADAM, learning_rate=3e-2),
    )["P17"]
    losses = [record.train_loss for record in trained.history if record.train_loss is not None]
    assert losses[-1] < 0.5 * losses[0]
    assert trained.best_score > trained.history[0].dev_score


# Killed and resumed


class Killed(Exception):
    """In place of kill -9."""


class DyingCheckpoint(Checkpoint):
    """Saves at every step, and dies right before or after one of the saves."""

    def __init__(self, path: Path, *, dies_at: int, saved: bool) -> None:
        super().__init__(path, seconds=0.0)
        self._left, self._saved = dies_at, saved

    @property
    def due(self) -> bool:
        return True

    def save(self, state: dict[str, Any]) -> None:
        self._left -= 1
        if self._left < 0 and not self._saved:
            raise Killed
        super().save(state)
        if self._left < 0:
            raise Killed


@pytest.mark.parametrize("dies_at", range(0, 10, 2))
@pytest.mark.parametrize("saved", [True, False])
def test_a_killed_training_of_prompts_ends_as_an_undisturbed_one(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, dies_at: int, saved: bool
) -> None:
    model = tiny_models["bert"]
    settings = {"dropout": 0.3, "epochs": 3, "patience": 1}
    whole = run(model, three_jobs(model), **settings)
    path = tmp_path / "checkpoint.pt"
    seen: list[tuple[str, int]] = []

    def note(name: str, record: EpochRecord) -> None:
        seen.append((name, record.epoch))

    with pytest.raises(Killed):
        run(
            model, three_jobs(model), **settings, on_epoch=note,
            checkpoint=DyingCheckpoint(path, dies_at=dies_at, saved=saved),
        )  # fmt: skip
    again = run(
        model, three_jobs(model), **settings, on_epoch=note,
        checkpoint=Checkpoint(path, seconds=0.0),
    )  # fmt: skip
    for name, result in whole.items():
        assert again[name].history == result.history
        assert again[name].best_epoch == result.best_epoch
        assert torch.equal(again[name].vectors, result.vectors)  # type: ignore[arg-type]
    expected = {(name, r.epoch) for name, result in whole.items() for r in result.history}
    assert set(seen) == expected


@pytest.mark.parametrize("dies_at", [0, 1, 4, 6])
@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_a_killed_training_of_the_model_ends_as_an_undisturbed_one(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str, dies_at: int
) -> None:
    def tune(folder: Path, checkpoint: Checkpoint | None) -> dict[str, TrainingResult]:
        model = load_model(tiny_folders[family], tuned=True)
        folder.mkdir(exist_ok=True)
        return run(
            model, [job(model)], model_optimizer=changed(ADAM, learning_rate=1e-3),
            best_checkpoint_path=folder / "weights.safetensors", checkpoint=checkpoint, epochs=3,
        )  # fmt: skip

    whole = tune(tmp_path / "whole", None)["P17"]
    path = tmp_path / "checkpoint.pt"
    with pytest.raises(Killed):
        tune(tmp_path / "killed", DyingCheckpoint(path, dies_at=dies_at, saved=True))
    again = tune(tmp_path / "killed", Checkpoint(path, seconds=0.0))["P17"]
    assert again.history == whole.history
    assert torch.equal(again.vectors, whole.vectors)  # type: ignore[arg-type]
    name = "weights.safetensors"
    assert (tmp_path / "killed" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_the_weights_that_a_checkpoint_refers_to_are_not_overwritten(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    """A training that resumes elsewhere may score otherwise, and keep the checkpoint's epoch."""
    model = load_model(tiny_folders["bert"], tuned=True)
    path = tmp_path / "checkpoint.pt"
    first = tmp_path / "weights.1.safetensors"
    kept: list[bytes] = []

    def die_in_epoch_2(_: str, record: EpochRecord) -> None:
        if record.epoch == 1:
            kept.append(first.read_bytes())
        if record.epoch == 2:  # its weights are saved; no checkpoint has it
            raise Killed

    with pytest.raises(Killed):
        run(
            model, [job(model)], model_optimizer=ADAM, epochs=3, score=latest,
            best_checkpoint_path=tmp_path / "weights.safetensors",
            checkpoint=DyingCheckpoint(path, dies_at=99, saved=True), on_epoch=die_in_epoch_2,
        )  # fmt: skip
    assert torch.load(path, weights_only=True)["jobs"][0]["result"]["best_epoch"] == 1
    assert first.read_bytes() == kept[0]


def test_the_files_of_single_epochs_are_gone_at_the_end(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    model = load_model(tiny_folders["bert"], tuned=True)
    run(
        model, [job(model)], model_optimizer=ADAM, epochs=3,
        best_checkpoint_path=tmp_path / "weights.safetensors",
    )  # fmt: skip
    assert [file.name for file in tmp_path.iterdir()] == ["weights.safetensors"]


def test_steps_are_counted_over_all_epochs_also_after_a_kill(
    tiny_models: dict[str, PromptedModel], tmp_path: Path
) -> None:
    model, settings = tiny_models["bert"], {"epochs": 3, "patience": 9, "batch_size": 2}
    whole: list[tuple[int, int]] = []
    run(model, three_jobs(model), **settings, on_step=lambda *step: whole.append(step))
    total = whole[-1][1]
    assert whole == [(number, total) for number in range(1, total + 1)]
    resumed: list[tuple[int, int]] = []
    path = tmp_path / "checkpoint.pt"
    dying = DyingCheckpoint(path, dies_at=total // 2, saved=True)
    with pytest.raises(Killed):
        run(model, three_jobs(model), **settings, checkpoint=dying)
    run(
        model, three_jobs(model), **settings, checkpoint=Checkpoint(path, seconds=0.0),
        on_step=lambda *step: resumed.append(step),
    )  # fmt: skip
    assert 0 < len(resumed) < total
    assert resumed == whole[-len(resumed) :]


def test_a_finished_training_is_not_repeated(
    tiny_models: dict[str, PromptedModel], tmp_path: Path
) -> None:
    model = tiny_models["bert"]
    path = tmp_path / "checkpoint.pt"
    first = run(model, three_jobs(model), checkpoint=Checkpoint(path, seconds=0.0))

    def refuse(*_: object) -> None:
        raise AssertionError("an epoch was run")

    again = run(model, three_jobs(model), checkpoint=Checkpoint(path, seconds=0.0), on_epoch=refuse)
    for name, result in first.items():
        assert again[name].history == result.history
        assert torch.equal(again[name].vectors, result.vectors)  # type: ignore[arg-type]


# Losses that are not finite

HUGE = changed(ADAM, learning_rate=0.9, max_grad_norm=None)
TRIAL = rf"P17/setting-1/split-1/seed-{SEED}"


@pytest.mark.parametrize("family", ONE_OF_EACH)
@pytest.mark.parametrize(("batch_size", "place"), [(2, "train, step 2"), (5, "dev")])
def test_a_training_that_diverges_is_an_error_with_its_trial_epoch_and_step(
    tiny_models: dict[str, PromptedModel],
    family: str,
    batch_size: int,
    place: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    diverge_above(monkeypatch, 0.5)
    model, seen = tiny_models[family], []
    with pytest.raises(ModelError) as caught:
        run(
            model,
            [job(model)],
            encoder="embedding",
            batch_size=batch_size,
            prompt_optimizer=HUGE,
            on_epoch=lambda _, record: seen.append(record.epoch),
        )
    assert str(caught.value) == (
        f"{TRIAL}: epoch 1, {place}: the loss is not finite: training diverged; lower "
        "prompt.learning_rate (now 0.9) or set prompt.max_grad_norm (now null)"
    )
    assert seen == [0]


def test_the_trials_whose_losses_are_not_finite_first_are_named(
    tiny_models: dict[str, PromptedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge_above(monkeypatch, 0.5)
    model = tiny_models["bert"]
    with pytest.raises(ModelError, match=f"^{TRIAL} and 1 more: epoch 1, train, step 2: "):
        run(model, three_jobs(model), encoder="embedding", batch_size=2, prompt_optimizer=HUGE)


@pytest.mark.parametrize("family", ONE_OF_EACH)
def test_a_model_with_nan_is_distinguished_from_a_high_learning_rate(
    tiny_folders: dict[str, Path], family: str
) -> None:
    for word, place in (("Lyon", "epoch 0, dev"), ("Oslo", r"epoch 1, train, step \d")):
        model = load_broken(tiny_folders[family], word)  # dev has no Oslo
        with pytest.raises(ModelError, match=f"^{TRIAL}: {place}: .* weights contain NaN"):
            run(model, [job(model)])


def test_a_tuned_model_that_diverges_leaves_the_weights_of_the_best_epoch(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge_above(monkeypatch, 0.5)
    model = load_model(tiny_folders["bert"], device="cpu")
    path = tmp_path / "weights.safetensors"
    with pytest.raises(ModelError, match=r"epoch 1, .*lower model\.learning_rate \(now 0\.9\)"):
        run(
            model,
            [job(model, source="{subject} is in {mask}")],
            encoder=None,
            model_optimizer=HUGE,
            score=latest,
            best_checkpoint_path=path,
        )
    best = load_file(tmp_path / "weights.0.safetensors")
    assert all(weight.isfinite().all() for weight in best.values())
