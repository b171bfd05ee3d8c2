"""The protocol `multi-split` against FewNLU's procedure, written plainly: one row at a time."""

import copy
import itertools
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from pipeline.files import read_csv, read_json, read_jsonl, write_jsonl
from pipeline.seeding import make_random
from stages import evaluate, splits, train
from tests.project import ROOT, edit_params

pytestmark = pytest.mark.slow

PLACES = ("Paris", "Lyon", "Oslo", "Japan", "Norway", "France")
WORDS = {"entailment": "yes", "not_entailment": "no"}
COUNT, SEED, EPOCHS, BATCH, DECAY = 3, 7, 3, 4, 0.1
RATES = [0.002, 0.02, 0.0005]


def records(start: int, count: int) -> list[dict[str, Any]]:
    """Name two places; right where the second is of the first half of the list."""
    pairs = list(itertools.product(range(6), repeat=2))
    made = []
    for number in range(start, start + count):
        first, second = pairs[(number * 7) % 36]
        made.append(
            {
                "premise": f"the city {PLACES[first]}",
                "hypothesis": f"{PLACES[second]}",
                "label": "entailment" if second < 3 else "not_entailment",
                "idx": number,
            }
        )
    return made


@pytest.fixture
def project(
    tmp_path: Path,
    tiny_folders: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
    empty_store: Path,
) -> Path:
    """A folder with a model, raw data and parameters; the three stages have run in it."""
    raw = tmp_path / "raw"
    for name, start, count in (
        ("fewglue/train", 0, 10),
        ("fewglue/dev32", 10, 10),
        ("val", 20, 16),
    ):
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        write_jsonl(raw / f"{name}.jsonl", records(start, count))
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    method = "superglue__training__manual-fine-tuning"
    edit_params(
        tmp_path, superglue__source="superglue", superglue__protocol="multi-split",
        superglue__splits__count=COUNT, superglue__splits__train_share=0.5,
        superglue__splits__train_examples=None, superglue__splits__dev_examples=None,
        superglue__splits__test_examples=None, superglue__seeds=[SEED],
        superglue__methods=["manual-fine-tuning"],
        superglue__grid={"manual-fine-tuning": {"model.learning_rate": RATES}},
        **{"superglue__prompts__rte__templates__manual-fine-tuning":
           "{premise} ? {hypothesis} . Answer {mask}",
           f"{method}__epochs": EPOCHS, f"{method}__batch_size": BATCH,
           f"{method}__patience": EPOCHS,
           f"{method}__model__weight_decay": DECAY, f"{method}__model__warmup_ratio": 0.0,
           f"{method}__model__max_grad_norm": None},
        runtime__threads=1,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    where = ["--model", str(tiny_folders["llama"]), "--splits", "splits"]
    for app, arguments in (
        (splits.app, ["superglue", "rte", "--raw", "raw", "--out", "splits"]),
        (train.app, ["superglue", "rte", "manual-fine-tuning", *where,
                     "--out", "trained", "--curves", "curves.csv"]),
        (evaluate.app, ["superglue", "rte", "manual-fine-tuning", *where, "--trained", "trained",
                        "--out", "out", "--metrics", "metrics.json"]),
    ):  # fmt: skip
        done = CliRunner().invoke(app, arguments)
        assert done.exit_code == 0, done.output
    return tmp_path


class Plain:
    """A tiny model, trained and asked one row at a time."""

    def __init__(self, folder: Path) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model = AutoModelForCausalLM.from_pretrained(folder)
        self._words = [self._id(f" {word}") for word in WORDS.values()]

    def _id(self, text: str) -> int:
        return self._tokenizer("the" + text, add_special_tokens=False)["input_ids"][-1]

    def log_probs(self, record: dict[str, Any]) -> torch.Tensor:
        text = f"{record['premise']} ? {record['hypothesis']} . Answer"
        ids = self._tokenizer(text, return_tensors="pt")["input_ids"]
        return self._model(ids).logits[0, -1, self._words].log_softmax(-1)

    def accuracy(self, examples: list[dict[str, Any]]) -> float:
        self._model.eval()
        with torch.no_grad():
            answers = [list(WORDS)[int(self.log_probs(e).argmax())] for e in examples]
        return statistics.fmean(
            answer == e["label"] for answer, e in zip(answers, examples, strict=True)
        )

    def train(
        self,
        rate: float,
        train: list[dict[str, Any]],
        dev: list[dict[str, Any]],
        test: list[dict[str, Any]],
    ) -> tuple[float, float]:
        """Return accuracy on dev and test after the last of the epochs that are best on dev."""
        groups = [
            {"params": [p for p in self._model.parameters() if p.ndim > 1], "weight_decay": DECAY},
            {"params": [p for p in self._model.parameters() if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(groups)
        steps = EPOCHS * math.ceil(len(train) / BATCH)
        step = 0
        best = (self.accuracy(dev), self.accuracy(test))
        for epoch in range(1, EPOCHS + 1):
            order = list(range(len(train)))
            make_random(SEED, "order of examples", "rte", str(epoch)).shuffle(order)
            self._model.train()
            for start in range(0, len(order), BATCH):
                chosen = [train[i] for i in order[start : start + BATCH]]
                for example in chosen:
                    right = self.log_probs(example)[list(WORDS).index(example["label"])]
                    (-right / len(chosen)).backward()
                for group in optimizer.param_groups:
                    group["lr"] = rate * (steps - step) / steps
                optimizer.step()
                optimizer.zero_grad()
                step += 1
            score = self.accuracy(dev)
            if score >= best[0]:
                best = (score, self.accuracy(test))
        return best


def test_multi_split_is_fewnlus_procedure_number_for_number(
    project: Path, tiny_folders: dict[str, Path]
) -> None:
    test = read_jsonl(project / "splits" / "test.jsonl")
    assert test == records(20, 16)
    pairs = []
    for number in range(1, COUNT + 1):
        pair = [
            read_jsonl(project / "splits" / str(number) / f"{name}.jsonl")
            for name in ("train", "dev")
        ]
        assert sorted(e["idx"] for own in pair for e in own) == list(range(20))
        pairs.append(pair)

    fresh = Plain(tiny_folders["llama"])
    found = {
        rate: [copy.deepcopy(fresh).train(rate, train, dev, test) for train, dev in pairs]
        for rate in RATES
    }
    means = {rate: statistics.fmean(dev for dev, _ in own) for rate, own in found.items()}
    best = max(RATES, key=lambda rate: means[rate])
    tests = [score for _, score in found[best]]
    # Otherwise the comparison would hold for a procedure that learns or chooses nothing.
    assert len(set(means.values())) > 1
    assert len(set(tests)) > 1

    rows = read_csv(project / "out/settings.csv")
    assert [float(row["dev_score"]) for row in rows] == pytest.approx(list(means.values()))
    assert [row["chosen"] for row in rows] == [str(rate == best) for rate in RATES]
    trials = read_csv(project / "out/trials.csv")
    assert [row["split"] for row in trials] == ["1", "2", "3"]
    assert [float(row["dev_score"]) for row in trials] == [dev for dev, _ in found[best]]
    assert [float(row["test_score"]) for row in trials] == tests
    metrics = read_json(project / "metrics.json")
    assert metrics["test/score"] == pytest.approx(statistics.fmean(tests))
    assert metrics["test/score_std"] == pytest.approx(statistics.stdev(tests))
    assert metrics["test/trainings"] == COUNT
