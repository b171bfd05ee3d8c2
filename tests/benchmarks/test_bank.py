"""The plain loop against the bank on tiny models, and what the benchmark writes."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from benchmarks import bank, machine, readme
from benchmarks.bank import LADDER, PLAIN, Work, differences
from benchmarks.facts import allowed_words, make_relations
from pipeline.models.language_model import PromptedModel
from pipeline.training.loop import TrainingResult
from tests.jobs import method

FAMILIES = ("bert", "gpt2", "llama")
KEYS = {
    "benchmark", "date", "command", "hardware", "versions", "model", "settings", "prepare_seconds",
    "equality", "dtype", "matmul_peak_flops_per_second", "plain", "bank", "ratio",
    "ratio_to_released", "ladder", "max_tokens_per_forward",
}  # fmt: skip


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


def work(model: PromptedModel, *, relations: int = 3, seed: int = 5) -> Work:
    """Steps of unequal size and several passes over dev."""
    config = method(batch_size=3, prompt_optimizer=bank.OPTIMIZER)
    sizes = (relations, 5, 5)
    made = make_relations(model, config, sizes, allowed_words(model, 12), seed=seed)
    return Work(model, made, one_by_one=2, config=config)


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


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.usefixtures("fast_learning")
def test_the_plain_loop_ends_as_the_bank(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    asked = work(tiny_models[family])
    plain = asked.plain(LADDER[PLAIN])
    assert list(plain) == ["R1", "R2"]
    assert_alike(plain, asked.bank(max_tokens_per_forward=2))
    start = asked.bank(max_tokens_per_forward=2, few=True, epochs=0)
    found = differences(plain, asked.bank(max_tokens_per_forward=2), start)
    assert found["vectors_of_movement"] < 1e-3
    assert found["moved"] > 0.01
    scores = {record.dev_score for result in plain.values() for record in result.history}
    assert len(scores) > 1


@pytest.mark.parametrize("family", ["bert", "llama"])
@pytest.mark.parametrize("step", [step for step in LADDER if step != PLAIN])
@pytest.mark.usefixtures("fast_learning")
def test_no_switch_changes_a_result(
    tiny_models: dict[str, PromptedModel], family: str, step: str
) -> None:
    asked = work(tiny_models[family])
    assert_alike(asked.plain(LADDER[step]), asked.plain(LADDER[PLAIN]))


def test_results_that_differ_are_refused(tiny_models: dict[str, PromptedModel]) -> None:
    asked = work(tiny_models["bert"])
    ended = asked.bank(8, few=True)
    assert bank.compare(asked, ended, ended)["vectors"] == 0.0
    with pytest.raises(RuntimeError, match="the plain loop differ"):
        bank.compare(asked, ended, work(tiny_models["bert"], seed=6).bank(8, few=True))
    untouched = asked.bank(8, few=True, epochs=0)
    with pytest.raises(RuntimeError, match="nothing to compare"):
        bank.compare(asked, untouched, untouched)


def test_the_command_writes_what_the_readme_shows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    small = "--device cpu --relations 3 --plain-relations 2 --facts 4 --dev 2 --batch 2"
    small += " --max-tokens-per-forward 2,8"
    bank.main(
        [
            "--shape",
            "tiny-causal",
            *small.split(),
            "--max-tokens-per-forward",
            "2,8",
            "--output",
            str(tmp_path),
        ]
    )
    (path,) = tmp_path.glob("bank-tiny-causal-*.json")
    result = json.loads(path.read_text())

    assert set(result) == KEYS
    assert result["command"].startswith("python -m benchmarks.bank --shape tiny-causal")
    assert [step["step"] for step in result["ladder"]] == [*LADDER, bank.SHARED]
    assert [tried["max_tokens_per_forward"] for tried in result["max_tokens_per_forward"]] == [2, 8]
    plain, whole = result["plain"], result["bank"]
    assert (plain["facts"], whole["facts"]) == (8, 12)
    assert len(plain["seconds"]) == len(whole["seconds"]) == 2
    assert plain["flops_per_fact"] > whole["flops_per_fact"] > 0
    assert plain["milliseconds_per_fact"] == pytest.approx(1000 * min(plain["seconds"]) / 8)
    ratio = result["ratio"]
    assert ratio["lowest"] <= ratio["highest"]
    assert ratio["of_minima"] == pytest.approx(
        plain["milliseconds_per_fact"] / whole["milliseconds_per_fact"]
    )
    assert f"**{ratio['of_minima']:.2f}**" in capsys.readouterr().out
    shown = readme.results_table([result])
    assert "tiny-causal" in shown


def test_a_models_folder_appears_by_its_name(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    small = "--relations 1 --facts 2 --dev 1 --batch 2 --repeats 1 --words 5 --device cpu"
    folder = tiny_folders["llama"]
    bank.main(["--model", str(folder), *small.split(), "--output", str(tmp_path)])
    (path,) = tmp_path.glob("bank-llama-*.json")
    assert str(folder.parent) not in path.read_text().replace(str(tmp_path), "")


def test_the_readme_shows_the_results_of_the_files() -> None:
    text = readme.README.read_text(encoding="utf-8")
    assert readme.with_results(text, readme.read_results(bank.RESULTS)) == text
