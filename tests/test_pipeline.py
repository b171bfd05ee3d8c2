"""The pipeline under dvc, on a tiny project: what reruns, what is logged, what is traced."""

import hashlib
import json
import math
import re
import shutil
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
from dvc.repo import Repo
from ruamel.yaml import YAML
from safetensors.torch import load_file

from pipeline.files import read_csv, read_json
from tests.project import edit_params, make_project, run
from tests.test_guides import COMMANDS

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def reproduced(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path], empty_store: Path
) -> Path:
    """A project after `dvc repro`, committed."""
    root = make_project(
        tmp_path_factory.mktemp("pipeline") / "project",
        tiny_folders["gpt2"],
        lama__methods=["p-tuning"],
    )
    shutil.copyfile(empty_store, root / "mlflow.db")
    run(root, "dvc", "repro")
    run(root, "git", "add", "-A")
    run(root, "git", "commit", "-qm", "results")
    return root


@pytest.fixture
def project(reproduced: Path, tmp_path: Path) -> Path:
    """A copy of the reproduced project, to be changed."""
    return shutil.copytree(reproduced, tmp_path / "project", symlinks=True)


def history(root: Path) -> list[mlflow.entities.Run]:
    """The runs of all stages, the oldest first; not those of single trainings below them."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, order_by=["attributes.start_time ASC"])
    return [run for run in runs if "mlflow.parentRunId" not in run.data.tags]


def lock(root: Path) -> dict[str, Any]:
    return YAML(typ="safe").load(root / "dvc.lock")["stages"]


def stage_names(root: Path) -> set[str]:
    with Repo(str(root)) as repo:
        return {stage.addressing.rpartition(":")[2] for stage in repo.index.stages}


def test_each_stage_has_one_finished_run(reproduced: Path) -> None:
    runs = history(reproduced)
    assert {run.info.status for run in runs} == {"FINISHED"}
    stages = [run.data.tags["dvc.stage"] for run in runs]
    assert sorted(stages) == sorted(stage_names(reproduced))


def test_a_run_is_identified_by_the_key_of_dvcs_run_cache(reproduced: Path) -> None:
    logged = {run.data.tags["dvc.run_key"] for run in history(reproduced)}
    cached = {path.name for path in (reproduced / ".dvc/cache/runs").glob("*/*")}
    assert logged == cached


def test_a_run_names_the_hashes_of_what_it_read_and_wrote(reproduced: Path) -> None:
    locked = lock(reproduced)
    for logged in history(reproduced):
        entry = locked[logged.data.tags["dvc.stage"]]
        for kind, items in (("dep", entry.get("deps", [])), ("out", entry.get("outs", []))):
            tagged = {
                key.removeprefix(f"dvc.{kind}."): value
                for key, value in logged.data.tags.items()
                if key.startswith(f"dvc.{kind}.")
            }
            named = {item["path"]: item["md5"] for item in items}
            # Of folders that a stage reads as a whole, the outputs in them are named too.
            made = {out["path"]: out["md5"] for e in locked.values() for out in e.get("outs", [])}
            within = {
                p: h for p, h in made.items() if any(p.startswith(f"{dep}/") for dep in named)
            }
            assert tagged == named | (within if kind == "dep" else {})


def test_what_was_trained_is_listed_with_the_scores_of_its_evaluation(reproduced: Path) -> None:
    client = mlflow.MlflowClient(f"sqlite:///{reproduced}/mlflow.db")
    experiment = client.get_experiment_by_name("p-tuning-train")
    locked = lock(reproduced)
    listed = {
        model.name: model for model in client.search_logged_models([experiment.experiment_id])
    }
    assert set(listed) == {"lama-p-tuning", "superglue-rte-p-tuning"}
    for name, stage, metrics, data in (
        ("lama-p-tuning", "lama@p-tuning", "lama/p-tuning", "lama"),
        ("superglue-rte-p-tuning", "superglue@rte-p-tuning", "superglue/rte/p-tuning", "rte"),
    ):
        model = listed[name]
        trained = next(out for out in locked[f"train-{stage}"]["outs"] if "models/" in out["path"])
        assert model.tags["dvc.md5"] == trained["md5"]
        assert model.params["model.name"]
        written = json.loads((reproduced / f"metrics/{metrics}.json").read_text())
        scores = {metric.key: metric for metric in model.metrics}
        assert {key: scores[key].value for key in written} == written
        splits = next(
            dep for dep in locked[f"evaluate-{stage}"]["deps"] if "data/splits/" in dep["path"]
        )
        digests = {(m.dataset_name.split("/")[0], m.dataset_digest) for m in model.metrics}
        assert digests == {(data, splits["md5"])}


def test_no_output_names_a_run(reproduced: Path) -> None:
    marks = {run.info.run_id.encode() for run in history(reproduced)}
    for folder in ("models", "metrics", "curves", "evaluation", "report"):
        for path in (reproduced / folder).rglob("*"):
            if path.is_file():
                content = path.read_bytes()
                assert not [mark for mark in marks if mark in content], path


def test_a_second_repro_runs_nothing(project: Path) -> None:
    before = len(history(project))
    printed = run(project, "dvc", "repro").stdout
    assert "Running stage" not in printed
    assert len(history(project)) == before
    assert not run(project, "git", "status", "--porcelain").stdout


TRAIN = "lama__training__p-tuning__prompt__learning_rate"
RTE = "superglue__prompts__rte"
RTE_TRAIN = "superglue__training__p-tuning"
EDITS: list[tuple[dict[str, Any], set[str]]] = [
    ({TRAIN: 0.002}, {"train-lama@p-tuning"}),
    ({f"{RTE_TRAIN}__model__learning_rate": 2e-5}, {"train-superglue@rte-p-tuning"}),
    ({f"{RTE}__templates__p-tuning": "{premise} [P] {mask}"}, {"train-superglue@rte-p-tuning"}),
    ({f"{RTE}__templates__manual": "{premise} {hypothesis} {mask}"}, set()),
    ({"lama__prompts__p-tuning": "paper-v1"}, {"train-lama@p-tuning"}),
    ({"lama__prompts__manual": "{subject}: {mask}"}, set()),
    ({"lama__templates": {"P17": "{subject} in {mask}"}}, {"train-lama@p-tuning"}),
    ({"lama__training__discrete__search__iterations": 7}, set()),
    ({"lama__splits__test_facts": 7}, {"splits-lama"}),
    ({"lama__splits__dev_facts": None}, {"splits-lama"}),
    ({"lama__subset": "29k"}, {"splits-lama", "report"}),
    ({"lama__stability__templates_per_relation": 3}, set()),
    ({"superglue__splits__dev_examples": 6}, {"splits-superglue@rte"}),
    ({"report__facts_shown": 3}, {"report"}),
    (
        {
            "runtime__device": "cpu", "runtime__threads": 2, "runtime__max_tokens_per_forward": 16,
            "runtime__checkpoint_seconds": 1,
        },
        set(),
    ),
    ({"seed": 35}, {"splits-lama", "splits-superglue@rte"}),
    ({"lama__seeds": [34, 35]}, {"train-lama@p-tuning"}),
    ({"superglue__seeds": [34, 35]}, {"train-superglue@rte-p-tuning"}),
    ({"superglue__selection": "none"}, {"train-superglue@rte-p-tuning"}),
    ({"superglue__grid__p-tuning": {"batch_size": [4, 8]}}, {"train-superglue@rte-p-tuning"}),
    ({"superglue__grid__manual": {"max_length": [64]}}, set()),
    (
        {"superglue__overrides__rte": {"p-tuning": {"epochs": 3}}},
        {"train-superglue@rte-p-tuning"},
    ),
    ({"superglue__overrides__cb": {"p-tuning": {"epochs": 3}}}, set()),
]  # fmt: skip


@pytest.mark.parametrize(("edits", "expected"), EDITS, ids=lambda value: "-".join(sorted(value)))
def test_an_edit_makes_exactly_the_stages_that_depend_on_it_stale(
    reproduced: Path, edits: dict[str, Any], expected: set[str]
) -> None:
    params = reproduced / "params.yaml"
    saved = params.read_bytes()
    try:
        edit_params(reproduced, **edits)
        with Repo(str(reproduced)) as repo:
            stale = {name.rpartition(":")[2] for name in repo.status()}
    finally:
        params.write_bytes(saved)
    assert stale == expected | {"validate"}


def test_after_an_edit_only_what_depends_on_it_runs_and_logs_into_the_one_history(
    project: Path,
) -> None:
    before = len(history(project))
    setting = "lama.training.p-tuning.prompt.learning_rate=0.002"
    run(project, "dvc", "exp", "run", "--temp", "--name", "quick-fox", "-S", setting)
    new = history(project)[before:]
    stages = {"validate", "train-lama@p-tuning", "evaluate-lama@p-tuning", "report"}
    assert {logged.data.tags["dvc.stage"] for logged in new} == stages
    assert {logged.data.tags["dvc.experiment"] for logged in new} == {"quick-fox"}
    assert {logged.data.tags["git.dirty"] for logged in new} == {"true"}

    # What an experiment has run, the workspace has too. The file's bytes may differ: it is checked.
    edit_params(project, **{TRAIN: 0.002})
    planned = run(project, "ptune", "plan").stdout
    assert "From the cache: train-lama@p-tuning, evaluate-lama@p-tuning, report" in planned
    assert re.search(r"^validate +\d+\.\d  nothing$", planned, re.MULTILINE)
    assert "\nAbout " in planned
    run(project, "dvc", "repro")
    later = history(project)[before + len(stages) :]
    assert {logged.data.tags["dvc.stage"] for logged in later} <= {"validate"}
    assert run(project, "git", "status", "--porcelain", "metrics", "curves").stdout


def misspell_and_mistype(project: Path) -> None:
    path = project / "params.yaml"
    text = path.read_text().replace("seed:", "sede:", 1)
    path.write_text(text.replace("batch_size: 8", "batch_size: eight", 1))


def name_unknown_relation_and_field(project: Path) -> None:
    edit_params(
        project,
        lama__relations=["P17", "P999"],
        **{f"{RTE}__templates__p-tuning": "{premisse} [P] {mask}"},
    )


@pytest.mark.parametrize(
    ("spoil", "parts"),
    [
        (misspell_and_mistype, ["sede", "did you mean 'seed'", "batch_size", "'eight'"]),
        (name_unknown_relation_and_field, ["P999", "P1376", "{premisse}", "{hypothesis}"]),
    ],
)
def test_a_wrong_params_file_stops_dvc_repro_with_one_message(
    project: Path, spoil: Callable[[Path], None], parts: list[str]
) -> None:
    spoil(project)
    done = run(project, "dvc", "repro", check=False)
    printed = done.stdout + done.stderr
    assert done.returncode != 0
    assert printed.count("error: ") == 1
    assert "Traceback" not in printed
    assert not [part for part in parts if part not in printed], printed
    assert "Running stage 'train" not in printed


def digest(folder: Path) -> dict[str, str]:
    files = [path for path in sorted(folder.iterdir()) if path.is_file()]
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_a_seed_that_is_added_trains_only_itself(project: Path) -> None:
    stage, folder = "train-superglue@rte-p-tuning", project / "models/superglue/rte/p-tuning"
    first, second = "rte/setting-1/split-1/seed-34", "rte/setting-1/split-1/seed-35"
    edit_params(project, superglue__seeds=[34, 35])
    done = run(project, "dvc", "repro", "evaluate-superglue@rte-p-tuning")
    printed = done.stdout + done.stderr
    assert f"{first}: trained before" in printed
    assert f"{first} epoch" not in printed
    assert f"{second} epoch 2" in printed
    metrics = json.loads((project / "metrics/superglue/rte/p-tuning.json").read_text())
    assert metrics["test/trainings"] == 2
    assert "test/score_std" in metrics

    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    parent = [r for r in history(project) if r.data.tags["dvc.stage"] == stage][-1]
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    assert {child.info.run_name for child in children} == {first, second}
    assert parent.data.metrics["seconds/taken_over"] > 0
    for child in children:
        points = client.get_metric_history(child.info.run_id, "dev/score")
        assert sorted(point.step for point in points) == [0, 1, 2]

    # Who forces a stage wants it all again, and gets the same.
    kept = digest(folder / "weights") | digest(folder)
    done = run(project, "dvc", "repro", "--force", "--single-item", stage)
    assert f"{first} epoch 2" in done.stdout + done.stderr
    assert digest(folder / "weights") | digest(folder) == kept


def test_a_setting_that_lost_is_trained_again_when_it_is_wanted(project: Path) -> None:
    stage, folder = "train-superglue@rte-p-tuning", project / "models/superglue/rte/p-tuning"
    edit_params(project, **{"superglue__grid__p-tuning": {"batch_size": [8, 4]}})
    run(project, "dvc", "repro", "--single-item", stage)
    described = json.loads((folder / "trials.json").read_text())
    task = described["tasks"]["rte"]
    (kept,) = (folder / "weights").iterdir()
    assert kept.name.startswith(f"rte-setting-{task['chosen']}-")
    before = kept.read_bytes()

    edit_params(project, superglue__selection="none")
    done = run(project, "dvc", "repro", "--single-item", stage)
    assert (done.stdout + done.stderr).count(": trained before") == 2
    names = {path.name for path in (folder / "weights").iterdir()}
    assert len(names) == 2
    assert (folder / "weights" / kept.name).read_bytes() == before
    task["chosen"] = None
    assert json.loads((folder / "trials.json").read_text()) == described


def maker(root: Path, path: str) -> str:
    """The newest finished run that wrote a file, by dvc.lock and the store, read plainly."""
    ((stage, entry, digest),) = [
        (stage, entry, out["md5"])
        for stage, entry in lock(root).items()
        for out in entry.get("outs", [])
        if out["path"] == path
    ]
    read = {f"dvc.dep.{dep['path']}": dep["md5"] for dep in entry["deps"]}
    found = [
        logged.info.run_id
        for logged in history(root)
        if logged.info.status == "FINISHED"
        and logged.data.tags["dvc.stage"] == stage
        and logged.data.tags.get(f"dvc.out.{path}") == digest
        and read.items() <= logged.data.tags.items()
        and all(
            logged.data.params[key] == str(value)
            for key, value in flattened(entry.get("params", {}).get("params.yaml", {})).items()
        )
    ]
    return found[-1]


def flattened(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat = {}
    for key, value in values.items():
        inner = value if isinstance(value, dict) and value else None
        flat |= flattened(inner, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return flat


def traced(artifact: dict[str, Any]) -> dict[str, str]:
    """Path -> id of the run that made it, of all that `ptune lineage --json` shows."""
    step = artifact["made_by"]
    found = {artifact["path"]: step["run"]["id"]}
    for source in step["inputs"]:
        found |= traced(source)
    return found


def test_lineage_names_the_runs_also_of_stages_that_were_skipped(project: Path) -> None:
    """Three edits, the last one back to the start: nothing runs, but old files come back."""
    first = lock(project)["train-lama@p-tuning"]["params"]["params.yaml"]
    before = len(history(project))
    for edits in (
        {TRAIN: 0.002},
        {"report__facts_shown": 3},
        {TRAIN: first["lama.training.p-tuning"]["prompt"]["learning_rate"]},
    ):
        edit_params(project, **edits)
        run(project, "dvc", "repro")
    ran = [logged.data.tags["dvc.stage"] for logged in history(project)[before:]]
    assert ran == [
        "validate", "train-lama@p-tuning", "evaluate-lama@p-tuning", "report",
        "validate", "report", "validate", "report",
    ]  # fmt: skip
    for metrics in ("metrics/lama/p-tuning.json", "metrics/superglue/rte/p-tuning.json"):
        printed = run(project, "ptune", "lineage", metrics, "--json").stdout
        (artifact,) = json.loads(printed)
        found = traced(artifact)
        assert set(found) >= {metrics, "data/model", "data/params.valid"}
        assert found == {path: maker(project, path) for path in found}
        evaluate = found[metrics]
        text = run(project, "ptune", "lineage", metrics).stdout
        assert text.startswith(f"{metrics}  ")
        assert evaluate[:10] in text
        assert "missing link" not in text

    # The run itself keeps its trace, as it was.
    artifacts = next((project / "mlartifacts").glob(f"*/{found[metrics]}/artifacts"))
    assert "download-superglue@rte" in (artifacts / "lineage.txt").read_text()
    tags = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db").get_run(found[metrics]).data.tags
    trained = "models/superglue/rte/p-tuning"
    assert tags[f"made_from.{trained}"] == found[trained]
    forward = run(project, "ptune", "lineage", "data/splits/lama", "--forward").stdout
    assert "evaluate-lama@p-tuning" in forward
    assert "metrics/lama/p-tuning.json" in forward
    missing = run(project, "ptune", "lineage", "metrics/lama/nothing.json", check=False)
    assert missing.returncode == 1
    assert missing.stderr.startswith("error: metrics/lama/nothing.json: not an output")


def logged_by(root: Path) -> dict[str, dict[str, Any]]:
    """What a restored run has to say, of each stage; its children's epochs included."""
    client = mlflow.MlflowClient(f"sqlite:///{root}/mlflow.db")
    found = {}
    for logged in history(root):
        tags = logged.data.tags
        children = client.search_runs(
            [logged.info.experiment_id], f"tags.`mlflow.parentRunId` = '{logged.info.run_id}'"
        )
        kept = ("dvc.", "stage", "benchmark", "task", "method", "model", "mlflow.runName")
        found[tags["dvc.stage"]] = {
            "experiment": client.get_experiment(logged.info.experiment_id).name,
            "tags": {key: value for key, value in tags.items() if key.startswith(kept)},
            "params": logged.data.params,
            "points": {
                (run.info.run_name, key, point.step): point.value
                for run in (logged, *children)
                for key in run.data.metrics
                for point in client.get_metric_history(run.info.run_id, key)
            },
        }
    return found


