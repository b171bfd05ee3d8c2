"""Promoting, on a project whose stages DVC has on record without having run them."""

import ast
import contextlib
import importlib.metadata
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from dvc.repo import Repo
from ruamel.yaml import YAML
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from pipeline.cli.app import app
from pipeline.data.lama import Fact, LamaSplits, Relation, read_lama, write_lama
from pipeline.data.superglue import read_examples
from pipeline.evaluation.evaluate import evaluate
from pipeline.files import write_json, write_jsonl
from pipeline.models.dataset import PromptFormat
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.prompts.store import StoredPrompt, load_prompts, save_prompts, weights_file
from pipeline.tasks import Example, Task, get_task
from pipeline.tasks.lama import fact_examples, lama_task
from tests.project import LAMA_FACTS, LAMA_TEMPLATES, LAMA_WORDS

RTE = [
    {"premise": f"{a} is in {b} .", "hypothesis": f"{a} is a city", "idx": n, "label": "entailment"}
    for n, (a, b) in enumerate((a, b) for a in ("Paris", "Lyon", "Oslo") for b in ("Asia", "Japan"))
]
TRAININGS = ("rte/setting-1/split-1/seed-1", "rte/setting-1/split-1/seed-2")
SETTINGS = {
    "device": "cpu",
    "dtype": "float32",
    "threads": None,
    "max_tokens_per_forward": 64,
    "top": 3,
}


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path]) -> Path:
    """A project with prompts of LAMA and of RTE, recorded in dvc.lock."""
    root = tmp_path_factory.mktemp("promote") / "project"
    root.mkdir()
    shutil.copytree(tiny_folders["llama"], root / "data/model")
    facts = {
        relation: {
            split: [Fact(relation, subject, answer) for subject, answer in own]
            for split, own in splits.items()
        }
        for relation, splits in LAMA_FACTS.items()
    }
    relations = {name: Relation(name, text, name) for name, text in LAMA_TEMPLATES.items()}
    write_lama(root / "data/splits/lama", LamaSplits(relations, facts, LAMA_WORDS, {}))
    write_jsonl(root / "data/splits/rte/test.jsonl", RTE)
    torch.manual_seed(1)
    _train_lama(root / "models/lama/manual", None, dev_score=0.25)
    _train_lama(root / "models/lama/p-tuning", 3, dev_score=0.5)
    _train_rte(root / "models/rte/p-tuning", load_model(root / "data/model", device="cpu"))
    write_json(root / "metrics/lama/manual.json", {"test/p_at_1": 0.75})
    write_json(root / "metrics/lama/p-tuning.json", {"test/p_at_1": 0.375})
    (root / "params.yaml").write_text("model: {name: tiny, dtype: float32}\n")
    data = ["data/model", "data/splits/lama", "data/splits/rte"]
    stages = {"data": {"cmd": "python -m stages.download all", "outs": data}}
    for names in (["lama", "manual"], ["lama", "p-tuning"], ["superglue", "rte", "p-tuning"]):
        stages |= _stages(*names)
    YAML().dump({"stages": stages}, root / "dvc.yaml")
    Repo.init(str(root), no_scm=True).close()
    _record(root)
    return root


def _stages(*names: str) -> dict[str, Any]:
    """Return training and, of LAMA, evaluation, as the real dvc.yaml has them."""
    short = "/".join(names[1:]) if len(names) > 2 else "/".join(names)
    splits, trained = f"data/splits/{short.split('/')[0]}", f"models/{short}"
    command = f"{' '.join(names)} --model data/model --splits {splits}"
    inputs = ["data/model", splits]
    train = {
        "cmd": f"python -m stages.train {command} --out {trained}",
        "deps": inputs,
        "params": ["model"],
        "outs": [trained],
    }
    stages = {f"train-{short.replace('/', '-')}": train}
    if names[0] == "lama":
        metrics = f"metrics/{short}.json"
        stages[f"evaluate-{short.replace('/', '-')}"] = {
            "cmd": f"python -m stages.evaluate {command} --trained {trained} --metrics {metrics}",
            "deps": [*inputs, trained],
            "metrics": [{metrics: {"cache": False}}],
        }
    return stages


def evaluate_stored(
    network: PromptedModel,
    task: Task,
    prompt: StoredPrompt,
    examples: dict[str, list[Example]],
) -> list[dict[str, Any]]:
    """The predictions of evaluation."""
    form = PromptFormat.from_prompt(task, prompt)
    return evaluate(network, form, prompt.vectors, examples, max_tokens_per_forward=64).predictions


