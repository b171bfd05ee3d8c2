"""The engine `ray`: units as tasks of a Ray cluster.

Only this file imports ray. Only the process of the stage talks to DVC and MLflow; workers compute.
They run the code of the stage, which Ray sends to each machine, and work in the project's folder;
on a machine that does not see it, in a copy of what the unit needs (see `apart`).
"""

import importlib.metadata
import os
import pickle
import platform
import re
import secrets
import signal
import socket
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple

from pipeline.engine.apart import ProjectFiles, Replica, replica_of
from pipeline.engine.units import Progress, ProgressSaved, Unit
from pipeline.errors import PipelineError

if TYPE_CHECKING:
    from pipeline.config.schema import RuntimeParams

# How often a unit whose machine or process is lost is run again, each time from its checkpoint.
_RETRIES = 5
# Between two looks for reports.
_POLL_SECONDS = 0.25
# Between two reports of a unit's steps.
_PROGRESS_SECONDS = 0.5

# The environment that workers get from the stage: what may change a result or the network's use.
_PASSED = (
    "CUBLAS_WORKSPACE_CONFIG", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "MKL_CBWR",
    "NVIDIA_TF32_OVERRIDE", "OMP_NUM_THREADS", "ONEDNN_DEFAULT_FPMATH_MODE", "ONEDNN_MAX_CPU_ISA",
)  # fmt: skip
# What Ray's processes on this machine need besides. Passwords of MLflow and storage stay here.
_OF_MACHINE = (
    "CUDA_VISIBLE_DEVICES", "HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ",
)  # fmt: skip
_LIBRARIES = ("torch", "transformers", "tokenizers", "safetensors", "numpy", "ray")
_LOCAL = "local"
# What Ray sends to the machines.
_PACKAGES = [Path(__file__).parents[2] / name for name in ("pipeline", "stages")]


@dataclass(frozen=True)
class _Project:
    """What a machine needs to know to run units.

    Attributes:
        root: the current folder of the stage.
        token: a file that exists where the folder of the stage's progress is the same.
        versions: Python and libraries of the stage.
    """

    root: str
    token: str
    versions: Mapping[str, str]

    def seen_here(self) -> bool:
        """Whether this machine sees the folder of the stage."""
        return Path(self.token).exists()

    def unlike_here(self) -> str:
        """Return which versions of this machine are others, and what to do; empty if none is."""
        here = _versions()
        different = [
            f"{name} {here.get(name)} instead of {version}"
            for name, version in self.versions.items()
            if here.get(name) != version
        ]
        if different:
            return f"has {', '.join(different)}; use the same environment on all machines"
        return ""