def without_history(project: Path, empty_store: Path, folder: Path) -> Path:
    """A copy of a project, as after `dvc pull` in a fresh clone, whose MLflow is empty."""
    fresh = shutil.copytree(project, folder, symlinks=True)
    shutil.copyfile(empty_store, fresh / "mlflow.db")
    return fresh


def test_results_without_a_history_get_one(
    reproduced: Path, empty_store: Path, tmp_path: Path
) -> None:
    before = logged_by(reproduced)
    fresh = without_history(reproduced, empty_store, tmp_path / "fresh")
    assert "11 of 11 entries" in run(fresh, "ptune", "sync").stdout
    after = logged_by(fresh)
    assert set(after) == set(before)
    for stage, seen in before.items():
        made = after[stage]
        del seen["tags"]["dvc.experiment"]  # dvc.lock does not say
        assert made["tags"] == seen["tags"] | {"dvc.restored": "true"}
        assert made["params"] == seen["params"]
        assert made["experiment"] == seen["experiment"]
        assert made["points"].items() <= seen["points"].items()
    trained = after["train-superglue@rte-p-tuning"]["points"]
    assert ("rte/setting-1/split-1/seed-34", "dev/score", 2) in trained
    assert ("bank-1/seed-34", "train/loss/P30/setting-1/split-1/seed-34", 1) in after[
        "train-lama@p-tuning"
    ]["points"]
    evaluated = after["evaluate-lama@p-tuning"]["points"]
    assert {key for _, key, _ in evaluated} >= {"test/p_at_1", "test/p_at_1/P17", "dev/p_at_1"}

    # Twice adds nothing; what was begun and not ended is begun again.
    assert "0 of 11 entries" in run(fresh, "ptune", "sync").stdout
    client = mlflow.MlflowClient(f"sqlite:///{fresh}/mlflow.db")
    training = client.get_experiment_by_name("p-tuning-train").experiment_id
    models = client.search_logged_models([training])
    assert {model.name for model in models} == {"lama-p-tuning", "superglue-rte-p-tuning"}
    client.update_run(history(fresh)[0].info.run_id, status="RUNNING")
    assert "1 of 11 entries" in run(fresh, "ptune", "sync").stdout
    assert len(history(fresh)) == 11
    text = run(fresh, "ptune", "lineage", "report").stdout
    assert "missing" not in text
    assert text.count("restored") >= 10