def _train_lama(folder: Path, tokens: int | None, *, dev_score: float) -> None:
    folder.mkdir(parents=True)
    front = "" if tokens is None else f"[P*{tokens}] "
    prompts = {
        f"{name}/setting-1/split-1/seed-1": StoredPrompt(
            f"{front}{{subject}} is in {{mask}}",
            None if tokens is None else torch.randn(tokens, 32),
            best_epoch=1,
            dev_score=dev_score,
        )
        for name in LAMA_TEMPLATES
    }
    save_prompts(folder, folder.name, prompts)


def _train_rte(folder: Path, model: PromptedModel) -> None:
    """Two trainings with tuned weights; dev finds the second better."""
    folder.mkdir(parents=True)
    verbalizer = {"entailment": "yes", "not_entailment": "no"}
    template = "{premise:shorten} [P] {hypothesis} {mask}"
    prompts = {
        name: StoredPrompt(template, torch.randn(1, 32), 1, 0.5 + number / 4, verbalizer, 64)
        for number, name in enumerate(TRAININGS)
    }
    for name in TRAININGS:
        path = weights_file(folder, name)
        path.parent.mkdir(exist_ok=True)
        weights = dict(model.network.named_parameters())
        save_file({key: w.detach() + 0.1 * torch.randn_like(w) for key, w in weights.items()}, path)
    save_prompts(folder, folder.name, prompts)


def _record(root: Path) -> None:
    """Write dvc.lock as if every stage had made what lies there."""
    with contextlib.chdir(root), Repo(str(root)) as repo:
        repo.commit(force=True)


@pytest.fixture
def project(recorded: Path, own_folder: Path) -> Path:
    """A copy, to be changed: the current folder, with its own history."""
    return shutil.copytree(recorded, own_folder, symlinks=True, dirs_exist_ok=True)


def promote(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["promote", *arguments])


def versions(name: str) -> dict[int, Any]:
    found = mlflow.MlflowClient().search_model_versions(f"name = '{name}'")
    return {int(version.version): version for version in found}


def best(name: str) -> int:
    return int(mlflow.MlflowClient().get_model_version_by_alias(name, "best").version)


def test_the_best_by_dev_is_promoted_whatever_test_says(project: Path) -> None:
    result = promote("lama")
    assert result.exit_code == 0, result.output
    assert "p-tuning  p_at_1 dev  50.0  test  37.5  <- chosen by dev\n" in result.stdout
    assert "manual    p_at_1 dev  25.0  test  75.0\n" in result.stdout
    assert "registered as p-tuning-lama, version 1; the best by dev" in result.stdout
    (version,) = versions("p-tuning-lama").values()
    wanted = {"method": "p-tuning", "dev_score": "0.5", "test_score": "0.375", "metric": "p_at_1"}
    assert wanted.items() <= version.tags.items()
    lock = YAML(typ="safe").load(project / "dvc.lock")["stages"]["train-lama-p-tuning"]
    assert version.tags["dvc.md5"] == lock["outs"][0]["md5"]
    assert best("p-tuning-lama") == 1


def test_the_training_that_made_it_is_named(project: Path) -> None:
    lock = YAML(typ="safe").load(project / "dvc.lock")["stages"]["train-lama-p-tuning"]
    mlflow.set_tracking_uri(f"sqlite:///{project}/mlflow.db")
    mlflow.set_experiment("p-tuning-train")
    with mlflow.start_run(tags={"dvc.out.models/lama/p-tuning": lock["outs"][0]["md5"]}) as run:
        pass
    promote("lama")
    assert versions("p-tuning-lama")[1].tags["train_run_id"] == run.info.run_id


def test_the_same_content_has_one_version(project: Path) -> None:
    promote("lama")
    result = promote("lama")
    assert "already registered: p-tuning-lama, version 1; the best" in result.stdout
    assert list(versions("p-tuning-lama")) == [1]


def test_the_alias_follows_the_best_by_dev_on_the_same_data(project: Path) -> None:
    promote("lama")
    result = promote("lama", "--method", "manual")
    assert "version 2; no alias: by dev, version 1 is as good or better" in result.stdout
    assert best("p-tuning-lama") == 1
    shutil.rmtree(project / "models/lama/manual")
    _train_lama(project / "models/lama/manual", None, dev_score=0.75)
    _record(project)
    result = promote("lama")
    assert "manual    p_at_1 dev  75.0" in result.stdout
    assert best("p-tuning-lama") == 3
    # Other data: their scores do not compare.
    write_json(project / "data/splits/lama/prompts.json", {"other": {}})
    _record(project)
    assert promote("lama", "--method", "p-tuning").exit_code == 0
    assert best("p-tuning-lama") == 4