class RayCluster:
    """Runs units on the cluster at RAY_ADDRESS; without one, on this machine.

    It connects when it first has units to run, and disconnects at the end of the `with` block;
    that ends all units that still run.
    """

    def __init__(self, runtime: "RuntimeParams", folder: Path) -> None:
        """Initialize with the units' device and threads; see `open_engine`."""
        self._runtime = runtime
        self._folder = folder.resolve()
        self._stack = ExitStack()
        self._connection: _Connection | None = None

    def __enter__(self) -> "RayCluster":
        """Do nothing yet."""
        return self

    def __exit__(self, *_: object) -> None:
        """Disconnect."""
        self._stack.close()

    def run(
        self, units: Sequence[Unit], on_report: Callable[[str, Any], None]
    ) -> Iterator[tuple[str, Future[Any]]]:
        """See `Engine`.

        Raises:
            PipelineError: ray is not installed, the cluster cannot be reached, or one of its
                machines cannot run units. No unit has started.
        """
        if not units:
            return
        ray, project, head, _ = self._connected()
        task = ray.remote(_run_unit)
        options = {"max_retries": _RETRIES, "scheduling_strategy": "SPREAD"}
        running = {
            task.options(name=unit.name, **self._resources(ray, unit.processes), **options).remote(
                unit, head, project
            ): unit.name
            for unit in sorted(units, key=lambda unit: unit.cost, reverse=True)
        }
        while running:
            ray.wait(list(running), timeout=_POLL_SECONDS)
            ended, _ = ray.wait(list(running), num_returns=len(running), timeout=0)
            # The reports of a unit have arrived before it ends.
            for name, report in ray.get(head.take.remote()):
                on_report(name, pickle.loads(report))
            for reference in ended:
                name = running.pop(reference)
                yield name, _outcome(ray, name, reference)

    def describe(self) -> str:
        """Check the cluster, and return its machines with their CPUs and GPUs.

        Raises:
            PipelineError: as of `run`.
        """
        ray, _, _, apart = self._connected()
        machines = _described([node for node in ray.nodes() if node["Alive"]])
        if not apart:
            return machines
        return f"{machines}; no shared folder, so files are sent: {', '.join(apart)}"

    def _connected(self) -> "_Connection":
        """Connect if this has not been done."""
        if self._connection is None:
            self._connection = self._stack.enter_context(self._connect())
        return self._connection

    @contextmanager
    def _connect(self) -> Iterator["_Connection"]:
        with (
            _connection_to(_address()) as ray,
            tempfile.NamedTemporaryFile(dir=self._folder, prefix=".cluster-") as token,
        ):
            project = _Project(str(Path.cwd()), token.name, _versions())
            most = self._resources(ray, self._runtime.gpus_per_training)
            apart = _check_machines(ray, project, most)
            yield _Connection(ray, project, _Head.on_this_node(ray, project), apart)

    def _resources(self, ray: ModuleType, processes: int) -> dict[str, float]:
        """Return what a unit takes: for each process, threads, and a GPU if there are any."""
        device = self._runtime.device
        gpu = device == "cuda" or (device == "auto" and "GPU" in ray.cluster_resources())
        assert self._runtime.threads is not None  # `load_params` requires it
        return {
            "num_cpus": float(processes * self._runtime.threads),
            "num_gpus": float(processes * gpu),
        }


class _Connection(NamedTuple):
    """A cluster that can run units: ray, the project, the actor `_Head`, the hosts without it."""

    ray: ModuleType
    project: _Project
    head: Any
    apart: Sequence[str]


class _Head(ProjectFiles):
    """An actor beside the stage, for its workers: it keeps their reports, and has the files.

    Reports stay pickled here, so that the actor does not import what they are made of.
    """

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self._reports: list[tuple[str, bytes]] = []
        self._attempts: Counter[str] = Counter()

    @classmethod
    def on_this_node(cls, ray: ModuleType, project: _Project) -> Any:
        """Start one on the machine of the stage, so that no lost machine takes it along."""
        node = _on_node(ray, ray.get_runtime_context().get_node_id())
        actor = ray.remote(cls).options(num_cpus=0, scheduling_strategy=node)
        return actor.remote(project.root)

    def begin(self, task: str) -> int:
        """Return how often a task has begun, this time included."""
        self._attempts[task] += 1
        return self._attempts[task]

    def put(self, name: str, report: bytes) -> None:
        """Add a pickled report."""
        self._reports.append((name, report))

    def take(self) -> list[tuple[str, bytes]]:
        """Return the pickled reports since the last call, in the order of each unit."""
        reports, self._reports = self._reports, []
        return reports


