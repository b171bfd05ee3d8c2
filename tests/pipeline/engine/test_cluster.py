"""What the engine `ray` checks and hides, without a cluster; tests/test_cluster.py starts one."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.engine import cluster
from pipeline.engine.cluster import RayCluster
from pipeline.engine.units import Unit, open_engine
from pipeline.errors import PipelineError
from tests.pipeline.training.test_jobs import RUNTIME

RAY = RUNTIME.model_copy(update={"engine": "ray", "threads": 1})
UNITS = [Unit("a", lambda _: None)]


def test_without_units_no_cluster_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with open_engine(RAY, tmp_path) as engine:
        assert isinstance(engine, RayCluster)
        assert list(engine.run([], print)) == []


def test_without_ray_the_error_says_how_to_install_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        open_engine(RAY, tmp_path) as engine,
        pytest.raises(PipelineError, match=r"pip install -e '\.\[ray\]'`, or write serial"),
    ):
        list(engine.run(UNITS, print))


@pytest.mark.parametrize("address", ["ray://node1:10001", "auto", "node1"])
def test_an_address_that_is_none_of_a_cluster_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", address)
    with (
        open_engine(RAY, tmp_path) as engine,
        pytest.raises(PipelineError, match=f"^RAY_ADDRESS: {address} is not the host:port"),
    ):
        list(engine.run(UNITS, print))


def test_what_starts_here_sees_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "HF_TOKEN"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    before = dict(os.environ)
    with cluster._only(cluster._PASSED + cluster._OF_MACHINE):
        assert "secret" not in os.environ.values()
        assert os.environ["HF_HUB_OFFLINE"] == "1"
        assert "PATH" in os.environ
    assert dict(os.environ) == before


def test_a_machine_with_other_versions_is_named_and_one_without_the_folder_is_known(
    tmp_path: Path,
) -> None:
    token = tmp_path / "token"
    token.touch()
    project = cluster._Project(str(tmp_path), str(token), cluster._versions())
    assert project.seen_here()
    assert project.unlike_here() == ""
    newer = replace(project, versions={**project.versions, "Python": "4.0.1", "flax": "1"})
    python = project.versions["Python"]
    assert newer.unlike_here() == (
        f"has Python {python} instead of 4.0.1, flax None instead of 1; use the same environment "
        "on all machines"
    )
    token.unlink()
    assert not project.seen_here()


def test_a_unit_that_is_killed_for_memory_is_not_repeated_without_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray repeats it forever: `max_retries` does not count these."""
    head = cluster._Head(str(tmp_path))
    assert [head.begin("task") for _ in range(3)] == [1, 2, 3]
    context = SimpleNamespace(get_task_id=lambda: "task", get_accelerator_ids=dict)
    ray = SimpleNamespace(get=lambda value: value, get_runtime_context=lambda: context)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.chdir(tmp_path)
    began: list[int] = []
    unit = Unit("a", lambda _: began.append(1))
    remote = SimpleNamespace(begin=SimpleNamespace(remote=head.begin))
    (tmp_path / "token").touch()
    project = cluster._Project(str(tmp_path), str(tmp_path / "token"), cluster._versions())
    for _ in range(3):
        cluster._run_unit(unit, remote, project)
    with pytest.raises(PipelineError, match=r"^a: its machine or process was lost 6 times: the la"):
        cluster._run_unit(unit, remote, project)
    assert began == [1, 1, 1]
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ""


def test_reports_stay_pickled_at_the_head(tmp_path: Path) -> None:
    head = cluster._Head(str(tmp_path))
    for report in (b"c\nno module\n", b"not pickled"):
        head.put("a", report)
    assert head.take() == [("a", b"c\nno module\n"), ("a", b"not pickled")]
    assert head.take() == []


def test_nodes_are_described_by_what_they_have() -> None:
    gpus = {"CPU": 16.0, "GPU": 8.0, "accelerator_type:H200": 1.0}
    nodes = [
        {"NodeManagerHostname": "a", "Resources": gpus},
        {"NodeManagerHostname": "b", "Resources": {"CPU": 2.0, "memory": 1.0}},
    ]
    assert cluster._described(nodes) == "a: 16 CPUs, 8 H200; b: 2 CPUs"


def test_a_training_that_no_machine_has_gpus_for_is_refused(tmp_path: Path) -> None:
    """No ray is needed for that: the processes of a training are on one machine."""
    eight = {"CPU": 8.0, "GPU": 2.0, "accelerator_type:H200": 1.0}
    nodes = [{"NodeManagerHostname": "a", "Alive": True, "Resources": eight}]
    ray: Any = SimpleNamespace(nodes=lambda: nodes, cluster_resources=lambda: eight)
    for device, gpus in (("cuda", 4), ("auto", 4), ("cpu", 0)):
        runtime = RAY.model_copy(update={"device": device, "threads": 3, "gpus_per_training": 4})
        needed = RayCluster(runtime, tmp_path)._resources(ray, runtime.gpus_per_training)
        assert needed == {"num_cpus": 12.0, "num_gpus": float(gpus)}
        with pytest.raises(PipelineError) as caught:
            cluster._check_machines(ray, cluster._Project("", "", {}), needed)
        assert str(caught.value) == (
            f"runtime: each unit needs 12 CPUs and {gpus} GPUs, which no machine of the cluster "
            "has (a: 8 CPUs, 2 H200); lower runtime.threads or runtime.gpus_per_training, or "
            "change runtime.device"
        )
