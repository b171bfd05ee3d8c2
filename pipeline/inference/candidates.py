"""What is trained in this checkout: by content, with its scores, so that the best can be chosen."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DataError, PipelineError
from pipeline.evaluation.metrics import mean
from pipeline.files import read_json
from pipeline.prompts.store import load_prompts
from pipeline.workflow.command import StageInfo
from pipeline.workflow.lock import Execution, read_lock
from pipeline.workflow.project import workspace_hashes

LAMA = "lama"
_SCORES = {LAMA: "p_at_1", "superglue": "score"}


@dataclass(frozen=True)
class Candidate:
    """What one method trained, on a benchmark or a task of it.

    Attributes:
        benchmark: `lama` or `superglue`.
        task: such as `rte`; empty for `lama`.
        method: its name.
        trained: folder that training wrote.
        model: folder of the language model.
        dtype: `model.dtype`, as it was trained with.
        splits: folder of the data.
        hashes: of the three folders, by `trained`, `model` and `splits`, as DVC has them.
        dev_score: the mean over relations, or over trainings.
        test_score: the same, as evaluated; None where it is not.
    """

    benchmark: str
    task: str
    method: str
    trained: Path
    model: Path
    dtype: str
    splits: Path
    hashes: dict[str, str]
    dev_score: float
    test_score: float | None

    @property
    def target(self) -> str:
        """What it is promoted as: the task, or `lama`."""
        return self.task or self.benchmark

    @property
    def metric(self) -> str:
        """What the two scores are."""
        return _SCORES[self.benchmark]


def trained_here(target: str) -> list[Candidate]:
    """Return what is trained of a target, in the order of `dvc.lock`.

    Args:
        target: `lama` or a task.

    Raises:
        PipelineError: nothing is trained of it.
        DataError: a folder is not there, or is not what `dvc.lock` says.
    """
    lock = read_lock(Path("dvc.lock"))
    trainings = [_Training.read(execution) for execution in lock.values()]
    folders = {path for own in trainings if own is not None for path in own.folders.values()}
    found = workspace_hashes(folders) if folders else {}
    # dvc.lock keeps what dvc.yaml has no more.
    current = [own for own in trainings if own is not None and own.folders["trained"] in found]
    targets = {own.target for own in current}
    if target not in targets:
        known = f"there is {', '.join(sorted(targets))}" if targets else "nothing is"
        raise PipelineError(
            f"{target}: nothing is trained of it here ({known}); put it into params.yaml and run "
            "`dvc repro`"
        )
    wanted = [own for own in current if own.target == target]
    for own in wanted:
        _check_contents(own, found)
    return [_candidate(own, lock.values()) for own in wanted]


def choose(candidates: Sequence[Candidate], method: str | None) -> Candidate:
    """Return the one with the best dev score, of equals the first; or the one of a method.

    Raises:
        PipelineError: no such method.
    """
    if method is None:
        return max(candidates, key=lambda candidate: candidate.dev_score)
    for candidate in candidates:
        if candidate.method == method:
            return candidate
    choices = ", ".join(candidate.method for candidate in candidates)
    raise PipelineError(
        f"--method {method}: not trained here for {candidates[0].target}; choose from {choices}"
    )


@dataclass(frozen=True)
class _Training:
    """An execution of `stages.train`, told by its command."""

    benchmark: str
    task: str
    method: str
    folders: dict[str, str]
    hashes: dict[str, str]
    dtype: str

    @classmethod
    def read(cls, execution: Execution) -> "_Training | None":
        """Return None for another stage, as a person may add, or a benchmark not promoted."""
        about = StageInfo.from_command(execution.command)
        if about is None or about.stage != "train" or about.benchmark not in _SCORES:
            return None
        places = {"trained": "--out", "model": "--model", "splits": "--splits"}
        folders = {name: about.options.get(option, "") for name, option in places.items()}
        known = {**execution.inputs, **execution.outputs}
        if not about.method or not known.keys() >= set(folders.values()):
            return None
        hashes = {name: known[folder] for name, folder in folders.items()}
        dtype = execution.params["model"]["dtype"]
        return cls(about.benchmark, about.task, about.method, folders, hashes, dtype)

    @property
    def target(self) -> str:
        return self.task or self.benchmark


def _check_contents(training: _Training, found: Mapping[str, str | None]) -> None:
    for name, folder in training.folders.items():
        if found.get(folder) is None:
            raise DataError(
                f"{folder}: not there; `dvc checkout` brings it back, or `dvc pull` from a remote"
            )
        if found[folder] != training.hashes[name]:
            raise DataError(
                f"{folder}: not what dvc.lock says; `dvc repro` makes it anew, or `dvc checkout` "
                "brings back what was recorded"
            )


def _candidate(training: _Training, executions: Iterable[Execution]) -> Candidate:
    trained = Path(training.folders["trained"])
    return Candidate(
        benchmark=training.benchmark,
        task=training.task,
        method=training.method,
        trained=trained,
        model=Path(training.folders["model"]),
        dtype=training.dtype,
        splits=Path(training.folders["splits"]),
        hashes=training.hashes,
        dev_score=mean([prompt.dev_score for prompt in load_prompts(trained).values()]),
        test_score=_test_score(training, executions),
    )


def _test_score(training: _Training, executions: Iterable[Execution]) -> float | None:
    """Return what the evaluation of this very content wrote; None if there was none."""
    for execution in executions:
        info = StageInfo.from_command(execution.command)
        read = execution.inputs.get(training.folders["trained"])
        if info is not None and info.stage == "evaluate" and read == training.hashes["trained"]:
            metrics = Path(info.options.get("--metrics", ""))
            if metrics.is_file():
                return float(read_json(metrics)[f"test/{_SCORES[training.benchmark]}"])
    return None