def test_a_file_that_is_not_what_dvc_lock_says_lends_no_numbers(
    reproduced: Path, empty_store: Path, tmp_path: Path
) -> None:
    fresh = without_history(reproduced, empty_store, tmp_path / "fresh")
    (fresh / "metrics/lama/p-tuning.json").write_text("{}")
    done = run(fresh, "ptune", "sync")
    assert "metrics/lama/p-tuning.json differs from dvc.lock" in done.stderr
    points = logged_by(fresh)["evaluate-lama@p-tuning"]["points"]
    assert {key for _, key, _ in points} == {"test/p_at_1/P17", "test/p_at_1/P30"}


def run_of(root: Path, stage: str) -> mlflow.entities.Run:
    return [logged for logged in history(root) if logged.data.tags["dvc.stage"] == stage][-1]


def test_an_older_run_is_made_again_with_the_same_bytes(project: Path) -> None:
    older = run_of(project, "evaluate-lama@p-tuning")
    edit_params(project, report__facts_shown=3)
    run(project, "dvc", "repro", "validate")
    status = run(project, "git", "status", "--porcelain").stdout
    metrics = (project / "metrics/lama/p-tuning.json").read_bytes()

    done = run(project, "ptune", "reproduce", older.info.run_id[:10], "--keep")
    assert "6 of 6 outputs have the same bytes" in done.stdout
    for path in ("metrics/lama/p-tuning.json", "evaluation/lama/p-tuning/predictions"):
        assert f"same       {path}" in done.stdout
    assert "Running stage 'download-model'" in done.stdout
    assert "Running stage 'train-lama@p-tuning'" in done.stdout
    (folder,) = (project / ".work" / "reproduced").iterdir()
    assert (folder / "metrics/lama/p-tuning.json").read_bytes() == metrics
    # Neither the workspace nor its history changed.
    assert run(project, "git", "status", "--porcelain").stdout == status
    assert run_of(project, "evaluate-lama@p-tuning").info.run_id == older.info.run_id

    # A run of a tree with changes is made again with them.
    changed = run_of(project, "validate").info.run_id
    done = run(project, "ptune", "reproduce", changed)
    assert "with the changes that the run had" in done.stdout
    assert "1 of 1 outputs have the same bytes" in done.stdout


