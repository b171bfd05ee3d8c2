"""The protocol `multi-split` against FewNLU's procedure, written plainly: one row at a time."""

import copy
import itertools
import math
import shutil
import statistics
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer import Typer
from typer.testing import CliRunner

from pipeline.files import read_csv, read_json, read_jsonl, write_jsonl
from pipeline.prompts.store import load_prompts
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
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """A folder with raw data and parameters; the stage of the splits has run in it."""
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
    edit_params(
        tmp_path, superglue__source="superglue", superglue__protocol="multi-split",
        superglue__splits__count=COUNT, superglue__splits__train_share=0.5,
        superglue__splits__train_examples=None, superglue__splits__dev_examples=None,
        superglue__splits__test_examples=None, superglue__seeds=[SEED],
        runtime__threads=1,
    )  # fmt: skip
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    invoke(splits.app, "superglue", "rte", "--raw", "raw", "--out", "splits")
    return tmp_path


def invoke(app: Typer, *arguments: str) -> str:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.fixture
def project(folder: Path, tiny_folders: dict[str, Path]) -> Path:
    """A folder in which a model was tuned on each split, and evaluated."""
    method = "superglue__training__manual-fine-tuning"
    edit_params(
        folder,
        superglue__methods=["manual-fine-tuning"],
        superglue__grid={"manual-fine-tuning": {"model.learning_rate": RATES}},
        **{"superglue__prompts__rte__templates__manual-fine-tuning":
           "{premise} ? {hypothesis} . Answer {mask}",
           f"{method}__epochs": EPOCHS, f"{method}__batch_size": BATCH,
           f"{method}__patience": EPOCHS,
           f"{method}__model__weight_decay": DECAY, f"{method}__model__warmup_ratio": 0.0,
           f"{method}__model__max_grad_norm": None},
    )  # fmt: skip
    where = ["--model", str(tiny_folders["llama"]), "--splits", "splits"]
    stage = ["superglue", "rte", "manual-fine-tuning", *where]
    invoke(train.app, *stage, "--out", "trained", "--curves", "curves.csv")
    outs = ["--out", "out", "--metrics", "metrics.json"]
    invoke(evaluate.app, *stage, "--trained", "trained", *outs)
    return folder


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


def test_prompts_of_all_splits_train_in_one_bank_as_each_trains_by_itself(
    folder: Path, tiny_folders: dict[str, Path]
) -> None:
    method = "superglue__training__prompt-tuning"
    edit_params(
        folder,
        superglue__methods=["prompt-tuning"],
        superglue__seeds=[SEED, 8],
        **{
            "superglue__prompts__rte__templates__prompt-tuning":
            "[P*3] {premise} ? {hypothesis} . Answer {mask}",
            f"{method}__epochs": EPOCHS, f"{method}__batch_size": BATCH,
            f"{method}__patience": EPOCHS, f"{method}__prompt__learning_rate": 0.05,
        },
    )  # fmt: skip
    model = str(tiny_folders["llama"])

    def train_on(where: str, out: str) -> None:
        stage = ["superglue", "rte", "prompt-tuning", "--model", model, "--splits", where]
        invoke(train.app, *stage, "--out", out, "--curves", f"{out}.csv")

    train_on("splits", "together")
    client = mlflow.MlflowClient(f"sqlite:///{folder}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments)
    children = [run for run in runs if "mlflow.parentRunId" in run.data.tags]
    assert sorted((run.info.run_name, run.data.params["trials"]) for run in children) == [
        ("bank-1/seed-7", str(COUNT)),
        ("bank-1/seed-8", str(COUNT)),
    ]

    together, rows = load_prompts(folder / "together"), read_csv(folder / "together.csv")
    assert len(together) == 2 * COUNT
    for number in range(1, COUNT + 1):
        shutil.copytree(folder / f"splits/{number}", folder / f"only-{number}/{number}")
        train_on(f"only-{number}", f"alone-{number}")
        alone = load_prompts(folder / f"alone-{number}")
        assert list(alone) == [f"rte/setting-1/split-{number}/seed-{seed}" for seed in (SEED, 8)]
        for name, prompt in alone.items():
            torch.testing.assert_close(prompt.vectors, together[name].vectors)
            assert prompt.best_epoch == together[name].best_epoch
            assert prompt.dev_score == together[name].dev_score
        expected = [row for row in rows if row["split"] == str(number)]
        found = read_csv(folder / f"alone-{number}.csv")
        for row, other in zip(found, expected, strict=True):
            # float32: a step turns 1e-7 into as much as 1e-5, which depends on the CPU.
            assert {key: float(value) for key, value in row.items() if value} == pytest.approx(
                {key: float(value) for key, value in other.items() if value}, rel=1e-4
            )
    vectors = [prompt.vectors for prompt in together.values()]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(vectors, 2))
