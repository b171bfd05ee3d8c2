"""The protocol `lm-bff` against LM-BFF's procedure, written plainly: one row at a time."""

import copy
import shutil
import statistics
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer import Typer
from typer.testing import CliRunner

from pipeline.files import read_csv, read_json
from pipeline.seeding import make_random
from stages import evaluate, splits, train
from tests.project import ROOT, edit_params

pytestmark = pytest.mark.slow

PLACES = ("Paris", "Lyon", "Oslo", "Japan", "Norway", "France")
WORDS = {"0": "no", "1": "yes"}
SPLITS, PER_CLASS, SEED = (21, 13), 4, 7
RATES, BATCHES, EPOCHS, STEPS_PER_EPOCH = [0.002, 0.02, 0.0005], [2, 4], 3, 3
# Split -> template here, and the same as a function of two texts.
TEMPLATES = {
    21: ("{opening} ? {continuation} . Answer {mask}", "{} ? {} . Answer"),
    13: ("{opening} . {continuation} is {mask}", "{} . {} is"),
}


def rows(count: int, start: int = 0) -> list[tuple[str, str, str]]:
    """Label and two sentences, the same where the second place is of the first half."""
    made = []
    for number in range(start, start + count):
        first, second = PLACES[number % 6], PLACES[(number * 5 + number // 6) % 6]
        label = str(int(PLACES.index(second) < 3))
        made.append((label, f"the city {first}.", f"The city of {second}"))
    return made


def tsv(examples: list[tuple[str, str, str]]) -> str:
    lines = [f"{label}\t{n}\t{n}\t{one}\t{two}" for n, (label, one, two) in enumerate(examples)]
    return "\n".join(["\ufeffQuality\t#1 ID\t#2 ID\t#1 String\t#2 String", *lines, ""])


def invoke(app: Typer, *arguments: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output


@pytest.fixture
def project(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    empty_store: Path,
    tiny_folders: dict[str, Path],
) -> Path:
    """A folder in which the stages from the splits to the evaluation have run."""
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/train.tsv").write_text(tsv(rows(40)), encoding="utf-8")
    (tmp_path / "raw/dev.tsv").write_text(tsv(rows(14, start=40)), encoding="utf-8")
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    method = "superglue__training__manual-fine-tuning"
    grid = {"batch_size": BATCHES, "model.learning_rate": RATES}
    by_split = {f"split-{seed}": template for seed, (template, _) in TEMPLATES.items()}
    edit_params(
        tmp_path, superglue__source="glue", superglue__protocol="lm-bff",
        superglue__tasks=["mrpc"], superglue__methods=["manual-fine-tuning"],
        superglue__selection="dev-per-split", superglue__seeds=[SEED],
        superglue__splits__per_class=PER_CLASS, superglue__splits__seeds=list(SPLITS),
        superglue__splits__train_examples=None, superglue__splits__dev_examples=None,
        superglue__splits__test_examples=None, superglue__prompts__mrpc__verbalizer=WORDS,
        superglue__grid={"manual-fine-tuning": grid},
        superglue__overrides__mrpc={"manual-fine-tuning": {"template": by_split}},
        runtime__threads=1,
        **{f"{method}__epochs": EPOCHS, f"{method}__steps_per_epoch": STEPS_PER_EPOCH,
           f"{method}__patience": EPOCHS, f"{method}__model__weight_decay": 0.0,
           f"{method}__model__warmup_ratio": 0.0, f"{method}__model__max_grad_norm": None},
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    invoke(splits.app, "superglue", "mrpc", "--raw", "raw", "--out", "splits")
    where = ["--model", str(tiny_folders["llama"]), "--splits", "splits"]
    stage = ["superglue", "mrpc", "manual-fine-tuning", *where]
    invoke(train.app, *stage, "--out", "trained", "--curves", "curves.csv")
    outs = ["--out", "out", "--metrics", "metrics.json"]
    invoke(evaluate.app, *stage, "--trained", "trained", *outs)
    return tmp_path


def drawn(seed: int) -> tuple[list[Any], list[Any]]:
    """Train and dev as LM-BFF's script draws them."""
    np.random.seed(seed)  # noqa: NPY002
    shuffled = rows(40)
    np.random.shuffle(shuffled)  # type: ignore[arg-type]  # noqa: NPY002
    by_label: dict[str, list[Any]] = {}
    for row in shuffled:
        by_label.setdefault(row[0], []).append(row)
    return (
        [row for own in by_label.values() for row in own[:PER_CLASS]],
        [row for own in by_label.values() for row in own[PER_CLASS : 2 * PER_CLASS]],
    )


class Plain:
    """A tiny model, trained and asked one row at a time."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder)
        self._words = [
            self._tokenizer(f"the {word}", add_special_tokens=False)["input_ids"][-1]
            for word in WORDS.values()
        ]

    def log_probs(self, row: Any, template: str) -> torch.Tensor:
        _, one, two = row
        text = template.format(one[:-1], two[0].lower() + two[1:])
        ids = self._tokenizer(text, return_tensors="pt")["input_ids"]
        return self._model(ids).logits[0, -1, self._words].log_softmax(-1)

    def f1(self, examples: list[Any], template: str) -> float:
        self._model.eval()
        with torch.no_grad():
            answers = [str(int(self.log_probs(row, template).argmax())) for row in examples]
        pairs = [(row[0], answer) for row, answer in zip(examples, answers, strict=True)]
        wrong = sum(label != answer for label, answer in pairs)
        hits = pairs.count(("1", "1"))
        return 2 * hits / (2 * hits + wrong) if hits else 0.0

    def train(self, rate: float, batch: int, seed: int, test: list[Any]) -> tuple[float, float]:
        """Return F1 on dev and test at the last of the points that are best on dev."""
        (train, dev), (_, template) = drawn(seed), TEMPLATES[seed]
        optimizer = torch.optim.AdamW(self._model.parameters(), weight_decay=0.0)
        best = (self.f1(dev, template), self.f1(test, template))
        steps, waiting, passes = EPOCHS * STEPS_PER_EPOCH, [], 0
        for step in range(steps):
            if not waiting:
                passes += 1
                waiting = list(range(len(train)))
                make_random(SEED, "order of examples", "mrpc", str(passes)).shuffle(waiting)
            chosen, waiting = [train[i] for i in waiting[:batch]], waiting[batch:]
            self._model.train()
            for row in chosen:
                (-self.log_probs(row, template)[int(row[0])] / len(chosen)).backward()
            for group in optimizer.param_groups:
                group["lr"] = rate * (steps - step) / steps
            optimizer.step()
            optimizer.zero_grad()
            if (step + 1) % STEPS_PER_EPOCH == 0 and self.f1(dev, template) >= best[0]:
                best = (self.f1(dev, template), self.f1(test, template))
        return best


def test_lm_bff_is_its_procedure_number_for_number(
    project: Path, tiny_folders: dict[str, Path]
) -> None:
    fresh, test = Plain(tiny_folders["llama"]), rows(14, start=40)
    grid = [(rate, batch) for batch, rate in product(BATCHES, RATES)]
    expected = {}
    for seed in sorted(SPLITS):
        found = [copy.deepcopy(fresh).train(*point, seed, test) for point in grid]
        best = max(range(len(grid)), key=lambda n, found=found: found[n][0])  # type: ignore[misc]
        # Otherwise the comparison would hold for a procedure that learns or chooses nothing.
        assert len({dev for dev, _ in found}) > 1
        expected[seed] = (best + 1, *found[best])
    assert len({setting for setting, *_ in expected.values()}) > 1

    trials = read_csv(project / "out/trials.csv")
    found_rows = {
        int(row["split"]): (int(row["setting"]), float(row["dev_score"]), float(row["test_score"]))
        for row in trials
    }
    assert found_rows == expected
    assert [int(row["steps"]) for row in trials] == [EPOCHS * STEPS_PER_EPOCH] * len(SPLITS)
    tests = [score for *_, score in expected.values()]
    metrics = read_json(project / "metrics.json")
    assert metrics["test/score"] == pytest.approx(statistics.fmean(tests))
    assert metrics["test/score_std"] == pytest.approx(statistics.stdev(tests))
    assert metrics["test/trainings"] == len(SPLITS)
    settings = read_csv(project / "out/settings.csv")
    chosen = {int(row["setting"]) for row in settings if row["chosen"] == "True"}
    assert chosen == {setting for setting, *_ in expected.values()}
    assert settings[0]["template"] == " | ".join(TEMPLATES[seed][0] for seed in sorted(SPLITS))
