"""Every stage of dvc.yaml, run in this process on a tiny project, in the order of the graph."""

import contextlib
import importlib
import runpy
import shlex
import shutil
import statistics
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from pipeline.config.checks import check_params
from pipeline.config.schema import Section, load_params
from pipeline.data.geonames.facts import GEONAMES_RELATIONS
from pipeline.data.lama import SPLITS, TEST_FACTS, LamaSplits, read_lama, read_relations
from pipeline.files import read_csv, read_json, read_jsonl, sha256, write_json
from pipeline.models.loading import load_model
from pipeline.prompts.store import load_prompts, weights_file
from pipeline.prompts.template import Text, parse_template
from pipeline.sources.lama import LAMA
from pipeline.tasks.lama import FIELDS
from tests.project import LAMA_FACTS, ROOT, edit_params, make_project

pytestmark = pytest.mark.slow

MIRROR = ROOT.parent / "shared" / "mirror" / "lama"
METHODS = [
    "manual", "fine-tuning", "manual-fine-tuning", "p-tuning", "prompt-tuning", "discrete",
]  # fmt: skip
TUNED = ("fine-tuning", "manual-fine-tuning")
# Few steps of all that is trained; large ones, so that what is tuned differs from what is not.
FEW_STEPS: dict[str, Any] = {
    "lama__training__discrete__search__iterations": 2,
    "lama__training__discrete__search__candidates": 2,
    "lama__training__discrete__search__batch_size": 4,
    "lama__training__prompt-tuning__epochs": 1,
    **{f"lama__training__{method}__epochs": 1 for method in TUNED},
    **{f"lama__training__{method}__model__learning_rate": 0.05 for method in TUNED},
}


@dataclass
class Ran:
    """A stage that was run: its declared params, those it read, and what it printed."""

    declared: set[str]
    read: set[str]
    result: Result
    outputs: list[str] = field(default_factory=list)


@dataclass
class Ready:
    """A project in which every stage has run."""

    root: Path
    stages: dict[str, Ran]


class Recorder:
    """In place of a section of the parameters: notes which values are read."""

    def __init__(self, section: Section, path: str, read: set[str]) -> None:
        self._section, self._path, self._read = section, path, read

    def __getattr__(self, name: str) -> Any:
        if name.startswith("model_") and name not in type(self._section).model_fields:
            self._read.add(self._path.rstrip("."))
            return getattr(self._section, name)
        return self._wrap(getattr(self._section, name), f"{self._path}{name}")

    def _wrap(self, value: Any, path: str) -> Any:
        if isinstance(value, Section):
            return Recorder(value, f"{path}.", self._read)
        if isinstance(value, dict) and any(isinstance(v, Section) for v in value.values()):
            items = {key: self._wrap(item, f"{path}.{key}") for key, item in value.items()}
            return NamedSections(items, path, self._read)
        entries = ("lama.prompts", "lama.grid", "superglue.grid", "superglue.overrides")
        by_entry = path in entries or (path.endswith("templates") and "prompts" in path)
        if isinstance(value, dict) and by_entry:
            return RecordingDict(value, path, self._read)
        self._read.add(path)
        return value


class NamedSections(dict[str, Any]):
    """A dictionary of sections; who lists its names reads it as a whole."""

    def __init__(self, values: dict[str, Any], path: str, read: set[str]) -> None:
        super().__init__(values)
        self._path, self._read = path, read

    def __iter__(self) -> Iterator[str]:
        self._read.add(self._path)
        return super().__iter__()


class RecordingDict(dict[str, Any]):
    """A dictionary whose single entries are declared as parameters."""

    def __init__(self, values: dict[str, Any], path: str, read: set[str]) -> None:
        super().__init__(values)
        self._path, self._read = path, read

    def __getitem__(self, key: str) -> Any:
        self._read.add(f"{self._path}.{key}")
        return super().__getitem__(key)

    def get(self, key: str, default: Any = None) -> Any:
        self._read.add(f"{self._path}.{key}")
        return super().get(key, default)


def enter(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Make a project the current folder, and its history the one that is logged into."""
    patch.chdir(root)
    # MLflow leaves the store of the stage before in the environment.
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)


def invoke(command: str, monkeypatch: pytest.MonkeyPatch, read: set[str] | None = None) -> Result:
    """Run a stage's command in this process; note the parameters it reads."""
    _, _, module, *arguments = shlex.split(command)
    stage = importlib.import_module(module)
    if read is not None and hasattr(stage, "load_params"):

        def recorded(path: Path) -> Any:
            return Recorder(load_params(path), "", read)

        monkeypatch.setattr(stage, "load_params", recorded)
    return CliRunner().invoke(stage.app, arguments)


OWN_TASK = {
    "data": {
        "file": "rows.csv",
        "fields": {"text": "Text"},
        "label": "Label",
        "labels": ["no", "yes"],
        "choices": None,
        "group": None,
        "splits": {"train": None, "dev": 0.25, "test": 0.25},
    },
    "metrics": ["accuracy", "f1_positive"],
    "positive": "yes",
    "prompts": {
        "max_length": 32,
        "verbalizer": {"no": "no", "yes": "yes"},
        "templates": {"p-tuning": "p-tuning"},
    },
    "seeds": [34],
    "selection": "dev",
    "overrides": {"p-tuning": {"epochs": 1}},
}


# Two answers of several tokens, as in COPA, and groups that are scored together, as in MultiRC.
CHOICE_TASK = {
    **OWN_TASK,
    "data": {
        "file": "rows.tsv",
        "fields": {"text": "Text", "one": "One", "two": "Two"},
        "label": "Right",
        "labels": ["0", "1"],
        "choices": ["one", "two"],
        "group": "Of",
        "splits": {"train": None, "dev": 8, "test": 8},
    },
    "metrics": ["accuracy", "em"],
    "positive": None,
    "prompts": {
        "max_length": 32,
        "verbalizer": None,
        "templates": {"p-tuning": "{text:shorten} [P] {mask}"},
    },
}


@pytest.fixture(scope="module")
def ready(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path], empty_store: Path
) -> Ready:
    """The geonames under every method, a causal model."""
    root = make_project(
        tmp_path_factory.mktemp("stages") / "project",
        tiny_folders["llama"],
        lama__methods=METHODS,
        lama__stability__methods=["manual", "p-tuning"],
        tasks={"own": OWN_TASK, "choice": CHOICE_TASK},
        **FEW_STEPS,
    )
    rows = "".join(f"the city {n},{'yes' if n % 2 else 'no'}\n" for n in range(24))
    (root / "rows.csv").write_text(f"Text,Label\n{rows}")
    rows = "".join(f"{n // 4}\tin {n},the\tParis\tthe city\t{n % 2}\n" for n in range(32))
    (root / "rows.tsv").write_text(f"Of\tText\tOne\tTwo\tRight\n{rows}")
    shutil.copyfile(empty_store, root / "mlflow.db")
    return Ready(root, run_stages(root))


