"""Trainings by two processes, against the same by one."""

import multiprocessing
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from pipeline.engine.units import Progress
from pipeline.errors import ModelError, PipelineError
from pipeline.models.loading import ModelCache, load_model
from pipeline.prompts.template import parse_template
from pipeline.training import loop
from pipeline.training.checkpoint import Checkpoint
from pipeline.training.jobs import BankUnit, EpochEnded, group_trials
from pipeline.training.loop import EpochRecord, TrainingResult
from pipeline.training.ranks import ALONE, Ranks, Report, check_devices, run_ranks
from tests.jobs import ADAM, changed, fact_job, fact_trial, method, train_jobs
from tests.pipeline.training.test_jobs import RUNTIME
from tests.worked import VOCABULARY, make_facts

TEMPLATE = parse_template("[P*3] {subject} is located in [P*2] {mask} .", ["subject"])
FACTS = {"train": make_facts(20), "dev": make_facts(9, start=3)}


@dataclass(frozen=True)
class Case:
    """A training whose steps have so many passes."""

    family: str
    tuned: bool
    passes: int

    @property
    def name(self) -> str:
        return f"{self.family}-{'tuned' if self.tuned else 'frozen'}-{self.passes}"


class Trained(NamedTuple):
    result: TrainingResult
    weights: dict[str, Tensor]


CASES = [
    Case(family, tuned, passes)
    for family in ("bert", "gpt2")
    for tuned in (False, True)
    for passes in (2, 4)
]
# Positions in a pass of a frozen model, so that its longest steps have as many passes.
MOST_TOKENS = {("bert", 2): 64, ("bert", 4): 32, ("gpt2", 2): 48, ("gpt2", 4): 24}


def train_case(
    case: Case,
    folders: dict[str, Path],
    out: Path,
    ranks: Ranks = ALONE,
    *,
    sharded: bool = False,
    checkpoint: Checkpoint | None = None,
    on_epoch: Callable[[str, EpochRecord], object] = lambda *_: None,
) -> Trained:
    """Train with dropout in the model, if it is tuned, and in the encoder."""
    model = load_model(folders[case.family], device="cpu", threads=1, tuned=case.tuned)
    if sharded:
        model.shard(model.device, tuned=case.tuned)
    weights = out / f"{case.name}.safetensors"
    results = train_jobs(
        model,
        [fact_job(model, "P17", TEMPLATE, FACTS, VOCABULARY)],
        epochs=3,
        batch_size=8,
        encoder="mlp",
        dropout=0.2,
        model_optimizer=changed(ADAM, learning_rate=1e-3) if case.tuned else None,
        gradient_accumulation_steps=case.passes,
        max_tokens_per_forward=MOST_TOKENS[case.family, case.passes],
        best_checkpoint_path=weights,
        checkpoint=checkpoint,
        on_epoch=on_epoch,
        ranks=ranks,
    )
    return Trained(results["P17"], load_file(weights) if ranks.first and case.tuned else {})


def train_cases(
    cases: list[Case],
    folders: dict[str, Path],
    out: Path,
    _: Report,
    ranks: Ranks,
    *,
    sharded: bool = False,
) -> dict[str, Trained]:
    return {case.name: train_case(case, folders, out, ranks, sharded=sharded) for case in cases}


def by_two(work: Callable[[Report, Ranks], Any], on_report: Report = lambda _: None) -> Any:
    return run_ranks(2, work, on_report, device="cpu")


