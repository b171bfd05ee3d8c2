from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.evaluation.metrics import accuracy
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.models.scoring import predict
from pipeline.prompts.store import weights_file
from pipeline.tasks.lama import apply_layout, manual_template
from pipeline.training import units
from pipeline.training.loop import EpochRecord, Trained, TrainingJob, train
from pipeline.training.optimizers import OptimizerConfig
from pipeline.training.problems import lama_problem
from pipeline.training.units import train_units
from tests.worked import VOCABULARY, make_facts

ADAM = OptimizerConfig("adam", 1e-3, 0.0, "constant", 0.0, 1.0, None)
NAMES = ("P17", "P30", "P47", "P17/2", "P1001")


def make_problem(model: PromptedModel, name: str, layout: str) -> TrainingJob:
    place = NAMES.index(name)
    template = apply_layout(layout, manual_template("[X] is in [Y] ."), masked=model.masked)
    facts = {"train": make_facts(4 + place), "dev": make_facts(5, start=place)}
    return lama_problem(model, name, template, facts, VOCABULARY)


def settings(**changes: Any) -> dict[str, Any]:
    return {
        "score": accuracy,
        "loss_over_vocabulary": True,
        "epochs": 2,
        "batch": 3,
        "gradient_accumulation_steps": 1,
        "patience": 9,
        "encoder": "mlp",
        "dropout": 0.0,
        "prompt_optimizer": ADAM,
        "model_optimizer": None,
        "max_rows_per_forward": 16,
        "seed": 3,
        "on_epoch": lambda _: None,
    } | changes


def no_model() -> PromptedModel:
    raise AssertionError("a frozen model is loaded once")


def hold(monkeypatch: pytest.MonkeyPatch, prompts: int) -> None:
    """Let so many prompts fit in memory."""
    monkeypatch.setattr(units, "estimate_bank_size", lambda *_: prompts)


def assert_same(ours: Trained, other: Trained) -> None:
    assert ours.best_epoch == other.best_epoch
    assert [r.dev_score for r in ours.history] == [r.dev_score for r in other.history]
    assert ours.vectors is not None
    assert other.vectors is not None
    torch.testing.assert_close(ours.vectors, other.vectors, rtol=0, atol=1e-4)


@pytest.mark.parametrize("fitting", [1, 2, 5, 99])
def test_banks_of_any_size_give_the_same_prompts(
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fitting: int,
) -> None:
    model = tiny_models["bert"]
    problems = [make_problem(model, name, "paper-v2") for name in NAMES]
    expected = train(
        model, problems, best_checkpoint_path=tmp_path / "none", checkpoint=None, **settings()
    )
    sizes = []

    def watched(model: PromptedModel, unit: list[TrainingJob], **more: Any) -> dict[str, Trained]:
        sizes.append(len(unit))
        return train(model, unit, **more)

    hold(monkeypatch, fitting)
    monkeypatch.setattr(units, "train", watched)
    found = train_units(
        model, problems, load=no_model, folder=tmp_path, checkpoint_seconds=30, **settings()
    )

    assert sizes == {1: [1] * 5, 2: [2, 2, 1], 5: [5], 99: [5]}[fitting]
    assert list(found) == list(NAMES)
    for name in NAMES:
        assert_same(found[name], expected[name])
    assert not list(tmp_path.rglob("*.safetensors"))