@pytest.fixture(scope="module", params=["bert", "gpt2"])
def ready_lama(
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    tiny_folders: dict[str, Path],
    empty_store: Path,
) -> Ready:
    """A tiny LAMA out of a mirror: all relations, all facts, published prompts."""
    root = make_project(
        tmp_path_factory.mktemp("stages-lama") / "project",
        tiny_folders[request.param],
        lama__source="lama",
        lama__relations="all",
        lama__splits={"train_facts": None, "dev_facts": None, "test_facts": None},
        lama__methods=["manual", "p-tuning", "discrete"],
        lama__stability__methods=["manual"],
        lama__stability__relations=["P17", "P30"],
        lama__stability__templates="pararel_patterns",
        superglue__tasks=[],
        **FEW_STEPS | {"lama__training__discrete__search__prompts": "lpaqa_mine"},
    )
    shutil.copyfile(empty_store, root / "mlflow.db")
    return Ready(root, run_stages(root))


def run_stages(root: Path) -> dict[str, Ran]:
    """Run all stages but the first in this process, in the order of the graph."""
    ran = {}
    with pytest.MonkeyPatch.context() as patch:
        enter(root, patch)
        # The copy has its own digests and counts in the tables of sources.
        use_copied_sources(root, patch)
        with Repo(str(root)) as repo:
            order = [s for s in _topological(repo) if s.name != "validate"]
        for stage in order:
            declared = {
                name
                for dep in stage.deps
                if isinstance(dep, ParamsDependency)
                for name in dep.params
            }
            with pytest.MonkeyPatch.context() as recording:
                read: set[str] = set()
                result = invoke(stage.cmd, recording, read)
            outputs = [out.def_path for out in stage.outs]
            ran[stage.addressing] = Ran(declared, read, result, outputs)
    return ran


def _topological(repo: Repo) -> list[Any]:
    graph = repo.index.graph
    done: list[Any] = []

    def visit(stage: Any) -> None:
        for before in sorted(graph.successors(stage), key=lambda s: s.addressing):
            visit(before)
        if stage not in done:
            done.append(stage)

    for stage in sorted(graph, key=lambda s: s.addressing):
        visit(stage)
    return done


def trial(task: str) -> str:
    """The name of a task's only trial."""
    return f"{task}/setting-1/split-1/seed-34"


def weights_name(task: str) -> str:
    return f"{task}-setting-1-split-1-seed-34.safetensors"


def use_copied_sources(root: Path, patch: pytest.MonkeyPatch) -> None:
    """Use the project's digests and numbers of facts in place of the repository's."""
    geonames = runpy.run_path(str(root / "pipeline/sources/geonames.py"))["GEONAMES"]
    for name in ("lama", "superglue"):
        patch.setattr(f"pipeline.sources.{name}.GEONAMES", geonames)
    test_facts = runpy.run_path(str(root / "pipeline/data/lama.py"))["TEST_FACTS"]
    patch.setattr("pipeline.sources.lama.LAMA", replace(LAMA, test_facts=test_facts))


def assert_all_ended_well(ready: Ready) -> None:
    with contextlib.chdir(ready.root):
        check_params(load_params(Path("params.yaml")))
    failed = {name: ran.result.output for name, ran in ready.stages.items() if ran.result.exit_code}
    assert not failed
    missing = [
        out
        for ran in ready.stages.values()
        for out in ran.outputs
        if not (ready.root / out).exists()
    ]
    assert not missing


def assert_all_is_declared(ready: Ready) -> None:
    for name, ran in ready.stages.items():
        assert ran.read, name
        undeclared = {
            path
            for path in ran.read
            if path.split(".")[0] != "runtime"
            and not any(path == d or path.startswith(f"{d}.") for d in ran.declared)
        }
        assert not undeclared, f"{name} reads {undeclared}; declare it under params"


def test_every_stage_ends_well(ready: Ready) -> None:
    assert_all_ended_well(ready)
    stages = {name.partition("@")[0] for name in ready.stages}
    assert stages >= {"train-lama", "train-stability", "train-superglue", "evaluate-stability"}
    assert {f"train-lama@{method}" for method in METHODS} <= set(ready.stages)


def test_a_stage_reads_no_parameter_that_it_does_not_declare(ready: Ready) -> None:
    assert_all_is_declared(ready)


def test_a_stage_declares_no_parameter_that_it_does_not_read(ready: Ready) -> None:
    for name, ran in ready.stages.items():
        idle = {
            declared
            for declared in ran.declared
            # Of the geonames, all facts are asked, and its examples are dealt: see the tests of
            # LAMA and of SuperGLUE's protocols.
            if declared not in ("lama.subset", "superglue.protocol")
            # They are merged into each method's section when the file is read.
            and not declared.endswith(".training.defaults")
            and not any(
                path == declared
                or path.startswith(f"{declared}.")
                or declared.startswith(f"{path}.")
                for path in ran.read
            )
        }
        assert not idle, f"{name} declares {idle} and never reads it"


COUNTED = {"facts", "left_out", "trainings", "settings", "hard_facts", "steps"}


