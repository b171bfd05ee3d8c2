"""Every stage of dvc.yaml, run in this process on a tiny project, in the order of the graph."""

import importlib.util
import json
import shlex
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from dvc.dependency import ParamsDependency
from dvc.repo import Repo
from safetensors.torch import load_file
from typer.testing import CliRunner, Result

from pipeline.files import read_csv, read_jsonl
from pipeline.params import Section, load_params
from tests.project import edit_params, make_project


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
    """Stands for a section of the parameters and notes which values are read."""

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
            return {key: self._wrap(item, f"{path}.{key}") for key, item in value.items()}
        if isinstance(value, dict) and path.endswith("templates") and "prompts" in path:
            return RecordingDict(value, path, self._read)
        self._read.add(path)
        return value


class RecordingDict(dict[str, str]):
    """A dictionary whose single entries are declared as parameters."""

    def __init__(self, values: dict[str, str], path: str, read: set[str]) -> None:
        super().__init__(values)
        self._path, self._read = path, read

    def __getitem__(self, key: str) -> str:
        self._read.add(f"{self._path}.{key}")
        return super().__getitem__(key)


def invoke(command: str, monkeypatch: pytest.MonkeyPatch, read: set[str] | None = None) -> Result:
    """Run a stage's command in this process; note the parameters it reads."""
    _, _, module, *arguments = shlex.split(command)
    stage = importlib.import_module(module)
    if read is not None and hasattr(stage, "load_params"):

        def recorded(path: Path) -> Any:
            return Recorder(load_params(path), "", read)

        monkeypatch.setattr(stage, "load_params", recorded)
    return CliRunner().invoke(stage.app, arguments)


@pytest.fixture(scope="module")
def ready(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path], empty_store: Path
) -> Iterator[Ready]:
    root = make_project(tmp_path_factory.mktemp("stages") / "project", tiny_folders["llama"])
    shutil.copyfile(empty_store, root / "mlflow.db")
    ran = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
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
                # The copy has its own digests in the table of sources.
                _use_copied_sources(root, recording)
                read: set[str] = set()
                result = invoke(stage.cmd, recording, read)
            outputs = [out.def_path for out in stage.outs]
            ran[stage.addressing] = Ran(declared, read, result, outputs)
        yield Ready(root, ran)


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