def _run_unit(unit: Unit, head: Any, project: _Project) -> Any:
    """Run a unit in a worker."""
    import ray

    if unlike := project.unlike_here():  # of a machine that has joined since the start
        raise PipelineError(f"runtime.engine: {socket.gethostname()} {unlike}")
    context = ray.get_runtime_context()
    if not context.get_accelerator_ids().get("GPU"):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""  # Ray hides no GPU from a task that has none
    with ExitStack() as stack:
        wait_for = stack.enter_context(_waiting(ray))
        # Ray itself counts no task that is killed because the memory is full.
        if wait_for(head.begin.remote(context.get_task_id())) > _RETRIES + 1:
            raise _lost(unit.name, "the last one, perhaps because the memory was full")
        replica: Replica | None = None
        if not project.seen_here():

            def call(method: str, *arguments: Any, **options: Any) -> Any:
                return wait_for(getattr(head, method).remote(*arguments, **options))

            replica = stack.enter_context(replica_of(unit, project.root, call))
        os.chdir(project.root if replica is None else replica.root)
        stack.callback(os.chdir, "/")  # a worker waits for its next unit in no folder of a unit
        report = _Reporter(unit.name, head, replica)
        outcome = unit.do(report)
        report.flush(wait_for)
    return outcome


class _Reporter:
    """Sends the reports of a unit to the head."""

    def __init__(self, name: str, head: Any, replica: Replica | None) -> None:
        self._name = name
        self._head = head
        self._replica = replica
        self._last: Any = None
        self._next_progress = 0.0

    def __call__(self, event: Any) -> None:
        """Send a report, unless a newer one of its kind comes soon; or the files that it is of."""
        if isinstance(event, ProgressSaved):
            if self._replica is not None:
                self._replica.send()
            return
        if isinstance(event, Progress):
            if time.monotonic() < self._next_progress:
                return
            self._next_progress = time.monotonic() + _PROGRESS_SECONDS
        self._last = self._head.put.remote(self._name, pickle.dumps(event))

    def flush(self, wait_for: Callable[[Any], Any]) -> None:
        """Wait until all reports have arrived."""
        if self._last is not None:
            wait_for(self._last)  # and with it for all earlier ones


@contextmanager
def _waiting(ray: ModuleType) -> Iterator[Callable[[Any], Any]]:
    """Yield `ray.get`, called in another thread.

    The main thread of a task would give its CPU to another task while it waits, and compute beside
    it from then on.
    """
    with ThreadPoolExecutor(1) as thread:
        yield lambda reference: thread.submit(ray.get, reference).result()


def _outcome(ray: ModuleType, name: str, reference: Any) -> Future[Any]:
    future: Future[Any] = Future()
    try:
        future.set_result(ray.get(reference))
    except ray.exceptions.RayTaskError as error:
        error.cause.__cause__ = error  # it has the worker's traceback
        future.set_exception(error.cause)
    except ray.exceptions.RayError as error:
        future.set_exception(_lost(name, " ".join(str(error).split())))
    return future


def _lost(name: str, reason: str) -> PipelineError:
    return PipelineError(
        f"{name}: its machine or process was lost {_RETRIES + 1} times: {reason}; run it again, "
        "and it resumes from its last checkpoint"
    )


def _import_ray(address: str) -> ModuleType:
    # When the raylet is lost, Ray exits each process whose raylet has this id or, without an id,
    # whose parent is gone. That would be a stage whose dvc was killed too, before its run ends.
    os.environ["RAY_RAYLET_PID"] = str(os.getpid())
    if address == _LOCAL and "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        # Ray reads this once. Other users of this machine could run code through its ports.
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    try:
        import ray
        import ray.util.scheduling_strategies
    except ImportError as error:
        raise PipelineError(
            "runtime.engine: ray is not installed; run `pip install -e '.[ray]'`, or write serial"
        ) from error
    return ray


def _address() -> str:
    """Return RAY_ADDRESS, or that of a cluster to start on this machine alone."""
    # Without an address, Ray would attach to the last cluster of this machine, if it finds one.
    address = os.environ.get("RAY_ADDRESS") or _LOCAL
    if address != _LOCAL and not re.fullmatch(r"[^/]+:\d+", address):
        raise PipelineError(
            f"RAY_ADDRESS: {address} is not the host:port of a cluster; run on a machine of the "
            "cluster (not through ray://) and write the address that `ray start --head` printed"
        )
    return address