def test_metrics_are_where_people_and_scripts_rely_on_them(ready: Ready) -> None:
    keys = {
        "test/p_at_1", "dev/p_at_1", "test/majority", "test/constant", "test/naive_bayes",
        "test/facts", "test/left_out", "test/trainings", "test/settings", "test/p_at_1_hard",
        "test/hard_facts", "train/facts", "dev/facts", "train/steps",
    }  # fmt: skip
    counts = {key for key in keys if key.partition("/")[2] in COUNTED}
    for method in METHODS:
        lama = read_json(ready.root / f"metrics/lama/{method}.json")
        assert set(lama) == keys
        assert all(0 <= lama[key] <= 1 for key in keys - counts)
        folder = ready.root / "evaluation/lama" / method
        head = (folder / "relations.csv").read_text().splitlines()[0]
        assert head == ("relation,train_facts,dev_facts,facts,steps,hard_facts,p_at_1_hard,p_at_1")
        head = (folder / "controls.csv").read_text().splitlines()[0]
        assert head == "relation,label,left_out,majority,constant,naive_bayes"
    rte = read_json(ready.root / "metrics/superglue/rte/p-tuning.json")
    assert 0 <= rte["test/score"] <= 1
    splits = read_json(ready.root / "metrics/splits/lama.json")
    assert splits == {"relations": 2, "train/facts": 21, "dev/facts": 10, "test/facts": 10}
    for method in ("manual", "p-tuning"):
        stability = read_json(ready.root / f"metrics/stability/{method}.json")
        assert set(stability) == {
            "test/relations", "test/templates", "test/p_at_1", "test/p_at_1_worst",
            "test/p_at_1_best", "test/p_at_1_std", "test/trainings", "test/settings",
        }  # fmt: skip


def shares_of(records: list[dict[str, Any]], key: str) -> dict[str, float]:
    """Key of a prediction -> share of right answers."""
    right: dict[str, list[bool]] = {}
    for record in records:
        right.setdefault(record[key], []).append(record["answer"] == record["object"])
    return {name: sum(answers) / len(answers) for name, answers in right.items()}


def assert_scores_are_those_of_the_predictions(ready: Ready, method: str) -> None:
    folder = ready.root / "evaluation/lama" / method
    records = read_jsonl(folder / "predictions/predictions.jsonl")
    asked = Counter(record["relation"] for record in records)
    shares = shares_of(records, "relation")
    rows = read_csv(folder / "relations.csv")
    assert {row["relation"]: int(row["facts"]) for row in rows} == asked
    for row in rows:
        assert float(row["p_at_1"]) == pytest.approx(shares[row["relation"]])
    metrics = read_json(ready.root / f"metrics/lama/{method}.json")
    assert metrics["test/p_at_1"] == pytest.approx(sum(shares.values()) / len(shares))
    assert metrics["test/facts"] == len(records)
    hard = [record for record in records if record["hard"]]
    assert metrics["test/hard_facts"] == len(hard)
    hard_shares = shares_of(hard, "relation")
    assert metrics["test/p_at_1_hard"] == pytest.approx(
        sum(hard_shares.values()) / len(hard_shares)
    )
    curve = read_csv(ready.root / f"curves/lama/{method}.csv")
    epochs = [max(int(p["epoch"]) for p in curve if p["relation"] == name) for name in asked]
    assert (metrics["train/steps"] > 0) == any(epochs)
    controls = read_csv(folder / "controls.csv")
    for key in ("majority", "constant", "naive_bayes"):
        values = [float(row[key]) for row in controls]
        assert metrics[f"test/{key}"] == pytest.approx(sum(values) / len(values))
    stored = load_prompts(ready.root / "models/lama" / method)
    scores = [prompt.dev_score for prompt in stored.values()]
    assert metrics["dev/p_at_1"] == pytest.approx(sum(scores) / len(scores))


@pytest.mark.parametrize("method", METHODS)
def test_the_mean_over_relations_is_that_of_the_predictions(ready: Ready, method: str) -> None:
    assert_scores_are_those_of_the_predictions(ready, method)


@pytest.mark.parametrize("method", ["manual", "p-tuning"])
def test_stability_asks_the_same_facts_under_each_template(ready: Ready, method: str) -> None:
    folder = ready.root / "evaluation/stability" / method
    rows = read_csv(folder / "templates.csv")
    assert [(row["relation"], row["number"]) for row in rows] == [
        ("P17", str(number)) for number in range(1, 5)
    ]
    templates = [row["template"] for row in rows]
    if method == "manual":
        assert templates[0] == "{subject} is located in {mask}."
    else:
        assert templates[3] == (
            "[P*3] {subject} is located in which country? In [P*3] {mask} [P*3]."
        )
    assert len(set(templates)) == 4
    records = read_jsonl(folder / "predictions/predictions.jsonl")
    asked = {
        name: [(r["relation"], r["subject"], r["object"]) for r in records if r["trial"] == name]
        for name in map(trial, ("P17/1", "P17/2", "P17/3", "P17/4"))
    }
    assert len({tuple(facts) for facts in asked.values()}) == 1
    assert sum(map(len, asked.values())) == len(records) > 0
    shares = list(shares_of(records, "trial").values())
    assert [float(row["p_at_1"]) for row in rows] == pytest.approx(shares)
    metrics = read_json(ready.root / f"metrics/stability/{method}.json")
    assert metrics == {
        "test/relations": 1,
        "test/templates": 4,
        "test/p_at_1": pytest.approx(statistics.mean(shares)),
        "test/p_at_1_worst": pytest.approx(min(shares)),
        "test/p_at_1_best": pytest.approx(max(shares)),
        "test/p_at_1_std": pytest.approx(statistics.stdev(shares)),
        "test/trainings": 1,
        "test/settings": 1,
    }


SUBJECT = ("stage", "benchmark", "task", "method")


def test_logged_metrics_equal_the_written_file(ready: Ready) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{ready.root}/mlflow.db")
    runs = {
        "/".join(run.data.tags[key] for key in SUBJECT if key in run.data.tags): run
        for run in mlflow.search_runs(search_all_experiments=True, output_format="list")
    }
    files = {
        "evaluate/superglue/rte/p-tuning": "metrics/superglue/rte/p-tuning.json",
        "evaluate/stability/p-tuning": "metrics/stability/p-tuning.json",
        "splits/lama": "metrics/splits/lama.json",
        **{f"evaluate/lama/{method}": f"metrics/lama/{method}.json" for method in METHODS},
    }
    for name, file in files.items():
        written = read_json(ready.root / file)
        assert {key: runs[name].data.metrics[key] for key in written} == written
    for method in METHODS:
        trained = runs[f"train/lama/{method}"].data.metrics
        written = read_json(ready.root / f"metrics/lama/{method}.json")
        assert trained["dev/p_at_1"] == written["dev/p_at_1"]
        # One seed: relations are not trainings, and their spread is no standard deviation.
        assert "dev/p_at_1_std" not in {*trained, *written}
    children = [run for run in runs.values() if "mlflow.parentRunId" in run.data.tags]
    assert len(runs) - len(children) == len(ready.stages)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


