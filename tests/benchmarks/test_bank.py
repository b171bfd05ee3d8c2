"""The methods that the benchmark compares, on tiny models, and what it writes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import bank, machine, peft_trainer, readme
from benchmarks.bank import Work, differences
from benchmarks.facts import IN_FRONT, Sizes, allowed_words, make_relations
from benchmarks.machine import DEV, PHASES, STEP, TEST, Meter
from pipeline.models.language_model import PromptedModel
from pipeline.models.linear import torch_layers
from pipeline.training.loop import TrainingResult
from tests.jobs import method

FAMILIES = ("bert", "gpt2", "llama")
SMALL = "--device cpu --relations 3 --plain-relations 2 --facts 4 --dev 2 --test 2 --batch 2"

needs_peft = pytest.mark.skipif(
    not peft_trainer.installed(), reason=f"needs peft: {peft_trainer.INSTALL}"
)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """One thread for tiny tensors, and small matrices to find the peak with."""
    monkeypatch.setattr(machine, "_SIDE", {"cpu": 64})
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def fast_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    """Large steps, so that results that should differ do, and the best epoch is not always 0."""
    changes = {"learning_rate": 1e-2, "decay_per_epoch": 0.9}
    monkeypatch.setattr(bank, "OPTIMIZER", bank.OPTIMIZER.model_copy(update=changes))


def work(
    model: PromptedModel, *, relations: int = 3, seed: int = 5, layout: str = "paper-v2"
) -> Work:
    """Steps of unequal size and several passes over dev."""
    config = method(batch_size=3, prompt_optimizer=bank.OPTIMIZER)
    sizes = Sizes(relations, facts=5, dev=5, test=3)
    words = allowed_words(model, 12)
    made = make_relations(model, config, layout, sizes, words, seed=seed)
    return Work(model, config, made, tested=relations)


def train_bank(work: Work, *, epochs: int = 2) -> dict[str, TrainingResult]:
    config = work.config.model_copy(update={"epochs": epochs})
    changed = replace(work, config=config)
    results: dict[str, TrainingResult] = Meter(work.model.network).measure(
        lambda meter: changed.bank(meter, max_tokens=40)
    )
    return results


def train_plain(work: Work) -> dict[str, TrainingResult]:
    results: dict[str, TrainingResult] = Meter(work.model.network).measure(work.plain)
    return results


def run(tmp_path: Path, *arguments: str) -> Any:
    bank.main([*SMALL.split(), "--repeats", "2", *arguments, "--output", str(tmp_path)])
    (path,) = tmp_path.glob("bank-*.json")
    return json.loads(path.read_text())


def assert_alike(ours: dict[str, TrainingResult], theirs: dict[str, TrainingResult]) -> None:
    for name, mine in ours.items():
        other = theirs[name]
        assert mine.best_epoch == other.best_epoch
        assert mine.vectors is not None
        assert other.vectors is not None
        torch.testing.assert_close(mine.vectors, other.vectors, rtol=0, atol=1e-4)
        assert len(mine.history) == len(other.history) == 3
        for one, two in zip(mine.history, other.history, strict=True):
            assert one.epoch == two.epoch
            assert one.dev_score == two.dev_score
            assert one.dev_loss == pytest.approx(two.dev_loss, abs=1e-4)
            assert one.train_loss == pytest.approx(two.train_loss, abs=1e-4)


@pytest.mark.parametrize("layout", ["paper-v2", IN_FRONT])
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("fast_learning")
def test_the_plain_loop_ends_as_the_bank(
    tiny_models: dict[str, PromptedModel], family: str, layout: str
) -> None:
    asked = work(tiny_models[family], layout=layout)
    plain = train_plain(asked.first(2))
    assert list(plain) == ["R1", "R2"]
    together = train_bank(asked)
    assert_alike(plain, together)
    found = differences(plain, together, train_bank(asked, epochs=0))
    assert found["vectors_of_movement"] < 1e-3
    assert found["moved"] > 0.01
    losses = {record.dev_loss for result in plain.values() for record in result.history}
    assert len(losses) > 2


def test_results_that_differ_are_refused(tiny_models: dict[str, PromptedModel]) -> None:
    asked = work(tiny_models["bert"], relations=1)
    assert bank.compare(asked)["vectors"] < 1e-6
    with pytest.raises(RuntimeError, match="the plain loop differ"):
        bank.compare(asked, work(tiny_models["bert"], relations=1, seed=6))
    config = asked.config.model_copy(update={"epochs": 0})
    with pytest.raises(RuntimeError, match="nothing to compare"):
        bank.compare(replace(asked, config=config))


def test_phases_and_their_positions(tiny_models: dict[str, PromptedModel]) -> None:
    asked = work(tiny_models["bert"])
    meter = Meter(asked.model.network)
    with meter:
        meter.measure(asked.plain)
    rows = [each.test.rows for each in asked.relations]
    # Three rows of each relation are one batch, padded to its longest.
    padded = sum(3 * max(len(row.rows[0].token_ids) for row in own) for own in rows)
    assert (meter.costs[TEST].positions, meter.costs[TEST].passes) == (padded, 3)
    assert meter.costs[STEP].passes == 3 * asked.steps == 3 * 4
    assert meter.costs[DEV].passes == 3 * 3 * 2
    for phase in PHASES:
        assert meter.costs[phase].seconds > 0
        assert meter.costs[phase].operations > 0
    assert meter.costs[STEP].flops > meter.costs[DEV].flops > meter.costs[TEST].flops > 0


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_products_are_counted_alike_in_layers_of_both_kinds(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    asked = work(tiny_models[family])
    run = partial(asked.bank, max_tokens=100)
    ours, theirs = Meter(asked.model.network), Meter(asked.model.network)
    with ours:
        ours.measure(run)
    with torch_layers(asked.model.network), theirs:
        theirs.measure(run)
    for phase in (STEP, DEV, TEST):
        assert ours.costs[phase].flops == theirs.costs[phase].flops > 0


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_rows_of_peft(tiny_models: dict[str, PromptedModel], family: str) -> None:
    model = tiny_models[family]
    (relation,) = work(model, layout=IN_FRONT, relations=1).relations
    data = relation.test
    for row, target, (token_ids, labels) in zip(
        data.rows, data.targets, peft_trainer._rows(data, model), strict=True
    ):
        answer = int(data.word_ids[target])
        (place,) = [n for n, label in enumerate(labels) if label >= 0]
        assert labels[place] == answer
        assert token_ids[place] == (model.codec.tokenizer.mask_token_id if model.masked else answer)
        assert len(token_ids) == len(row.rows[0].token_ids) - 9 + (not model.masked)


@needs_peft
@pytest.mark.parametrize("family", FAMILIES)
def test_peft_and_trainer_learn(tiny_models: dict[str, PromptedModel], family: str) -> None:
    asked = work(tiny_models[family], layout=IN_FRONT, relations=1)
    meter = Meter(asked.model.network)

    def loss(learning_rate: float) -> float:
        prompt = bank.OPTIMIZER.model_copy(update={"learning_rate": learning_rate})
        config = asked.config.model_copy(update={"prompt": prompt, "epochs": 20})
        found: float = meter.measure(
            lambda meter: peft_trainer.train_relation(
                asked.model, asked.relations[0], config, meter
            )
        )
        return found

    assert loss(1e-2) < loss(1e-9)
    assert meter.costs[STEP].passes == 2 * 20 * 2
    assert meter.costs[DEV].passes == 2 * 21 * 2
    assert meter.costs[TEST].passes == 2
    assert not asked.model.network.training


@pytest.mark.parametrize("with_peft", [pytest.param(True, marks=needs_peft), False])
def test_the_command_writes_what_the_readme_shows(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    with_peft: bool,
) -> None:
    monkeypatch.setattr(peft_trainer, "installed", lambda: with_peft)
    result = run(tmp_path, "--shape", "tiny-causal", "--max-tokens-per-forward", "20,80")

    assert result["command"].startswith("python -m benchmarks.bank --device cpu")
    others = [(bank.PLAIN, "paper-v2"), *[(bank.PEFT, IN_FRONT)] * with_peft]
    banks = [(layout, most) for layout in ("paper-v2", IN_FRONT) for most in (20, 80)]
    rows = result["rows"]
    named = [(row["method"], row["layout"]) for row in rows]
    assert named == [*others, *((bank.BANK, layout) for layout, _ in banks)]
    plain, whole = rows[0], rows[-1]
    assert (plain["phases"][STEP]["units"], whole["phases"][STEP]["units"]) == (8, 12)
    assert (plain["timed_steps"], whole["timed_steps"]) == (8, 4)
    step = plain["phases"][STEP]
    assert step["lowest"] <= step["milliseconds"] <= step["highest"]
    assert len(step["seconds"]) == len(whole["phases"][STEP]["seconds"]) == 2
    assert step["positions_per_unit"] >= 10
    assert 0 < whole["share_of_matmul"] < 1
    assert result["operations_of_one_relation"] > 0
    ratios = [(each["of"], each["to"], each["layout"]) for each in result["ratios"]]
    assert ratios[:2] == [(bank.BANK, bank.PLAIN, "paper-v2")] * 2
    assert len(ratios) == 2 + 4 * with_peft
    found = result["ratios"][0][result["clock"]]
    shown = capsys.readouterr().out
    assert f"**{found['median']:.2f}** ({found['lowest']:.2f} to {found['highest']:.2f})" in shown
    assert (peft_trainer.INSTALL in shown) is not with_peft


def test_a_models_folder_appears_by_its_name(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    folder = tiny_folders["llama"]
    result = run(tmp_path, "--model", str(folder), "--words", "5")
    assert str(folder.parent) not in json.dumps(result).replace(str(tmp_path), "")


def test_the_readme_shows_the_results_of_the_files() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_results(text, readme.read_results(bank.RESULTS)) == text
