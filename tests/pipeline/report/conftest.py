"""The files that evaluation leaves, with numbers made up for the purpose."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from pipeline.files import write_csv, write_json, write_jsonl
from pipeline.report.page import write_report
from pipeline.report.results import (
    LamaResults,
    Row,
    StabilityResults,
    TaskResults,
    read_lama_results,
    read_stability_results,
    read_task_results,
)

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


@dataclass(frozen=True)
class Files:
    """Where the files of an evaluation lie; what a report is made from."""

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

    def add_lama(
        self, methods: Sequence[str] = METHODS, relations: Sequence[str] = RELATIONS
    ) -> None:
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
                    "naive_bayes": (i % 11) / 23,
                }
                for i, name in enumerate(relations)
            ]
            epochs = 1 if method == "manual" else 4
            curve = [
                {
                    "relation": name,
                    "epoch": epoch,
                    "train_loss": None if epoch == 0 else 1 / epoch,
                    "dev_loss": 2 / (epoch + 1),
                    "dev_p_at_1": (i + epoch) / 50,
                }
                for i, name in enumerate(relations)
                for epoch in range(epochs)
            ]
            answers = [
                {
                    "relation": name,
                    "subject": f"{name}-subject{fact}",
                    "object": f"object{fact}",
                    "answer": f"object{fact * (number + fact % 2)}",
                    "log_prob": -1.5,
                    "rank": 1,
                }
                for name in relations
                for fact in range(5)
            ]
            write_csv(folder / "relations.csv", list(scores[0]), scores)
            write_csv(folder / "controls.csv", list(controls[0]), controls)
            write_csv(self.curves / "lama" / f"{method}.csv", list(curve[0]), curve)
            write_jsonl(folder / "predictions" / "predictions.jsonl", answers)
            metrics = {
                "test/p_at_1": 0.123 + number / 7,
                "dev/p_at_1": 0.456 + number / 9,
                "test/majority": 0.0987,
                "test/naive_bayes": 0.1654,
                "test/facts": 1234,
                "test/left_out": 56,
            }
            write_json(self.metrics / "lama" / f"{method}.json", metrics)
        write_json(self.metrics / "splits" / "lama.json", SPLITS | {"relations": len(relations)})

    def add_stability(
        self,
        methods: Sequence[str] = METHODS,
        templates: Mapping[str, Sequence[str]] = {"P17": TABLE_1},
    ) -> None:
        """Method number n scores (1 + i) / (10 - n) under a relation's template i."""
        # With torch, which another process that only reads can do without.
        from pipeline.evaluation.stability import spread_over_templates

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
            write_csv(self.evaluation / "stability" / method / "templates.csv", list(rows[0]), rows)
            write_json(self.metrics / "stability" / f"{method}.json", spread_over_templates(rows))

    def add_task(self, task: str, methods: Sequence[str] = METHODS) -> None:
        for number, method in enumerate(methods):
            seeds = [1] if method == "manual" else [1, 2]
            # A setting that dev did not choose has curves too; no report shows them.
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
            units = [
                {
                    "training": f"setting-1/split-1/seed-{seed}",
                    "setting": 1,
                    "split": 1,
                    "seed": seed,
                    "best_epoch": 2,
                    "dev_score": 0.6 + seed / 50,
                    "test_score": 0.5 + number / 7 + seed / 100,
                    "test_accuracy": 0.5 + number / 7 + seed / 100,
                }
                for seed in seeds
            ]
            settings = [
                {
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
                for setting in ((1,) if method == "manual" else (1, 2))
            ]
            write_csv(self.evaluation / folder / method / "trials.csv", list(units[0]), units)
            write_csv(
                self.evaluation / folder / method / "settings.csv", list(settings[0]), settings
            )
            write_csv(self.curves / folder / f"{method}.csv", list(curve[0]), curve)
            metrics = {
                "test/score": 0.51 + number / 7,
                "dev/score": 0.62 + number / 9,
                "test/accuracy": 0.51 + number / 7,
                "test/majority": 0.5054,
                "test/majority_accuracy": 0.5054,
                "test/examples": 277,
                "test/trainings": len(seeds),
                "test/settings": 1,
            }
            if len(seeds) > 1:
                metrics |= {f"test/{key}_std": 0.0071 for key in ("score", "accuracy")}
            write_json(self.metrics / folder / f"{method}.json", metrics)

    def lama(self, methods: Sequence[str] = METHODS, answers: int = 4) -> LamaResults:
        return read_lama_results(
            methods,
            metrics=self.metrics,
            curves=self.curves,
            evaluation=self.evaluation,
            answers=answers,
        )

    def stability(self, methods: Sequence[str] = METHODS) -> StabilityResults:
        return read_stability_results(methods, metrics=self.metrics, evaluation=self.evaluation)

    def task(self, task: str, methods: Sequence[str] = METHODS) -> TaskResults:
        return read_task_results(
            task,
            methods,
            metrics=self.metrics,
            curves=self.curves,
            evaluation=self.evaluation,
        )


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path / "results")


def write(
    folder: Path,
    lama: LamaResults | None,
    tasks: Sequence[TaskResults] = (),
    title: str = "Title",
    *,
    stability: StabilityResults | None = None,
    source: str = "geonames",
    subset: str = "34k",
    model: str = "tiny",
    work: Mapping[str, Row] | None = None,
    origins: Mapping[str, str] | None = None,
    tasks_source: str = "geonames",
    tasks_protocol: str = "few-shot-32",
) -> Path:
    """Write a report of some results and return its folder."""
    write_report(
        folder,
        title=title,
        model=model,
        lama=lama,
        stability=stability,
        lama_source=source,
        lama_subset=subset,
        tasks=tasks,
        tasks_source=tasks_source,
        tasks_protocol=tasks_protocol,
        work=work or {},
        origins=origins or {},
    )
    return folder


@pytest.fixture
def report(tmp_path: Path) -> Callable[..., Path]:
    return partial(write, tmp_path / "report")


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
    return write(
        full_files.root / "report",
        full_files.lama(),
        [full_files.task("rte")],
        stability=full_files.stability(),
    )