def test_a_trained_prompt_is_shown_with_the_words_nearest_to_its_vectors(reproduced: Path) -> None:
    lines = run(reproduced, "ptune", "show", "lama", "P17", "--words", "2").stdout.splitlines()
    assert lines[0].startswith("P17/setting-1/split-1/seed-34  epoch ")
    assert lines[1].strip().startswith("[P*3]")
    tokens = [line for line in lines if line.startswith("  [P] ")]
    assert all(re.fullmatch(r"  \[P\] \d+  +\S+ -?\d\.\d\d  +\S+ -?\d\.\d\d", t) for t in tokens)
    assert len(tokens) >= 6
    failed = run(reproduced, "ptune", "show", "lama", "P99", check=False)
    assert "P99: p-tuning has no prompt of this name; it has P17, P30" in failed.stderr


def test_the_guides_ways_to_read_a_history_work(reproduced: Path) -> None:
    reading = [
        command
        for command in COMMANDS
        if command.startswith(("ptune results", "ptune lineage"))
        and "characters" not in command  # tests/test_own_tasks.py runs such a task
    ]
    assert len(reading) >= 3
    for command in reading:
        done = run(reproduced, *command.split())
        assert "p-tuning" in done.stdout, command
    # What it finds depends on the machine: no network here, and no lock file in this project.
    doctor = run(reproduced, "ptune", "doctor", "--seconds", "1", check=False)
    assert "params.yaml is valid" in " ".join(doctor.stdout.split())
    assert "Traceback" not in doctor.stderr


