"""The files that evaluation writes, with made-up numbers."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import load_params
from pipeline.files import write_csv, write_json, write_jsonl
from pipeline.report.page import ReportData, write_report
from pipeline.report.scores import MethodResult, ResultFolders, read_answers, read_result
from tests.project import ROOT, edit_params

METHODS = ("manual", "p-tuning")
TABLE_1 = (
    "{subject} is located in {mask}.",
    "{subject} is located in which country or state? {mask}.",
    "{subject} is located in which country? {mask}.",
    "{subject} is located in which country? In {mask}.",
)
SPLITS = {
    "train/facts": 28876,
    "dev/facts": 7275,
    "test/facts": 34039,
    "train/overlap": 101,
    "dev/overlap": 32,
    "train/outside_vocabulary": 7,
    "dev/outside_vocabulary": 8,
    "test/outside_vocabulary": 9,
}
RELATIONS = ("P17", "P30", "P1376")
SPLITS_PLAIN = {"relations": 3}


@dataclass(frozen=True)
class Files:
    """The files of an evaluation, in a folder."""

    root: Path

    @property
    def metrics(self) -> Path:
        return self.root / "metrics"

    @property
    def curves(self) -> Path:
        return self.root / "curves"

    @property
    def evaluation(self) -> Path:
        return self.root / "evaluation"

    @property
    def folders(self) -> ResultFolders:
        return ResultFolders(self.metrics, self.curves, self.evaluation)

    def add_lama(
        self,
        methods: Sequence[str] = METHODS,
        relations: Sequence[str] = RELATIONS,
        seeds: Sequence[int] = (34,),
    ) -> None:
        """With several seeds, a second setting was tried that dev did not choose."""
        for number, method in enumerate(methods):
            folder = self.evaluation / "lama" / method
            scores = [
                {"relation": name, "facts": 40 + i, "p_at_1": ((7 * i + 5 * number) % 41) / 41}
                for i, name in enumerate(relations)
            ]
            controls = [
                {
                    "relation": name,
                    "label": f"label {i}",
                    "left_out": i,
                    "majority": (i % 13) / 29,
                    "constant": (i % 13) / 28,
                    "naive_bayes": (i % 11) / 23,
                }
                for i, name in enumerate(relations)
            ]
            epochs = 1 if method == "manual" else 4
            tried = (1, 2) if len(seeds) > 1 and method != "manual" else (1,)
            curve = [
                {
                    "relation": name,
                    "setting": setting,
                    "split": 1,
                    "seed": seed,
                    "epoch": epoch,
                    "train_loss": None if epoch == 0 else 1 / epoch,
                    "dev_loss": 2 / (epoch + 1),
                    "dev_p_at_1": (i + epoch) / 50,
                }
                for i, name in enumerate(relations)
                for setting in tried
                for seed in seeds
                for epoch in range(epochs)
            ]
            trials, settings = _trials(relations, seeds, number), _settings(relations, tried, seeds)
            answers = [
                {
                    "relation": name,
                    "subject": f"{name}-subject{fact}",
                    "object": f"object{fact}",
                    "answer": f"object{fact * (number + fact % 2)}",
                    "log_prob": -1.5,
                    "rank": 1,
                    "trial": f"{name}/setting-1/split-1/seed-{seed}",
                }
                for name in relations
                for seed in seeds
                for fact in range(5)
            ]
            write_csv(folder / "relations.csv", list(scores[0]), scores)
            write_csv(folder / "controls.csv", list(controls[0]), controls)
            write_csv(folder / "trials.csv", list(trials[0]), trials)
            write_csv(folder / "settings.csv", list(settings[0]), settings)
            write_csv(self.curves / "lama" / f"{method}.csv", list(curve[0]), curve)
            write_jsonl(folder / "predictions" / "predictions.jsonl", answers)
            write_jsonl(folder / "predictions" / "nearest.jsonl", _nearest(trials, method))
            metrics = {
                "test/p_at_1": 0.123 + number / 7,
                "dev/p_at_1": 0.456 + number / 9,
                "test/majority": 0.0987,
                "test/constant": 0.1234,
                "test/naive_bayes": 0.1654,
                "test/facts": 1234,
                "test/left_out": 56,
                "test/trainings": len(seeds),
                "test/settings": 1,
            }
            if len(seeds) > 1:
                metrics |= {"test/p_at_1_std": 0.0123, "dev/p_at_1_std": 0.0234}
            write_json(self.metrics / "lama" / f"{method}.json", metrics)
        write_json(self.metrics / "splits" / "lama.json", SPLITS | {"relations": len(relations)})

    def add_stability(
        self,
        methods: Sequence[str] = METHODS,
        templates: Mapping[str, Sequence[str]] = {"P17": TABLE_1},
    ) -> None:
        """Method number n scores (1 + i) / (10 - n) under a relation's template i."""
        # With torch, which another process that only reads can do without.
        from pipeline.evaluation.summary import spread_over_templates

        for number, method in enumerate(methods):
            before = "" if method == "manual" else "[P*3] "
            rows = [
                {
                    "relation": relation,
                    "number": i + 1,
                    "template": before + template,
                    "facts": 930,
                    "p_at_1": (1 + i) / (10 - number),
                }
                for relation, own in templates.items()
                for i, template in enumerate(own)
            ]
            folder = self.evaluation / "stability" / method
            tasks = [f"{row['relation']}/{row['number']}" for row in rows]
            trials, settings = _trials(tasks, [34], number), _settings(tasks, [1], [34])
            write_csv(folder / "templates.csv", list(rows[0]), rows)
            write_csv(folder / "trials.csv", list(trials[0]), trials)
            write_csv(folder / "settings.csv", list(settings[0]), settings)
            write_json(self.metrics / "stability" / f"{method}.json", spread_over_templates(rows))

    def add_task(self, task: str, methods: Sequence[str] = METHODS) -> None:
        for number, method in enumerate(methods):
            seeds = [1] if method == "manual" else [1, 2]
            # A setting that dev did not choose has curves too, which no report shows.
            curve = [
                {
                    "setting": setting,
                    "split": 1,
                    "seed": seed,
                    "epoch": epoch,
                    "train_loss": None,
                    "dev_loss": 1.0,
                    "dev_score": (1 + epoch + number) / 8,
                }
                for setting in (1, 2)
                for seed in seeds
                for epoch in range(1 if method == "manual" else 3)
            ]
            folder = Path("superglue", task)
            # SuperGLUE's files have no column `task`: it is in their path.
            trials = [_without_task(row) for row in _trials([task], seeds, number)]
            tried = (1,) if method == "manual" else (1, 2)
            settings = [_without_task(row) for row in _settings([task], tried, seeds)]
            where = self.evaluation / folder / method
            write_csv(where / "trials.csv", list(trials[0]), trials)
            answers = [
                {"example": str(i), "label": "a", "trial": trial["training"],
                 "answer": "a" if (i + trial["seed"]) % (4 - number) else "b"}
                for trial in trials for i in range(12)
            ]  # fmt: skip
            write_jsonl(where / "predictions" / "predictions.jsonl", answers)
            write_jsonl(where / "predictions" / "nearest.jsonl", _nearest(trials, method))
            write_csv(where / "settings.csv", list(settings[0]), settings)
            write_csv(self.curves / folder / f"{method}.csv", list(curve[0]), curve)
            metrics = {
                "test/score": 0.51 + number / 7,
                "dev/score": 0.62 + number / 9,
                "test/accuracy": 0.51 + number / 7,
                "test/majority": 0.5054,
                "test/majority_accuracy": 0.5054,
                "test/constant": 0.5271,
                "test/constant_accuracy": 0.5271,
                "test/examples": 277,
                "test/trainings": len(seeds),
                "test/settings": 1,
            }
            if len(seeds) > 1:
                metrics |= {f"test/{key}_std": 0.0071 for key in ("score", "accuracy")}
            write_json(self.metrics / folder / f"{method}.json", metrics)

    def lama(self, methods: Sequence[str] = METHODS) -> list[MethodResult]:
        return [read_result(self.folders, "lama", method) for method in methods]

    def answers(self, count: int, methods: Sequence[str] = METHODS) -> list[dict[str, Any]]:
        return read_answers(self.evaluation, methods, count)

    def stability(self, methods: Sequence[str] = METHODS) -> list[MethodResult]:
        return [read_result(self.folders, "stability", method, curves=False) for method in methods]

    def task(self, task: str, methods: Sequence[str] = METHODS) -> list[MethodResult]:
        return [read_result(self.folders, "superglue", method, task) for method in methods]