def test_it_is_a_model_that_says_what_it_takes_and_needs(project: Path) -> None:
    promote("lama")
    info = mlflow.models.get_model_info("models:/p-tuning-lama@best")
    assert info.signature.inputs.input_names() == ["relation", "subject"]
    assert info.signature.outputs.input_names() == [
        "answer", "probability", "answers", "probabilities",
    ]  # fmt: skip
    model = mlflow.pyfunc.load_model(info.model_uri, model_config=SETTINGS)
    answers = model.predict(model.input_example)
    assert list(answers.columns) == info.signature.outputs.input_names()
    assert len(answers) == len(LAMA_FACTS)
    folder = Path(mlflow.artifacts.download_artifacts(info.model_uri))
    assert not list(folder.rglob("*.pkl"))
    needed = (folder / "requirements.txt").read_text().split()
    assert f"transformers=={importlib.metadata.version('transformers')}" in needed
    assert not [line for line in needed if "+" in line]


def test_it_answers_as_evaluation_does(project: Path) -> None:
    promote("lama")
    data = read_lama(project / "data/splits/lama")
    network = load_model(project / "data/model", device="cpu")
    prompts = load_prompts(project / "models/lama/p-tuning")
    records = [
        record
        for name, facts in data.facts.items()
        for record in evaluate_stored(
            network,
            lama_task(name, data.vocabulary),
            prompts[f"{name}/setting-1/split-1/seed-1"],
            {split: fact_examples(own) for split, own in facts.items()},
        )
    ]
    model = mlflow.pyfunc.load_model("models:/p-tuning-lama@best", model_config=SETTINGS)
    shuffled = pd.DataFrame(records).sample(frac=1, random_state=1)
    answers = model.predict(shuffled[["relation", "subject"]])
    assert list(answers["answer"]) == list(shuffled["answer"])
    log_probs = [math.log(probability) for probability in answers["probability"]]
    assert log_probs == pytest.approx(list(shuffled["log_prob"]), abs=1e-4)
    for _, row in answers.iterrows():
        assert row["answers"][0] == row["answer"]
        assert row["probabilities"] == sorted(row["probabilities"], reverse=True)
        assert len(row["answers"]) == 3


def test_of_a_task_the_training_that_is_best_by_dev_answers(project: Path) -> None:
    result = promote("rte")
    assert result.exit_code == 0, result.output
    (version,) = versions("p-tuning-rte").values()
    assert version.tags["training"] == TRAININGS[1]
    assert version.tags["dev_score"] == "0.625"
    assert "test_score" not in version.tags
    folder = Path(mlflow.artifacts.download_artifacts("models:/p-tuning-rte@best"))
    assert len(list(folder.rglob("weights/*.safetensors"))) == 1
    trained = project / "models/rte/p-tuning"
    network = load_model(
        project / "data/model", device="cpu", weights=weights_file(trained, TRAININGS[1])
    )
    test = read_examples(project / "data/splits/rte/test.jsonl", get_task("rte").examples)
    expected = evaluate_stored(
        network,
        get_task("rte"),
        load_prompts(trained)[TRAININGS[1]],
        {"train": test, "test": test},
    )
    model = mlflow.pyfunc.load_model("models:/p-tuning-rte@best", model_config=SETTINGS)
    answers = model.predict(pd.DataFrame(RTE)[["premise", "hypothesis"]])
    assert list(answers["answer"]) == [record["answer"] for record in expected]
    log_probs = [math.log(probability) for probability in answers["probability"]]
    assert log_probs == pytest.approx([record["log_prob"] for record in expected], abs=1e-4)
    assert [sum(row) for row in answers["probabilities"]] == pytest.approx([1.0] * len(RTE))


def test_export_writes_what_promote_would_register(project: Path) -> None:
    result = CliRunner().invoke(app, ["export", "rte", "exports/rte"])
    assert result.exit_code == 0, result.output
    assert "p-tuning  score dev  62.5  <- chosen by dev" in result.stdout
    assert "exported p-tuning of rte to exports/rte; on 6 test examples" in result.stdout
    card = (project / "exports/rte/README.md").read_text()
    lock = YAML(typ="safe").load(project / "dvc.lock")["stages"]["train-rte-p-tuning"]
    assert f"| `models/rte/p-tuning` | the trained prompts | `{lock['outs'][0]['md5']}` |" in card
    assert f"`{TRAININGS[1]}`, with the best dev score: 75.0" in card
    again = CliRunner().invoke(app, ["export", "rte", "exports/rte"])
    assert again.exit_code == 1
    assert "error: exports/rte: exists; name another folder, or replace it with --force" in (
        again.stderr
    )


ALONE = """
import json, sys
import mlflow
folder, settings = sys.argv[1], json.loads(sys.argv[2])
model = mlflow.pyfunc.load_model(folder, model_config=settings)
answers = model.predict(model.input_example)
files = [m.__file__ for n, m in sys.modules.items() if n.split(".")[0] == "pipeline"]
print(json.dumps({"answers": list(answers["answer"]), "files": files}))
"""