def _use_copied_sources(root: Path, patch: pytest.MonkeyPatch) -> None:
    path = root / "pipeline" / "data" / "sources.py"
    spec = importlib.util.spec_from_file_location("copied_sources", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    patch.setitem(sys.modules, "copied_sources", module)
    spec.loader.exec_module(module)
    patch.setattr("pipeline.data.sources.SOURCES", module.SOURCES)


def test_every_stage_ends_well(ready: Ready) -> None:
    failed = {name: ran.result.output for name, ran in ready.stages.items() if ran.result.exit_code}
    assert not failed
    missing = [
        out
        for ran in ready.stages.values()
        for out in ran.outputs
        if not (ready.root / out).exists()
    ]
    assert not missing


def test_a_stage_reads_no_parameter_that_it_does_not_declare(ready: Ready) -> None:
    for name, ran in ready.stages.items():
        assert ran.read, name
        undeclared = {
            path
            for path in ran.read
            if not path.startswith("runtime.")
            and not any(path == d or path.startswith(f"{d}.") for d in ran.declared)
        }
        assert not undeclared, f"{name} reads {undeclared}; declare it under params"


def test_a_stage_declares_no_parameter_that_it_does_not_read(ready: Ready) -> None:
    for name, ran in ready.stages.items():
        idle = {
            declared
            for declared in ran.declared
            if not any(
                path == declared
                or path.startswith(f"{declared}.")
                or declared.startswith(f"{path}.")
                for path in ran.read
            )
        }
        assert not idle, f"{name} declares {idle} and never reads it"


def test_metrics_stand_where_people_and_scripts_rely_on_them(ready: Ready) -> None:
    lama = json.loads((ready.root / "metrics/lama/p-tuning.json").read_text())
    assert {"test/p_at_1", "dev/p_at_1", "test/facts"} <= set(lama)
    assert 0 <= lama["test/p_at_1"] <= 1
    rte = json.loads((ready.root / "metrics/superglue/rte/p-tuning.json").read_text())
    assert 0 <= rte["test/accuracy"] <= 1
    path = ready.root / "evaluation/lama/p-tuning/relations.csv"
    assert path.read_text().splitlines()[0] == "relation,facts,p_at_1"


def test_the_mean_over_relations_is_that_of_the_predictions(ready: Ready) -> None:
    for method in ("manual", "p-tuning"):
        folder = ready.root / "evaluation/lama" / method
        right: dict[str, list[bool]] = {}
        for record in read_jsonl(folder / "predictions/predictions.jsonl"):
            right.setdefault(record["relation"], []).append(record["answer"] == record["object"])
        rows = read_csv(folder / "relations.csv")
        assert {row["relation"]: int(row["facts"]) for row in rows} == {
            relation: len(answers) for relation, answers in right.items()
        }
        shares = [sum(answers) / len(answers) for answers in right.values()]
        metrics = json.loads((ready.root / f"metrics/lama/{method}.json").read_text())
        assert metrics["test/p_at_1"] == pytest.approx(sum(shares) / len(shares))
        assert metrics["test/facts"] == sum(map(len, right.values()))


def test_logged_metrics_equal_the_written_file(ready: Ready) -> None:
    mlflow.set_tracking_uri(f"sqlite:///{ready.root}/mlflow.db")
    runs = {
        run.info.run_name: run
        for run in mlflow.search_runs(search_all_experiments=True, output_format="list")
    }
    for name, file in {
        "evaluate/lama/p-tuning": "metrics/lama/p-tuning.json",
        "evaluate/superglue/rte/p-tuning": "metrics/superglue/rte/p-tuning.json",
    }.items():
        written = json.loads((ready.root / file).read_text())
        assert {key: runs[name].data.metrics[key] for key in written} == written
    assert len(runs) == len(ready.stages)
    assert {run.info.status for run in runs.values()} == {"FINISHED"}


def test_curves_hold_one_row_an_epoch_and_the_epoch_before(ready: Ready) -> None:
    rows = read_csv(ready.root / "curves/lama/p-tuning.csv")
    assert [row["epoch"] for row in rows if row["relation"] == "P17"] == ["0", "1", "2"]
    manual = read_csv(ready.root / "curves/lama/manual.csv")
    assert [row["epoch"] for row in manual] == ["0", "0"]


def test_the_same_parameters_give_the_same_bytes(
    ready: Ready, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(ready.root)
    for method, folder, name in (
        ("lama p-tuning --splits data/splits/lama", "models/lama/p-tuning", "lama"),
        (
            "superglue rte p-tuning --splits data/splits/superglue/rte",
            "models/superglue/rte/p-tuning",
            "rte",
        ),
    ):
        out = tmp_path / name
        torch.manual_seed(0)  # whatever was drawn before must not matter
        command = (
            f"python -m stages.train {method} --model data/model --out {out} --curves {out}.csv"
        )
        assert invoke(command, monkeypatch).exit_code == 0
        files = sorted(path.name for path in out.iterdir())
        assert files == sorted(path.name for path in (ready.root / folder).iterdir())
        for file in files:
            assert (out / file).read_bytes() == (ready.root / folder / file).read_bytes(), file


def test_prompts_have_moved_and_lama_keeps_no_model(ready: Ready) -> None:
    vectors = load_file(ready.root / "models/lama/p-tuning/prompts.safetensors")
    assert set(vectors) == {"P17", "P30"}
    assert not (ready.root / "models/lama/p-tuning/weights.safetensors").exists()
    assert (ready.root / "models/superglue/rte/p-tuning/weights.safetensors").exists()


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
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
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
    (run,) = mlflow.search_runs(search_all_experiments=True, output_format="list")
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
    path = spare / "data/splits/superglue/rte/train.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    assert_one_message(invoke(TRAIN, monkeypatch), "train.jsonl:8", "not JSON")


def test_an_unknown_label_is_refused(spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = spare / "data/splits/superglue/rte/dev.jsonl"
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


def test_a_misspelt_key_is_named_with_what_was_meant(
    spare: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = spare / "params.yaml"
    path.write_text(path.read_text().replace("patience:", "patiense:", 1))
    assert_one_message(invoke(TRAIN, monkeypatch), "patiense", "did you mean 'patience'")


def test_without_relations_nothing_is_asked(spare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit_params(spare, lama__relations=[], superglue__tasks=[])
    evaluate = (
        "python -m stages.evaluate lama p-tuning --model data/model --splits splits "
        "--trained out --out answers --relations r.csv --controls c.csv --metrics m.json"
    )
    report = "python -m stages.report build --metrics . --curves . --evaluation . --out report"
    for command in (
        "python -m stages.splits lama --raw data/raw/lama --out splits",
        TRAIN_LAMA.replace("data/splits/lama", "splits"),
        evaluate,
        report,
    ):
        result = invoke(command, monkeypatch)
        assert result.exit_code == 0, result.output
    assert json.loads((spare / "m.json").read_text()) == {"test/facts": 0, "test/left_out": 0}
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