@pytest.mark.parametrize(
    ("method", "epochs"),
    [("manual", 0), ("fine-tuning", 1), ("p-tuning", 2), ("prompt-tuning", 1), ("discrete", 2)],
)
def test_curves_hold_one_row_an_epoch_and_the_epoch_before(
    ready: Ready, method: str, epochs: int
) -> None:
    rows = read_csv(ready.root / f"curves/lama/{method}.csv")
    for relation in ("P17", "P30"):
        own = [row for row in rows if row["relation"] == relation]
        assert [row["epoch"] for row in own] == [str(epoch) for epoch in range(epochs + 1)]
        assert [row["train_loss"] == "" for row in own] == [True] + [False] * epochs
    assert len(rows) == 2 * (epochs + 1)
    if method in ("manual", "p-tuning"):
        stability = read_csv(ready.root / f"curves/stability/{method}.csv")
        names = [f"P17/{number}" for number in range(1, 5)]
        assert [row["relation"] for row in stability] == sorted(names * (epochs + 1))


SAME = [
    ("lama p-tuning --splits data/splits/lama", "models/lama/p-tuning"),
    ("lama manual-fine-tuning --splits data/splits/lama", "models/lama/manual-fine-tuning"),
    ("lama discrete --splits data/splits/lama", "models/lama/discrete"),
    ("stability p-tuning --splits data/splits/lama", "models/stability/p-tuning"),
    ("superglue rte p-tuning --splits data/splits/superglue/rte", "models/superglue/rte/p-tuning"),
]