@pytest.mark.slow
def test_it_answers_without_the_repository(project: Path, tmp_path_factory: Any) -> None:
    promote("lama")
    away = tmp_path_factory.mktemp("away")
    folder = shutil.copytree(
        mlflow.artifacts.download_artifacts("models:/p-tuning-lama@best"), away / "model"
    )
    here = mlflow.pyfunc.load_model(str(folder), model_config=SETTINGS)
    expected = list(here.predict(here.input_example)["answer"])
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW", "PYTHON"))}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, str(folder), json.dumps(SETTINGS)],
        cwd=away, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["answers"] == expected
    files = [Path(file) for file in found["files"]]
    assert files
    assert all(file.is_relative_to(folder / "code") for file in files)
    needed = {line.partition("==")[0] for line in (folder / "requirements.txt").read_text().split()}
    distributions = importlib.metadata.packages_distributions()
    for module in _imported([*files, folder / "serving.py"]):
        assert needed & set(distributions[module]), module


def _imported(files: list[Path]) -> set[str]:
    """Return what files import as they are loaded, their own package and Python's left out."""
    modules = {
        name.partition(".")[0]
        for file in files
        for node in ast.parse(file.read_text()).body
        for name in (
            [alias.name for alias in node.names] if isinstance(node, ast.Import)
            else [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        )
    }  # fmt: skip
    return modules - sys.stdlib_module_names - {"pipeline"}


def test_a_question_that_cannot_be_asked_is_named(project: Path) -> None:
    promote("lama")
    model = mlflow.pyfunc.load_model("models:/p-tuning-lama@best", model_config=SETTINGS)
    for relation, subject, message in (
        ("P99", "Oslo", "row 1: no relation P99; available: P36, P17, P30"),
        ("P17", " ", "row 1: subject is empty"),
        ("P17", "a " * 200, "row 1: template .* tokens more than 128"),
    ):
        rows = pd.DataFrame({"relation": ["P30", relation], "subject": ["Paris", subject]})
        with pytest.raises(mlflow.MlflowException, match=message):
            model.predict(rows)


def test_what_is_not_trained_is_said(project: Path) -> None:
    result = promote("cb")
    assert result.exit_code == 1
    assert "error: cb: not trained in this checkout (trained: lama, rte)" in result.stderr
    result = promote("lama", "--method", "discrete")
    assert "--method discrete: not trained here for lama; choose from manual, p-tuning" in (
        result.stderr
    )
    (project / "dvc.lock").unlink()
    assert "lama: not trained in this checkout (trained: nothing)" in promote("lama").stderr


def test_a_method_that_is_in_dvc_yaml_no_more_is_no_candidate(project: Path) -> None:
    yaml = YAML()
    content = yaml.load(project / "dvc.yaml")
    for stage in ("train", "evaluate"):
        del content["stages"][f"{stage}-lama-p-tuning"]
    yaml.dump(content, project / "dvc.yaml")
    assert "train-lama-p-tuning" in (project / "dvc.lock").read_text()
    result = promote("lama")
    assert "manual  p_at_1 dev  25.0  test  75.0  <- chosen by dev" in result.stdout
    assert "p-tuning  p_at_1" not in result.stdout


def test_stages_of_a_users_own_are_no_candidates_and_score_nothing(project: Path) -> None:
    yaml = YAML()
    content = yaml.load(project / "dvc.yaml")
    own = {"deps": ["models/lama/p-tuning"], "outs": ["own"]}
    content["stages"]["own"] = {"cmd": ["echo it > own", "echo it's >> own"], **own}
    yaml.dump(content, project / "dvc.yaml")
    (project / "own").write_text("it\n")
    _record(project)
    # As where it ran before the evaluation, which is not the first then that read the training.
    lock = yaml.load(project / "dvc.lock")
    lock["stages"].insert(0, "own", lock["stages"].pop("own"))
    yaml.dump(lock, project / "dvc.lock")
    result = promote("lama")
    assert result.exit_code == 0, result.output
    assert "p-tuning  p_at_1 dev  50.0  test  37.5  <- chosen by dev" in result.stdout


def test_what_is_not_what_was_recorded_is_not_promoted(project: Path) -> None:
    path = project / "models/lama/p-tuning/prompts.json"
    path.chmod(0o644)
    path.write_text(path.read_text().replace('"dev_score": 0.5', '"dev_score": 0.9'))
    result = promote("lama")
    assert result.exit_code == 1
    assert "models/lama/p-tuning: differs from dvc.lock; run `dvc repro`" in result.stderr
    shutil.rmtree(project / "models/lama/p-tuning")
    assert "models/lama/p-tuning: not there; `dvc checkout`" in promote("lama").stderr
    (project / "dvc.yaml").unlink()
    shutil.rmtree(project / ".dvc")
    result = promote("lama")
    assert result.exit_code == 1
    assert "not inside of a DVC repository" in result.stderr