def test_metrics_and_plots_are_what_dvc_shows(reproduced: Path) -> None:
    shown = json.loads(run(reproduced, "dvc", "metrics", "show", "--json").stdout)
    files = shown[""]["data"]
    assert set(files) == {
        "metrics/splits/lama.json", "metrics/lama/p-tuning.json",
        "metrics/superglue/rte/p-tuning.json",
    }  # fmt: skip
    out = reproduced.parent / "plots"
    run(reproduced, "dvc", "plots", "show", "--out", str(out))
    page = (out / "index.html").read_text()
    for mark in ("dev_p_at_1", "p_at_1", "lama_relations", "superglue"):
        assert mark in page


def test_a_benchmark_without_tasks_or_methods_is_not_run(project: Path) -> None:
    edit_params(project, superglue__tasks=[])
    assert not [name for name in stage_names(project) if "superglue" in name]
    run(project, "dvc", "repro")
    assert "Language understanding" not in (project / "report/report.md").read_text()
    assert "Knowledge probing" in (project / "report/report.md").read_text()

    edit_params(project, superglue__tasks=["rte"], lama__methods=[])
    kinds = {name.partition("@")[0] for name in stage_names(project)}
    assert not kinds & {"train-lama", "evaluate-lama"}
    assert "train-superglue" in kinds