@pytest.fixture(scope="module")
def alone(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each case by one process."""
    return train_cases(CASES, tiny_folders, tmp_path_factory.mktemp("alone"), print, ALONE)


@pytest.fixture(scope="module")
def shared(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each case by two processes."""
    folder = tmp_path_factory.mktemp("shared")
    return by_two(partial(train_cases, CASES, tiny_folders, folder))


@pytest.fixture
def _same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let new processes round alike wherever weights are in memory; gathered ones are anywhere."""
    monkeypatch.setenv("MKL_CBWR", "COMPATIBLE")


@pytest.fixture(scope="module")
def by_parts(tiny_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Each case by one process, and by two that have parts of the model."""
    folder = tmp_path_factory.mktemp("parts")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MKL_CBWR", "COMPATIBLE")
        return [
            run_ranks(
                count,
                partial(train_cases, CASES, tiny_folders, folder, sharded=count > 1),
                print,
                device="cpu",
            )
            for count in (1, 2)
        ]


def assert_close(ours: Trained, other: Trained, tolerance: float) -> None:
    """With a tolerance of 0: bit-equal."""
    assert ours.result.best_epoch == other.result.best_epoch
    for mine, theirs in zip(ours.result.history, other.result.history, strict=True):
        losses = (mine.train_loss or 0.0, theirs.train_loss or 0.0)
        assert losses[0] == pytest.approx(losses[1], rel=0, abs=tolerance)
        assert mine.dev_loss == pytest.approx(theirs.dev_loss, rel=0, abs=tolerance)
        assert mine.dev_score == theirs.dev_score
    pairs = {"vectors": (ours.result.vectors, other.result.vectors)}
    assert ours.weights.keys() == other.weights.keys()
    pairs |= {name: (weight, other.weights[name]) for name, weight in ours.weights.items()}
    for name, (mine, theirs) in pairs.items():
        if tolerance and name.endswith(("key.bias", "c_attn.bias")):
            continue  # the gradient of a key's bias is rounding alone, which Adam magnifies
        torch.testing.assert_close(
            mine, theirs, rtol=0, atol=tolerance, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_steps_have_as_many_passes_as_the_case_says(
    tiny_folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    counts = []
    real = loop._Bank._step

    def step(self: Any, stepping: Any, passes: Any, *given: Any) -> None:
        counts.append(len(passes))
        real(self, stepping, passes, *given)

    monkeypatch.setattr(loop._Bank, "_step", step)
    train_case(case, tiny_folders, tmp_path)
    assert max(counts) == 2 if case.passes == 2 else max(counts) >= 4
    assert min(counts) % 2 == 1 or case.passes == 4  # a process has less to do than the other


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_processes_train_as_one(
    alone: dict[str, Trained], shared: dict[str, Trained], case: Case
) -> None:
    """The sum of two numbers has one order, that of four has several."""
    tolerance = 0.0 if case.passes == 2 else 1e-4
    assert_close(shared[case.name], alone[case.name], tolerance)


# Processes that end


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_two_processes_that_have_parts_of_the_model_train_as_one(
    by_parts: list[dict[str, Trained]], case: Case
) -> None:
    """A tuned model is clipped by its norm, which is summed by parts."""
    one, two = by_parts
    tolerance = 0.0 if case.passes == 2 and not case.tuned else 1e-4
    assert_close(two[case.name], one[case.name], tolerance)


class EachStep(Checkpoint):
    """Is due after each step."""

    @property
    def due(self) -> bool:
        return True


def killed_in_epoch_2(
    case: Case, folders: dict[str, Path], out: Path, sharded: bool, _: Report, ranks: Ranks
) -> None:
    """The second process is killed when the last step of epoch 2 has its checkpoint."""

    def on_epoch(_: str, record: EpochRecord) -> None:
        if record.epoch == 2 and not ranks.first:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoint = EachStep(out / "checkpoint.pt", seconds=0)
    train_case(case, folders, out, ranks, sharded=sharded, checkpoint=checkpoint, on_epoch=on_epoch)


def resumed(
    case: Case, folders: dict[str, Path], out: Path, sharded: bool, report: Report, ranks: Ranks
) -> Trained:
    return train_case(
        case,
        folders,
        out,
        ranks,
        sharded=sharded,
        checkpoint=Checkpoint(out / "checkpoint.pt", seconds=99),
        on_epoch=lambda _, record: report(record.epoch),
    )


@pytest.mark.slow
@pytest.mark.parametrize("case", [CASES[0], CASES[6]], ids=lambda case: case.name)
def test_a_killed_process_ends_all_and_the_training_resumes(
    tiny_folders: dict[str, Path], tmp_path: Path, alone: dict[str, Trained], case: Case
) -> None:
    """By any number of processes: the checkpoint is that of one."""
    message = r"^runtime.gpus_per_training: rank 1 of 2 was killed \(SIGKILL\)"
    with pytest.raises(PipelineError, match=message):
        by_two(partial(killed_in_epoch_2, case, tiny_folders, tmp_path, False))
    epochs: list[int] = []
    again = resumed(case, tiny_folders, tmp_path, False, epochs.append, ALONE)
    assert epochs == [2, 3]
    assert_close(again, alone[case.name], 0.0)
    weights = {f"{case.name}.safetensors"} if case.tuned else set()
    assert {file.name for file in tmp_path.iterdir()} == {"checkpoint.pt", *weights}


@pytest.mark.slow
@pytest.mark.usefixtures("_same_products")
@pytest.mark.parametrize("case", [CASES[0], CASES[6]], ids=lambda case: case.name)
def test_a_training_by_parts_resumes_by_parts_or_by_one_process(
    tiny_folders: dict[str, Path],
    tmp_path: Path,
    alone: dict[str, Trained],
    by_parts: list[dict[str, Trained]],
    case: Case,
) -> None:
    with pytest.raises(PipelineError, match=r"rank 1 of 2 was killed \(SIGKILL\)"):
        by_two(partial(killed_in_epoch_2, case, tiny_folders, tmp_path, True))
    copy = shutil.copytree(tmp_path, tmp_path / "copy")
    epochs: list[int] = []
    again = by_two(partial(resumed, case, tiny_folders, tmp_path, True), epochs.append)
    assert epochs == [2, 3]
    assert_close(again, by_parts[1][case.name], 0.0)
    by_one = resumed(case, tiny_folders, copy, False, print, ALONE)
    assert_close(by_one, alone[case.name], 1e-4)


def failing(report: Report, ranks: Ranks) -> None:
    report("started")
    if not ranks.first:
        raise ModelError("rte: the loss is not finite")
    ranks.least(1)  # the other one never comes


@pytest.mark.slow
def test_a_process_that_fails_ends_all_with_its_message() -> None:
    reports: list[str] = []
    with pytest.raises(ModelError) as caught:
        by_two(failing, reports.append)
    assert str(caught.value) == "rte: the loss is not finite"
    assert set(reports) <= {"started"}  # of the first process alone
    (note,) = caught.value.__notes__
    assert note.startswith("rank 1 of 2:\n")
    assert 'raise ModelError("rte' in note


def test_more_gpus_than_this_process_sees_are_refused_before_anything_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ModelError, match="gpus_per_training is 2, but this process sees 1 GPUs"):
        run_ranks(2, failing, print, device="cuda")
    check_devices(1, "auto")
    check_devices(2, "cpu")


# As a unit


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tuned", "sharded"), [(False, False), (True, False), (False, True), (True, True)]
)
def test_a_unit_by_two_processes_is_that_by_one(
    tiny_folders: dict[str, Path], tmp_path: Path, tuned: bool, sharded: bool
) -> None:
    training = method(
        encoder="mlp",
        batch_size=8,
        model_optimizer=changed(ADAM, learning_rate=1e-3) if tuned else None,
        gradient_accumulation_steps=2,
    )
    (bank,) = group_trials([fact_trial("P17", TEMPLATE, FACTS, VOCABULARY, training=training)])

    def run(count: int) -> tuple[list[Any], Trained]:
        folder = tmp_path / str(count)
        folder.mkdir()
        most = {
            "max_tokens_per_forward": 64,
            "gpus_per_training": count,
            "shard_model": sharded and count > 1,
        }
        unit = BankUnit(
            bank,
            folder / "unit",
            "run",
            ModelCache(partial(load_model, tiny_folders["bert"], device="cpu", threads=1)),
            RUNTIME.model_copy(update=most),
            None,
            folder / "weights" if tuned else None,
        )
        assert unit.processes == count
        reports: list[Any] = []
        (result,) = unit(reports.append).results
        return reports, Trained(result, load_file(folder / "weights") if tuned else {})

    (reports, one), (others, two) = run(1), run(2)
    assert [report for report in others if isinstance(report, EpochEnded)]
    assert [report for report in others if isinstance(report, Progress)]
    assert others == reports or sharded
    assert len(others) == len(reports)
    assert_close(two, one, 1e-4 if sharded else 0.0)
    assert not multiprocessing.active_children()