@pytest.mark.parametrize(("arguments", "folder"), SAME, ids=[folder for _, folder in SAME])
def test_the_same_parameters_give_the_same_bytes(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: str, folder: str
) -> None:
    enter(ready.root, monkeypatch)
    out = tmp_path / "again"
    torch.manual_seed(0)  # whatever was drawn before must not matter
    command = (
        f"python -m stages.train {arguments} --model data/model --out {out} --curves {out}.csv"
    )
    assert invoke(command, monkeypatch).exit_code == 0
    assert contents(out) == contents(ready.root / folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_prompts_have_moved_and_a_frozen_model_is_not_kept(ready: Ready) -> None:
    for method in ("p-tuning", "prompt-tuning"):
        vectors = load_file(ready.root / f"models/lama/{method}/prompts.safetensors")
        assert set(vectors) == {trial("P17"), trial("P30")}
        assert all(len(own) == 9 for own in vectors.values())
    kept = {
        path.relative_to(ready.root / "models").as_posix()
        for path in (ready.root / "models").rglob("weights/*")
    }
    assert kept == {
        f"superglue/rte/p-tuning/weights/{weights_name('rte')}",
        *(f"tasks/{name}/p-tuning/weights/{weights_name(name)}" for name in ("own", "choice")),
        *(f"lama/{method}/weights/{weights_name(name)}" for method in TUNED for name in RELATIONS),
    }


def test_answers_of_groups_are_scored_together(ready: Ready) -> None:
    metrics = read_json(ready.root / "metrics/tasks/choice/p-tuning.json")
    folder = ready.root / "data/splits/tasks/choice"
    group = {str(record["idx"]): record["group"] for record in read_jsonl(folder / "test.jsonl")}
    file = ready.root / "evaluation/tasks/choice/p-tuning/predictions/predictions.jsonl"
    right: dict[str, list[bool]] = {}
    for record in read_jsonl(file):
        assert record["answer"] in ("0", "1")
        right.setdefault(group[record["example"]], []).append(record["answer"] == record["label"])
    assert len(right) == 2
    assert metrics["test/em"] == sum(map(all, right.values())) / 2
    assert "test/naive_bayes" not in metrics


RELATIONS = ("P17", "P30")
EVALUATE = (
    "python -m stages.evaluate lama {method} --model data/model --splits data/splits/lama "
    "--trained {trained} --out answers --metrics m.json"
)


def log_probs(predictions: Path) -> dict[str, list[float]]:
    """Relation -> what the best answers were given, fact by fact."""
    found: dict[str, list[float]] = {}
    for record in read_jsonl(predictions / "predictions.jsonl"):
        found.setdefault(record["relation"], []).append(record["log_prob"])
    return found


def record_weights(folder: Path) -> None:
    """Record the weights that a folder has now as those of its prompts."""
    record = read_json(folder / "prompts.json")
    for name, entry in record["prompts"].items():
        path = weights_file(folder, name)
        digest = {"file": f"weights/{path.name}", "sha256": sha256(path)} if path.exists() else None
        entry["weights"] = digest
    write_json(folder / "prompts.json", record)


def test_evaluation_uses_each_relations_own_weights(
    ready: Ready, spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = ready.root / "evaluation/lama/manual-fine-tuning/predictions"
    manual = log_probs(ready.root / "evaluation/lama/manual/predictions")
    tuned = log_probs(folder)
    # The layout is that of manual; only the weights differ.
    trained = ready.root / "models/lama/manual-fine-tuning"
    layouts = [load_prompts(trained.with_name(m)) for m in ("manual", "manual-fine-tuning")]
    assert [own[trial("P17")].template for own in layouts] == [
        "{subject} is located in {mask} ."
    ] * 2
    assert all(tuned[name] != manual[name] for name in RELATIONS)

    shutil.copytree(trained, "spoilt")
    weights = {name: Path("spoilt/weights", weights_name(name)) for name in RELATIONS}
    assert weights["P17"].read_bytes() != weights["P30"].read_bytes()
    shutil.copyfile(weights["P30"], weights["P17"])
    command = EVALUATE.format(method="manual-fine-tuning", trained="spoilt")
    result = invoke(command, monkeypatch)
    assert f"{weights['P17']}: replaced or altered" in result.stderr
    record_weights(Path("spoilt"))
    assert invoke(command, monkeypatch).exit_code == 0
    changed = log_probs(Path("answers/predictions"))
    assert changed["P17"] != tuned["P17"]
    assert changed["P30"] == tuned["P30"]

    weights["P30"].unlink()
    assert f"{weights['P30']}: missing" in invoke(command, monkeypatch).stderr
    # A frozen relation is asked of the model as it was, after one with tuned weights.
    record_weights(Path("spoilt"))
    assert invoke(command, monkeypatch).exit_code == 0
    assert log_probs(Path("answers/predictions"))["P30"] == manual["P30"]


def test_p_tuning_may_tune_the_model_with_the_prompt(
    ready: Ready, spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    params = load_params(Path("params.yaml"))
    both = params.superglue.training["p-tuning"].model_dump() | {"epochs": 4}
    both["model"]["learning_rate"] = 0.003
    assert both["tune"] == ["prompt", "model"]
    edit_params(spare, **{"lama__training__p-tuning": both})
    result = invoke(TRAIN_LAMA, monkeypatch)
    assert result.exit_code == 0, result.output
    assert set(contents(Path("out"))) == {
        "prompts.json", "prompts.safetensors", "trials.json",
        *(f"weights/{weights_name(name)}" for name in RELATIONS),
    }  # fmt: skip
    command = EVALUATE.format(method="p-tuning", trained="out")
    assert invoke(command, monkeypatch).exit_code == 0
    tuned = log_probs(Path("answers/predictions"))
    shutil.rmtree("out/weights")
    record_weights(Path("out"))
    assert invoke(command, monkeypatch).exit_code == 0
    untuned = log_probs(Path("answers/predictions"))
    # Where dev keeps the start, the weights are the model's own.
    prompts = load_prompts(Path("out"))
    moved = {name: prompts[trial(name)].best_epoch > 0 for name in RELATIONS}
    assert any(moved.values())
    assert {name: tuned[name] != untuned[name] for name in RELATIONS} == moved


def test_all_relations_and_facts_of_the_geonames_may_be_asked_for(
    spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params(
        spare, lama__relations="all",
        lama__splits={"train_facts": None, "dev_facts": None, "test_facts": None},
    )  # fmt: skip
    command = "python -m stages.splits lama --raw data/raw/lama --out out --metrics m.json"
    assert invoke(command, monkeypatch).exit_code == 0
    splits = read_lama(Path("out"))
    assert list(splits.relations) == list(GEONAMES_RELATIONS)
    # Nobody says how to deal them, so each split gets a third.
    assert {name: len(splits.facts["P17"][name]) for name in SPLITS} == dict.fromkeys(SPLITS, 20)
    totals = read_json(Path("m.json"))
    assert totals == {
        "relations": 6,
        **{
            f"{split}/facts": sum(len(own[split]) for own in splits.facts.values())
            for split in SPLITS
        },
    }


def test_a_split_that_nothing_fits_into_is_named_with_what_there_is(
    spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Examples of RTE come in twos that share a premise.
    edit_params(
        spare, superglue__splits__train_examples=8, superglue__splits__dev_examples=1,
        superglue__splits__test_examples=8,
    )  # fmt: skip
    command = "python -m stages.splits superglue rte --raw data/raw/superglue/rte --out out"
    assert_one_message(
        invoke(command, monkeypatch), "superglue.splits: rte: no examples in 1/dev",
        "sizes: test 8, 1/train 8, 1/dev 0", "request more examples there",
    )  # fmt: skip
    assert not Path("out").exists()


def test_cut_weights_are_named(ready: Ready, spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(ready.root / "models/lama/fine-tuning", "spoilt")
    path = Path("spoilt/weights", weights_name("P30"))
    path.write_bytes(path.read_bytes()[:-9])
    command = EVALUATE.format(method="fine-tuning", trained="spoilt").replace("answers", "out")
    assert_one_message(invoke(command, monkeypatch), weights_name("P30"), "replaced or altered")
    assert not Path("m.json").exists()


def test_a_discrete_prompt_has_words_that_people_can_read(ready: Ready) -> None:
    prompts = read_json(ready.root / "models/lama/discrete/prompts.json")["prompts"]
    model = load_model(ready.root / "data/model", device="cpu")
    vectors = load_file(ready.root / "models/lama/discrete/prompts.safetensors")
    for name in RELATIONS:
        prompt = prompts[trial(name)]
        assert prompt["template"] == "{subject} [P*5] {mask} ."
        words = prompt["words"]
        assert len(words) == prompt["prompt_tokens"] == 5
        ids = model.codec.tokenizer.convert_tokens_to_ids(words)
        assert torch.equal(vectors[trial(name)], model.input_embeddings(torch.tensor(ids)).detach())
    for method in METHODS[:-1]:
        stored = load_prompts(ready.root / "models/lama" / method)
        assert all(prompt.words is None for prompt in stored.values())


def test_two_invented_relations_of_a_csv_reach_the_report(
    tmp_path: Path, tiny_folders: dict[str, Path], empty_store: Path
) -> None:
    root = make_project(
        tmp_path / "project",
        tiny_folders["gpt2"],
        lama__source="facts",
        lama__facts="own.csv",
        lama__relations="all",
        lama__methods=["manual", "p-tuning"],
        superglue__tasks=[],
        **FEW_STEPS,
    )
    places = [f"{letter} city" for letter in "abcdefghijklmnopqrstuvwx"]
    names = {"likes": ["Paris", "Oslo"], "of": ["Japan", "Asia", "no city"]}
    rows = [
        f"{relation},{place},{objects[n % len(objects)]},{template if n == 5 else ''}\n"
        for relation, template, objects in (
            ("likes", "[X] is in [Y]", names["likes"]), ("of", "{subject} of {mask} .", names["of"])
        )
        for n, place in enumerate(places)
    ]  # fmt: skip
    (root / "own.csv").write_text(f"relation,subject,object,template\n{''.join(rows)}")
    shutil.copyfile(empty_store, root / "mlflow.db")
    ready = Ready(root, run_stages(root))
    assert_all_ended_well(ready)
    splits = read_lama(root / "data/splits/lama")
    assert {name: one.template for name, one in splits.relations.items()} == {
        "likes": "[X] is in [Y]", "of": "{subject} of {mask} .",
    }  # fmt: skip
    assert splits.vocabulary == ["Asia", "Japan", "Oslo", "Paris", "no city"]
    for own in splits.facts.values():
        assert sum(map(len, own.values())) == len(places)
    test = sum(len(own["test"]) for own in splits.facts.values())
    for method in ("manual", "p-tuning"):
        metrics = read_json(root / f"metrics/lama/{method}.json")
        # "no city" is several tokens.
        assert metrics["test/facts"] + metrics["test/left_out"] == test
        assert 0 < metrics["test/left_out"] < test
        assert_scores_are_those_of_the_predictions(ready, method)
    text = (root / "report/report.md").read_text()
    assert "Knowledge probing: `facts`, 2 relations" in text
    assert "### Comparison with the paper" not in text


# LAMA itself


def test_every_stage_of_lama_ends_well_and_declares_what_it_reads(ready_lama: Ready) -> None:
    assert_all_ended_well(ready_lama)
    assert_all_is_declared(ready_lama)
    assert "lama.subset" in ready_lama.stages["splits-lama"].read


def test_lamas_splits_are_taken_as_they_are_without_what_two_of_them_share(
    ready_lama: Ready,
) -> None:
    splits = read_lama(ready_lama.root / "data/splits/lama")
    assert list(splits.relations) == list(splits.facts) == ["P36", "P17", "P30"]
    pairs = {
        name: {split: [(f.sub_label, f.obj_label) for f in own[split]] for split in SPLITS}
        for name, own in splits.facts.items()
    }
    expected = {name: dict(own) for name, own in LAMA_FACTS.items()}
    shared = {"train": [("Lyon", "France"), ("Paris", "France")], "dev": [("Paris", "France")]}
    for split, own in shared.items():
        expected["P17"][split] = [pair for pair in expected["P17"][split] if pair not in own]
    assert pairs == expected
    assert read_json(ready_lama.root / "metrics/splits/lama.json") == {
        "relations": 3,
        "train/facts": 28,
        "dev/facts": 8,
        "test/facts": 12,
        "test/outside_vocabulary": 0,
        "dev/overlap": 1,
        "dev/outside_vocabulary": 0,
        "train/overlap": 3,
        "train/outside_vocabulary": 0,
    }
    counts = read_json(ready_lama.root / "data/splits/lama/counts.json")
    # One of them was taken out before the mirror was made.
    assert counts["P17"]["train/overlap"] == 3
    assert counts["P36"] == {
        "train/facts": 9, "dev/facts": 3, "test/facts": 3, "test/outside_vocabulary": 0,
        "dev/overlap": 0, "dev/outside_vocabulary": 0, "train/overlap": 0,
        "train/outside_vocabulary": 0,
    }  # fmt: skip


@pytest.mark.parametrize("method", ["manual", "p-tuning", "discrete"])
def test_lamas_scores_are_those_of_the_predictions(ready_lama: Ready, method: str) -> None:
    assert_scores_are_those_of_the_predictions(ready_lama, method)
    metrics = read_json(ready_lama.root / f"metrics/lama/{method}.json")
    # "Upper" is an allowed word, but no single token of these models.
    assert (metrics["test/facts"], metrics["test/left_out"]) == (11, 1)
    prompts = load_prompts(ready_lama.root / "models/lama" / method)
    assert list(prompts) == [trial(name) for name in ("P36", "P17", "P30")]
    p17 = {
        "manual": "{subject} is located in {mask} .",
        "p-tuning": "[P*3] {subject} is located in [P*3] {mask} [P*3] .",
    }
    if method != "discrete":
        assert prompts[trial("P17")].template == p17[method]


def test_a_published_prompt_is_one_of_those_that_the_model_can_be_asked(ready_lama: Ready) -> None:
    masked = load_model(ready_lama.root / "data/model", device="cpu").masked
    published = ["{subject} is in {mask} .", "{subject} of lpaqa_mine: {mask}"]
    if masked:
        published.append("{mask} is the capital of {subject} .")
    for prompt in load_prompts(ready_lama.root / "models/lama/discrete").values():
        assert prompt.template in published
    rows = read_csv(ready_lama.root / "evaluation/stability/manual/templates.csv")
    expected = {"P17": 3 if masked else 2, "P30": 3 if masked else 2}
    assert Counter(row["relation"] for row in rows) == expected
    said = ready_lama.stages["train-stability@manual"].result.output
    assert ("P17: 1 templates name the subject last; skipped" in said) == (not masked)


def go(
    ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, **edits: Any
) -> tuple[Result, Path]:
    """Run a stage of a project under edited parameters; return where it was to write."""
    params = tmp_path / "params.yaml"
    shutil.copyfile(ready.root / "params.yaml", params)
    edit_params(tmp_path, **edits)
    enter(ready.root, monkeypatch)
    out = tmp_path / "out"
    result = invoke(f"{command} --params {params} --out {out}", monkeypatch)
    return result, out


def test_the_smaller_subset_has_fewer_facts_and_caps_draw_of_them(
    ready_lama: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics = tmp_path / "metrics.json"
    command = f"python -m stages.splits lama --raw data/raw/lama --metrics {metrics}"
    result, out = go(
        ready_lama, tmp_path, monkeypatch, command,
        lama__subset="29k", lama__relations=["P17", "P36"],
        lama__splits={"train_facts": 4, "dev_facts": None, "test_facts": None},
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    splits = read_lama(out)
    assert list(splits.relations) == ["P17", "P36"]
    assert "Oslo" not in splits.vocabulary
    assert read_json(metrics) == {
        "relations": 2, "train/facts": 8, "dev/facts": 5, "test/facts": 7,
        "test/outside_vocabulary": 1, "dev/overlap": 1, "dev/outside_vocabulary": 1,
        "train/overlap": 3, "train/outside_vocabulary": 3,
    }  # fmt: skip


@pytest.mark.parametrize("ready_lama", ["bert"], indirect=True)
def test_objects_of_several_tokens_reach_the_metrics_and_predictions(
    ready_lama: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    splits, trained = tmp_path / "splits", tmp_path / "trained"
    every = {"lama__objects": "all", "lama__relations": ["P17", "P30"]}
    command = f"python -m stages.splits lama --raw data/raw/lama --metrics {tmp_path}/m.json"
    result, out = go(ready_lama, tmp_path, monkeypatch, command, **every)
    assert result.exit_code == 0, result.output
    out.rename(splits)
    objects = {"P17": ["France", "Japan", "Norway", "Upper"], "P30": ["Asia", "Europe"]}
    assert read_json(splits / "objects.json") == objects
    read = f"--model data/model --splits {splits}"
    command = f"python -m stages.train lama p-tuning {read} --curves {tmp_path}/curves.csv"
    result, out = go(ready_lama, tmp_path, monkeypatch, command, **every)
    assert result.exit_code == 0, result.output
    out.rename(trained)
    metrics = tmp_path / "metrics.json"
    command = f"python -m stages.evaluate lama p-tuning {read} --trained {trained}"
    result, out = go(ready_lama, tmp_path, monkeypatch, f"{command} --metrics {metrics}", **every)
    assert result.exit_code == 0, result.output
    values = read_json(metrics)
    assert (values["test/facts"], values["test/left_out"]) == (9, 0)
    assert values["test/one_token_facts"] == 8  # without "Upper"
    rows = read_csv(out / "relations.csv")
    assert [row["one_token_facts"] for row in rows] == ["4", "4"]
    found = read_jsonl(out / "predictions" / "predictions.jsonl")
    assert all(record["answer"] in objects[record["relation"]] for record in found)
    hits = [record["answer"] == record["object"] for record in found if record["relation"] == "P17"]
    assert float(rows[0]["p_at_1"]) == pytest.approx(sum(hits) / 5)
    assert [record["rank"] == 1 for record in found][:5] == hits


def test_a_published_template_with_a_brace_is_words_like_any_other(
    ready_lama: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of AutoPrompt's own is `[X] "{">phys town bordering [Y] .`."""
    result, out = go(
        ready_lama, tmp_path, monkeypatch,
        f"python -m stages.train lama discrete --model data/model --splits data/splits/lama "
        f"--curves {tmp_path}/curves.csv",
        lama__training__discrete__search__prompts="autoprompt_relext_roberta",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    template = parse_template(load_prompts(out)[trial("P17")].template, FIELDS)
    texts = [part.text for part in template.parts if isinstance(part, Text)]
    assert texts == [' "{">phys town bordering ', " ."]


@pytest.mark.parametrize("stage", ["lama discrete", "stability manual"])
@pytest.mark.parametrize(
    ("collection", "said"),
    [
        (
            "lpaqa_best",
            "no collection 'lpaqa_best' in this data; available: table-1, autoprompt_bert",
        ),
        ("table-1", "'table-1' has no template for P"),
    ],
)
def test_a_collection_that_is_not_there_is_named_with_those_that_are(
    ready_lama: Ready,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    stage: str,
    collection: str,
    said: str,
) -> None:
    result, out = go(
        ready_lama, tmp_path, monkeypatch,
        f"python -m stages.train {stage} --model data/model --splits data/splits/lama "
        f"--curves {tmp_path}/curves.csv",
        lama__training__discrete__search__prompts=collection,
        lama__stability__templates=collection,
    )  # fmt: skip
    assert result.exit_code == 1
    assert result.output.count("error:") == 1
    assert said in result.output
    assert not out.exists()


def test_stability_needs_two_templates_that_the_model_can_be_asked(
    ready_lama: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = {"P17": ["[X] in [Y]"], "P30": ["[X] in [Y]", "[X] on [Y]"]}
    result, out = go(
        ready_lama, tmp_path, monkeypatch,
        f"python -m stages.train stability manual --model data/model --splits data/splits/lama "
        f"--curves {tmp_path}/curves.csv",
        lama__stability__templates=one,
    )  # fmt: skip
    assert result.exit_code == 1
    assert "P17: 1 of 1 templates can be used with this model; stability needs two" in result.output
    assert not out.exists()


def build_from_mirror(
    root: Path, out: Path, monkeypatch: pytest.MonkeyPatch, subset: str
) -> LamaSplits:
    shutil.copyfile(ROOT / "params.yaml", root / "params.yaml")
    edit_params(
        root, lama__source="lama", lama__relations="all", lama__subset=subset,
        lama__splits={"train_facts": None, "dev_facts": None, "test_facts": None},
    )  # fmt: skip
    command = (
        f"python -m stages.splits lama --raw {MIRROR} --out {out} --metrics {out}.json "
        f"--params {root}/params.yaml"
    )
    result = invoke(command, monkeypatch)
    assert result.exit_code == 0, result.output
    return read_lama(out)


@pytest.mark.skipif(
    not MIRROR.is_dir(), reason="no copy of LAMA in ../shared/mirror beside the repository"
)
@pytest.mark.parametrize(("subset", "facts"), [("34k", 34_039), ("29k", 29_521)])
def test_lama_whole_has_its_published_numbers_of_facts_and_no_overlap(
    own_folder: Path, monkeypatch: pytest.MonkeyPatch, subset: str, facts: int
) -> None:
    splits = build_from_mirror(own_folder, own_folder / "splits", monkeypatch, subset)

    assert list(splits.relations) == list(read_relations(MIRROR / "relations.jsonl"))
    assert len(splits.relations) == 41
    words = set(splits.vocabulary)
    total = 0
    for name, own in splits.facts.items():
        raw = [r["obj_label"] for r in read_jsonl(MIRROR / name / "test.jsonl")]
        assert len(raw) == TEST_FACTS[name]
        assert len(own["test"]) == sum(word in words for word in raw)
        total += len(own["test"])
        pairs = {split: {(f.sub_label, f.obj_label) for f in own[split]} for split in SPLITS}
        assert not pairs["train"] & pairs["dev"]
        assert not (pairs["train"] | pairs["dev"]) & pairs["test"]
        assert all(f.predicate_id == name for split in SPLITS for f in own[split])
    assert total == facts
    if subset == "34k":
        assert {n: len(own["test"]) for n, own in splits.facts.items()} == TEST_FACTS
    metrics = read_json(own_folder / "splits.json")
    assert metrics["relations"] == 41
    assert metrics["test/facts"] == facts
    assert metrics["test/outside_vocabulary"] == 34_039 - facts
    # What the copy says was taken out is counted too: 29,029 and 7,255 are AutoPrompt's own.
    assert (metrics["train/overlap"], metrics["dev/overlap"]) == (119, 14)
    for split, given in (("train", 29_029), ("dev", 7_255)):
        kinds = ("facts", "overlap", "outside_vocabulary")
        assert sum(metrics[f"{split}/{kind}"] for kind in kinds) == given


# Mistakes and mishaps


TRAIN = (
    "python -m stages.train superglue rte p-tuning --model data/model "
    "--splits data/splits/superglue/rte --out out --curves out.csv"
)
TRAIN_LAMA = (
    "python -m stages.train lama p-tuning --model data/model --splits data/splits/lama "
    "--out out --curves out.csv"
)


@pytest.fixture
def spare(ready: Ready, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path) -> Path:
    """A copy of the project's data and parameters, to be spoilt."""
    for name in ("data", "params.yaml"):
        source = ready.root / name
        copy = shutil.copytree if source.is_dir() else shutil.copyfile
        copy(source, tmp_path / name)
    shutil.copyfile(empty_store, tmp_path / "mlflow.db")
    enter(tmp_path, monkeypatch)
    return tmp_path


def assert_one_message(result: Result, *parts: str) -> None:
    """One clear message, exit code 1, no traceback, nothing half-written, a FAILED run."""
    assert result.exit_code == 1, result.output
    assert result.output.count("error:") == 1, result.output
    assert "Traceback" not in result.output
    for part in parts:
        assert part in result.output
    assert not Path("out").exists()
    assert not Path("out.csv").exists()
    assert not list(Path().glob("**/*.partial"))
    runs = mlflow.search_runs(search_all_experiments=True, output_format="list")
    (run,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    assert run.info.status == "FAILED"
    assert run.data.tags["error"] in result.output


def test_a_label_word_of_two_tokens_is_refused_before_training(
    spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params(
        spare, superglue__prompts__rte__verbalizer={"entailment": "xyz", "not_entailment": "no"}
    )
    assert_one_message(invoke(TRAIN, monkeypatch), "'xyz'", "'entailment'", "tokens")


def test_a_row_that_cannot_be_shortened_is_refused(
    spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit_params(spare, superglue__prompts__rte__max_length=8)
    assert_one_message(invoke(TRAIN, monkeypatch), "max_length")


def test_a_cut_split_file_is_refused(spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spare / "data/splits/superglue/rte/1/train.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert_one_message(invoke(TRAIN, monkeypatch), "train.jsonl:8", "not JSON")


def test_an_unknown_label_is_refused(spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spare / "data/splits/superglue/rte/1/dev.jsonl"
    path.write_text(path.read_text().replace('"entailment"', '"maybe"'))
    assert_one_message(invoke(TRAIN, monkeypatch), "dev.jsonl", "'maybe'", "not_entailment")


def test_a_missing_gpu_is_named(spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    edit_params(spare, runtime__device="cuda")
    assert_one_message(invoke(TRAIN_LAMA, monkeypatch), "runtime.device", "cuda")


def test_a_spoilt_model_is_named(spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (spare / "data/model/config.json").write_text("{")
    assert_one_message(invoke(TRAIN_LAMA, monkeypatch), "data/model")


def test_a_folder_that_cannot_be_written_is_named(
    spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spare / "taken").write_text("a file where a folder should be")
    result = invoke(TRAIN.replace("--out out", "--out taken/out"), monkeypatch)
    assert_one_message(result, "taken")


def test_a_misspelled_key_is_named_with_what_was_meant(
    spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spare / "params.yaml"
    path.write_text(path.read_text().replace("patience:", "patiense:", 1))
    assert_one_message(invoke(TRAIN, monkeypatch), "patiense", "did you mean 'patience'")


def test_without_relations_nothing_is_asked(spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nothing = {"lama__relations": [], "lama__stability__relations": [], "superglue__tasks": []}
    edit_params(spare, tasks={}, **nothing)
    evaluate = (
        "python -m stages.evaluate lama p-tuning --model data/model --splits splits "
        "--trained out --out answers --metrics m.json"
    )
    evaluate_stability = (
        "python -m stages.evaluate stability p-tuning --model data/model --splits splits "
        "--trained out --out answers --metrics stability.json"
    )
    report = "python -m stages.report build --metrics . --curves . --evaluation . --out report"
    for command in (
        "python -m stages.splits lama --raw data/raw/lama --out splits --metrics s.json",
        TRAIN_LAMA.replace("data/splits/lama", "splits"),
        evaluate,
        TRAIN_LAMA.replace("data/splits/lama", "splits").replace("train lama", "train stability"),
        evaluate_stability,
        report,
    ):
        result = invoke(command, monkeypatch)
        assert result.exit_code == 0, result.output
    assert read_json(spare / "s.json") == {"relations": 0}
    none = {"test/trainings": 0, "test/settings": 0}
    assert read_json(spare / "m.json") == {"test/facts": 0, "test/left_out": 0} | none
    assert read_json(spare / "stability.json") == {"test/relations": 0, "test/templates": 0} | none
    assert "No benchmark was run" in (spare / "report/report.md").read_text()


def test_a_traceback_is_shown_to_those_who_ask(
    spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (spare / "data/model/config.json").write_text("{")
    monkeypatch.setenv("PTUNE_TRACEBACK", "1")
    assert invoke(TRAIN_LAMA, monkeypatch).exception is not None


def test_an_unreachable_server_stops_a_stage_before_training(
    spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    result = invoke(TRAIN, monkeypatch)
    assert result.exit_code == 1
    assert result.output.count("error:") == 1
    assert "http://127.0.0.1:9" in result.output
    assert "epoch" not in result.output
    assert not Path("out").exists()


def test_a_stage_whose_dvc_is_gone_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An orphan is adopted by whoever is at hand, here by the test: no dvc is above it.
    monkeypatch.setenv("DVC_STAGE", "train-lama@p-tuning")
    monkeypatch.chdir(tmp_path)
    stage = importlib.import_module("stages.validate")
    result = CliRunner().invoke(stage.app, ["--out", "data/params.valid"])
    assert result.exit_code == 143
    assert "stage train-lama@p-tuning: the dvc that started it is gone" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_stage_whose_ptune_is_gone_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DVC_STAGE", "train-lama@p-tuning")
    monkeypatch.setenv("PTUNE_REPRO", "1234567")
    monkeypatch.setattr("stages.runtime.is_dvc", lambda _: True)
    monkeypatch.chdir(tmp_path)
    stage = importlib.import_module("stages.validate")
    result = CliRunner().invoke(stage.app, ["--out", "data/params.valid"])
    assert result.exit_code == 143
    assert "train-lama@p-tuning: the ptune repro that started it is gone" in result.stderr
    assert list(tmp_path.iterdir()) == []