def _trials(tasks: Sequence[str], seeds: Sequence[int], number: int) -> list[dict[str, Any]]:
    """Method `number` scores 0.5 + number / 7 + seed / 100 on test, 0.6 + seed / 50 on dev."""
    return [
        {
            "task": task,
            "training": f"{task}/setting-1/split-1/seed-{seed}",
            "setting": 1,
            "split": 1,
            "seed": seed,
            "best_epoch": 2,
            "dev_score": 0.6 + seed / 50,
            "test_score": 0.5 + number / 7 + seed / 100,
        }
        for task in tasks
        for seed in seeds
    ]


def _settings(
    tasks: Sequence[str], tried: Sequence[int], seeds: Sequence[int]
) -> list[dict[str, Any]]:
    return [
        {
            "task": task,
            "setting": setting,
            "tried": f"model.learning_rate={setting}e-05",
            "template": "{premise} [P] {mask}",
            "trainings": len(seeds),
            "dev_score": 0.61 - setting / 10,
            "dev_score_std": None if len(seeds) == 1 else 0.01,
            "chosen": setting == 1,
            "test_score": 0.53 if setting == 1 else None,
            "test_score_std": None,
        }
        for task in tasks
        for setting in tried
    ]


def _nearest(trials: Sequence[Mapping[str, Any]], method: str) -> list[dict[str, Any]]:
    """Of a method that trains vectors: two for each trial, with words that name its seed."""
    if method == "manual":
        return []
    return [
        {"trial": trial["training"], "nearest": [[f"in{trial['seed']}", "a|b"], ["the", "of"]]}
        for trial in trials
    ]