RATES = [0.3, 0.03, 0.00001]


def lama_tables(root: Path) -> dict[str, list[dict[str, str]]]:
    folder = root / "evaluation/lama/p-tuning"
    tables = {name: read_csv(folder / f"{name}.csv") for name in ("trials", "settings")}
    return {**tables, "curves": read_csv(root / "curves/lama/p-tuning.csv")}


def check_selection_and_means(root: Path, seeds: list[int]) -> None:
    """Compare what the stages wrote with plain loops over the curves and the trials."""
    tables = lama_tables(root)
    dev: dict[tuple[str, int], list[float]] = {}
    for relation in ("P17", "P30"):
        for number in range(1, len(RATES) + 1):
            for seed in seeds:
                trial = (relation, str(number), "1", str(seed))
                dev.setdefault((relation, number), []).append(
                    max(
                        float(row["dev_p_at_1"])
                        for row in tables["curves"]
                        if (row["relation"], row["setting"], row["split"], row["seed"]) == trial
                    )
                )
    best = {}
    for relation in ("P17", "P30"):
        means = [statistics.fmean(dev[relation, number]) for number in range(1, len(RATES) + 1)]
        assert len(set(means)) > 1  # otherwise dev would choose nothing
        best[relation] = means.index(max(means)) + 1

    described = read_json(root / "models/lama/p-tuning/trials.json")["tasks"]
    assert {relation: task["chosen"] for relation, task in described.items()} == best
    assert {
        (relation, setting["number"]): [trial["dev_score"] for trial in setting["trials"]]
        for relation, task in described.items()
        for setting in task["settings"]
    } == dev
    assert {
        (row["task"], int(row["setting"])): (row["chosen"], float(row["dev_score"]))
        for row in tables["settings"]
    } == {
        (relation, number): (str(number == best[relation]), pytest.approx(statistics.fmean(scores)))
        for (relation, number), scores in dev.items()
    }

    rows = tables["trials"]
    assert [(row["task"], int(row["setting"]), int(row["seed"])) for row in rows] == [
        (relation, best[relation], seed) for relation in ("P17", "P30") for seed in seeds
    ]
    metrics = read_json(root / "metrics/lama/p-tuning.json")
    for column, key in (("test_score", "test/p_at_1"), ("dev_score", "dev/p_at_1")):
        scores = []
        for seed in seeds:
            first, second = (float(r[column]) for r in rows if r["seed"] == str(seed))
            scores.append((first + second) / 2)
        mean = sum(scores) / len(seeds)
        std = math.sqrt(sum((score - mean) ** 2 for score in scores) / (len(seeds) - 1))
        assert metrics[key] == pytest.approx(mean)
        assert metrics[f"{key}_std"] == pytest.approx(std)
    assert metrics["test/trainings"] == len(seeds)
    assert metrics["test/settings"] == 1
    shown = f"{100 * metrics['test/p_at_1']:.1f} ± {100 * metrics['test/p_at_1_std']:.1f}"
    assert shown in run(root, "ptune", "report", "show", COLUMNS="200").stdout