def test_prompts_that_are_not_trained_are_scored_in_one_go(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models["gpt2"]
    monkeypatch.setattr(units, "estimate_bank_size", lambda *_: pytest.fail("no encoder to count"))
    problems = [make_problem(model, name, "manual") for name in NAMES]
    options = settings(encoder=None, prompt_optimizer=None, epochs=0)
    found = train_units(
        model, problems, load=no_model, folder=tmp_path, checkpoint_seconds=30, **options
    )
    assert {name: len(one.history) for name, one in found.items()} == dict.fromkeys(NAMES, 1)
    assert all(one.vectors is None for one in found.values())


def test_the_longest_prompt_decides_how_many_fit(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_models["bert"]
    asked = []

    def noted(model: PromptedModel, encoder: str, tokens: int) -> int:
        asked.append((encoder, tokens))
        return 9

    monkeypatch.setattr(units, "estimate_bank_size", noted)
    layouts = {"P17": "[P*2] {subject} {mask}", "P30": "paper-v2", "P47": "[P] {subject} {mask}"}
    problems = [make_problem(model, name, layout) for name, layout in layouts.items()]
    train_units(
        model, problems, load=no_model, folder=tmp_path, checkpoint_seconds=30,
        **settings(epochs=1),
    )  # fmt: skip
    assert asked == [("mlp", 9)]


def test_without_problems_nothing_is_trained(
    tiny_models: dict[str, PromptedModel], tmp_path: Path
) -> None:
    for encoder in ("lstm", None):
        found = train_units(
            tiny_models["bert"], [], load=no_model, folder=tmp_path, checkpoint_seconds=30,
            **settings(encoder=encoder),
        )  # fmt: skip
        assert found == {}


TUNED: dict[str, dict[str, Any]] = {
    "fine-tuning": {"encoder": None, "prompt_optimizer": None, "model_optimizer": ADAM},
    "p-tuning": {"encoder": "lstm", "model_optimizer": ADAM},
}
LAYOUT = {"fine-tuning": "{subject} {mask}", "p-tuning": "paper-v2"}


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("method", TUNED)
def test_each_relation_gets_a_model_of_its_own_that_starts_afresh(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str, method: str
) -> None:
    """Also where prompt and model are tuned together."""

    def load() -> PromptedModel:
        return load_model(tiny_folders[family], device="cpu", tuned=True)

    first = load()
    names = ("P17", "P17/2", "P1001")
    problems = {name: make_problem(first, name, LAYOUT[method]) for name in names}
    options = settings(**TUNED[method])
    start = {name: p.detach().clone() for name, p in first.network.named_parameters()}

    found = train_units(
        first, list(problems.values()), load=load, folder=tmp_path, checkpoint_seconds=30, **options
    )

    assert sorted(path.name for path in (tmp_path / "weights").iterdir()) == [
        "P1001.safetensors", "P17-2.safetensors", "P17.safetensors",
    ]  # fmt: skip
    for name, one in problems.items():
        alone = tmp_path / "alone.safetensors"
        expected = train(load(), [one], best_checkpoint_path=alone, checkpoint=None, **options)[
            name
        ]
        assert found[name].history == expected.history
        assert weights_file(tmp_path, name).read_bytes() == alone.read_bytes()
        # What evaluation finds: the weights of the file with the vectors of the same epoch.
        fresh = load_model(tiny_folders[family], device="cpu", weights=weights_file(tmp_path, name))
        dev = one.dev
        log_probs = predict(
            fresh, dev.rows, found[name].vectors, dev.word_ids, max_rows_per_forward=16
        )
        assert accuracy(log_probs, dev.targets) == found[name].best_score
        loss = float(torch.nn.functional.nll_loss(log_probs, dev.targets))
        best = found[name].history[found[name].best_epoch]
        assert loss == pytest.approx(best.dev_loss, abs=1e-5)
        if found[name].best_epoch:
            tuned = dict(fresh.network.named_parameters())
            assert not all(torch.equal(tuned[key], weight) for key, weight in start.items())


class Killed(Exception):
    """Stands for kill -9."""


def dying(after: int) -> Callable[[EpochRecord], None]:
    heard = []

    def hear(record: EpochRecord) -> None:
        heard.append(record)
        if len(heard) == after:
            raise Killed

    return hear


@pytest.mark.parametrize("after", [1, 4, 7, 8])
def test_a_unit_that_is_done_is_not_repeated_after_a_kill(
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    hold(monkeypatch, 1)
    model = tiny_models["bert"]
    problems = [make_problem(model, name, "paper-v2") for name in NAMES[:3]]

    def go(folder: Path, on_epoch: Callable[[EpochRecord], None]) -> dict[str, Trained]:
        return train_units(
            model, problems, load=no_model, folder=folder, checkpoint_seconds=1000,
            **settings(on_epoch=on_epoch),
        )  # fmt: skip

    whole = go(tmp_path / "whole", lambda _: None)
    with pytest.raises(Killed):
        go(tmp_path / "killed", dying(after))
    seen: list[EpochRecord] = []
    again = go(tmp_path / "killed", seen.append)

    assert {name: one.history for name, one in again.items()} == {
        name: one.history for name, one in whole.items()
    }
    for name, one in whole.items():
        assert torch.equal(again[name].vectors, one.vectors)  # type: ignore[arg-type]
    # Three epochs a unit; the unit that was under way begins anew.
    done = set(NAMES[: (after - 1) // 3])
    assert {record.problem for record in seen} == set(NAMES[:3]) - done


def test_a_tuned_model_that_is_done_is_not_repeated_after_a_kill(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    def load() -> PromptedModel:
        return load_model(tiny_folders["gpt2"], device="cpu", tuned=True)

    def go(folder: Path, on_epoch: Callable[[EpochRecord], None]) -> dict[str, Trained]:
        first = load()
        problems = [make_problem(first, name, "manual") for name in NAMES[:3]]
        return train_units(
            first, problems, load=load, folder=folder, checkpoint_seconds=1000,
            **settings(**TUNED["fine-tuning"], on_epoch=on_epoch),
        )  # fmt: skip

    whole = go(tmp_path / "whole", lambda _: None)
    with pytest.raises(Killed):
        go(tmp_path / "killed", dying(5))
    seen: list[EpochRecord] = []
    again = go(tmp_path / "killed", seen.append)
    assert {record.problem for record in seen} == set(NAMES[1:3])
    for name, one in whole.items():
        assert again[name].history == one.history
        files = [weights_file(tmp_path / which, name) for which in ("whole", "killed")]
        assert files[0].read_bytes() == files[1].read_bytes()