def _without_task(row: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "task"}


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "results")


def make_data(root: Path, edits: Mapping[str, Any] | None = None, **parts: Any) -> ReportData:
    """Return the data of a report; `edits` are of params.yaml, a copy of it is put in `root`."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "params.yaml").write_text((ROOT / "params.yaml").read_text())
    edit_params(root, **{"report__title": "Title", "model__name": "tiny", **(edits or {})})
    return ReportData(load_params(root / "params.yaml"), **{"splits": SPLITS_PLAIN, **parts})


def write(root: Path, edits: Mapping[str, Any] | None = None, **parts: Any) -> Path:
    """Write a report of some results and return its folder."""
    folder = root / "report"
    folder.mkdir(parents=True, exist_ok=True)
    write_report(folder, make_data(root, edits, **parts))
    return folder


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Path]:
    return partial(write, tmp_path / "written")


@pytest.fixture(scope="session")
def full_files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """Files of both benchmarks; no test changes them."""
    files = Files(tmp_path_factory.mktemp("full") / "results")
    files.add_lama()
    files.add_stability()
    files.add_task("rte")
    return files


@pytest.fixture(scope="session")
def full(full_files: Files) -> Path:
    """The folder of the report of both benchmarks; no test changes it."""
    return write(full_files.root, **everything(full_files))


def everything(files: Files) -> dict[str, Any]:
    return {
        "lama": files.lama(),
        "stability": files.stability(),
        "tasks": files.task("rte"),
        "answers": files.answers(4),
    }