@contextmanager
def running_cluster() -> Iterator[str]:
    """Yield RAY_ADDRESS; without one, that of a cluster which runs here until the block ends.

    It ends with this process too, however that ends.
    """
    address = _address()
    if address != _LOCAL:
        yield address
        return
    with _connection_to(address) as ray:
        yield ray.get_runtime_context().gcs_address


@contextmanager
def _connection_to(address: str) -> Iterator[ModuleType]:
    """Yield ray while this process is connected."""
    ray = _import_ray(address)
    _init(ray, address)
    try:
        yield ray
    finally:
        ray.shutdown()


def _init(ray: ModuleType, address: str) -> None:
    local = address == _LOCAL
    passed = {name: os.environ[name] for name in _PASSED if name in os.environ}
    with _signal_handler_kept(), _only(_PASSED + _OF_MACHINE) if local else nullcontext():
        try:
            ray.init(
                address=address,
                include_dashboard=False if local else None,
                log_to_driver=False,
                logging_level="ERROR",
                # Units run the code of this checkout, whatever else is installed.
                runtime_env={
                    "env_vars": passed,
                    "py_modules": [str(package) for package in _PACKAGES if package.exists()],
                    "excludes": ["**/__pycache__"],
                },
            )
        except (OSError, RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise PipelineError(
                f"RAY_ADDRESS: no connection to Ray at {address}: {reason}; start it on this "
                "machine too (docs/cluster.md)"
            ) from error


@contextmanager
def _signal_handler_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM, which `ray.init` replaces by one that skips the stage's."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)


@contextmanager
def _only(names: Sequence[str]) -> Iterator[None]:
    """Hide all other variables of the environment, so that what starts here has no secrets."""
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name not in names and not name.startswith("RAY_")
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _check_machines(
    ray: ModuleType, project: _Project, resources: Mapping[str, float]
) -> list[str]:
    """Check that units fit somewhere, and that each machine where they do can run them.

    Returns:
        The hosts of those that do not see the project's folder.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    fitting = [
        node
        for node in nodes
        if node["Resources"].get("CPU", 0) >= resources["num_cpus"]
        and node["Resources"].get("GPU", 0) >= resources["num_gpus"]
    ]
    if not fitting:
        needed = f"{resources['num_cpus']:g} CPUs and {resources['num_gpus']:g} GPUs"
        raise PipelineError(
            f"runtime: each unit needs {needed}, which no machine of the cluster has "
            f"({_described(nodes)}); lower runtime.threads or runtime.gpus_per_training, or change "
            "runtime.device"
        )
    check = ray.remote(_check_machine)
    results = ray.get(
        [
            check.options(num_cpus=0, scheduling_strategy=_on_node(ray, node["NodeID"])).remote(
                project
            )
            for node in fitting
        ]
    )
    hosts = [node["NodeManagerHostname"] for node in fitting]
    problems = [
        f"{host} {unlike}" for host, (unlike, _) in zip(hosts, results, strict=True) if unlike
    ]
    if problems:
        raise PipelineError("runtime.engine: " + "\n".join(problems))
    return [host for host, (_, seen) in zip(hosts, results, strict=True) if not seen]


def _check_machine(project: _Project) -> tuple[str, bool]:
    return project.unlike_here(), project.seen_here()


def _described(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Return host, CPUs and GPUs of each node, such as `node1: 16 CPUs, 8 H200`."""
    texts = []
    for node in nodes:
        has = node["Resources"]
        kinds = [name.partition(":")[2] for name in has if name.startswith("accelerator_type:")]
        gpus = f", {has['GPU']:g} {' '.join(kinds) or 'GPUs'}" if has.get("GPU") else ""
        texts.append(f"{node['NodeManagerHostname']}: {has.get('CPU', 0):g} CPUs{gpus}")
    return "; ".join(texts)


def _on_node(ray: ModuleType, node_id: str) -> Any:
    return ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node_id, soft=False)


def _versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that can change a result."""
    versions = {"Python": platform.python_version()}
    for library in _LIBRARIES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[library] = importlib.metadata.version(library)
    return versions