def test_dev_selects_for_each_relation_and_a_seed_that_is_added_trains_only_its_banks(
    project: Path,
) -> None:
    stage, folder = "train-lama@p-tuning", project / "models/lama/p-tuning"
    edit_params(
        project,
        lama__seeds=[1, 2, 3],
        **{"lama__grid__p-tuning": {"prompt.learning_rate": RATES}},
    )
    run(project, "dvc", "repro")
    check_selection_and_means(project, [1, 2, 3])
    curves = lama_tables(project)["curves"]
    prompts = load_file(folder / "prompts.safetensors")

    edit_params(project, lama__seeds=[1, 2, 3, 4])
    done = run(project, "dvc", "repro")
    printed = done.stdout + done.stderr
    for number in range(1, len(RATES) + 1):
        for seed in (1, 2, 3):
            assert f"bank-{number}/seed-{seed}: trained before" in printed
        assert f"bank-{number}/seed-4: trained before" not in printed
        for relation in ("P17", "P30"):
            assert f"{relation}/setting-{number}/split-1/seed-4 epoch 2" in printed
    assert not re.search(r"seed-[123] epoch", printed)
    check_selection_and_means(project, [1, 2, 3, 4])
    assert [row for row in lama_tables(project)["curves"] if row["seed"] != "4"] == curves
    later = load_file(folder / "prompts.safetensors")
    both = prompts.keys() & later.keys()
    assert both
    for name in both:
        assert torch.equal(prompts[name], later[name])
    parent = [r for r in history(project) if r.data.tags["dvc.stage"] == stage][-1]
    client = mlflow.MlflowClient(f"sqlite:///{project}/mlflow.db")
    children = client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    metrics = read_json(project / "metrics/lama/p-tuning.json")
    for key in ("dev/p_at_1", "dev/p_at_1_std"):
        assert parent.data.metrics[key] == pytest.approx(metrics[key])
    names = {f"bank-{n}/seed-{s}" for n in range(1, len(RATES) + 1) for s in (1, 2, 3, 4)}
    assert {child.info.run_name for child in children} == names
    assert parent.data.metrics["seconds/taken_over"] > 0
