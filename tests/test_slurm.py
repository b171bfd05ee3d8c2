"""Two nodes of a real Slurm, made of two network namespaces of this machine."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.project import ROOT, environment_of, outputs, processes_where
from tests.test_cluster import (
    STAGE,
    assert_one_run,
    holding,
    serial,
    untrained,
    wait_until,
)
from tests.test_restart import epochs, runs_of

pytest.importorskip("ray", reason="ray is not installed")
_PROGRAMS = ("slurmctld", "slurmd", "sbatch", "scontrol", "scancel", "srun", "ip", "unshare")
_MISSING = [name for name in _PROGRAMS if shutil.which(name) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        bool(_MISSING) or os.geteuid() != 0,
        reason=f"requires root and Debian's slurmctld, slurmd, slurm-client; lacks {_MISSING}",
    ),
]

__all__ = ["serial"]  # the fixture

SCRIPT = ROOT / "cluster" / "slurm.sbatch"
HOSTS = {"node1": "10.77.0.1", "node2": "10.77.0.2"}
CONFIG = """
ClusterName=two
SlurmctldHost=node1(10.77.0.1)
AuthType=auth/none
CredType=cred/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
SlurmUser=root
SlurmdUser=root
ReturnToService=2
KillWait=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
NodeName=node1 NodeAddr=10.77.0.1 CPUs=2 State=UNKNOWN
NodeName=node2 NodeAddr=10.77.0.2 CPUs=2 State=UNKNOWN
PartitionName=all Nodes=node1,node2 Default=YES MaxTime=INFINITE State=UP
"""


def call(*command: str) -> str:
    done = subprocess.run(command, check=False, text=True, capture_output=True)
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Slurm:
    """Slurm on two nodes, each a network namespace with a host name."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spaces = {host: f"ptune-{os.getpid()}-{host}" for host in HOSTS}
        self._daemons: list[psutil.Popen] = []

    def inside(self, host: str, *command: str) -> list[str]:
        name = ["unshare", "--uts", "sh", "-c", 'hostname "$1"; shift; exec "$@"', "sh", host]
        return ["nsenter", f"--net=/run/netns/{self.spaces[host]}", *name, *command]

    def start(self) -> None:
        first, second = self.spaces.values()
        for space in (first, second):
            call("ip", "netns", "add", space)
            call("ip", "-n", space, "link", "set", "lo", "up")
        call(
            "ip", "-n", first, "link", "add", "eth0", "type", "veth",
            "peer", "name", "eth0", "netns", second,
        )  # fmt: skip
        for host, address in HOSTS.items():
            call("ip", "-n", self.spaces[host], "address", "add", f"{address}/24", "dev", "eth0")
            call("ip", "-n", self.spaces[host], "link", "set", "eth0", "up")
        config = self.folder / "slurm.conf"
        config.write_text(CONFIG.format(folder=self.folder))
        (self.folder / "state").mkdir()
        self._start(self.inside("node1", "slurmctld", "-D", "-f", str(config)))
        for host in HOSTS:
            (self.folder / host).mkdir()
            self._start(self.inside(host, "slurmd", "-D", "-f", str(config), "-N", host))
        wait_until(lambda: self.scontrol("node").count("State=IDLE") == len(HOSTS))

    def _start(self, command: list[str]) -> None:
        self._daemons.append(
            psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        )

    def stop(self) -> None:
        for daemon in self._daemons:
            for process in [daemon, *daemon.children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            daemon.wait()
        for space in self.spaces.values():
            pids = subprocess.run(["ip", "netns", "pids", space], capture_output=True, text=True)
            for pid in map(int, pids.stdout.split()):
                with contextlib.suppress(psutil.NoSuchProcess):
                    psutil.Process(pid).kill()
            subprocess.run(["ip", "netns", "delete", space], check=False)

    def command(self, *command: str, folder: Path | None = None) -> str:
        values = {
            **environment_of(folder or self.folder),
            "SLURM_CONF": f"{self.folder}/slurm.conf",
        }
        done = subprocess.run(
            self.inside("node1", *command), cwd=folder, env=values, text=True, capture_output=True
        )
        return done.stdout + done.stderr

    def scontrol(self, *what: str) -> str:
        return self.command("scontrol", "show", *what)

    def submit(self, project: Path, *command: str) -> str:
        """Return the id of a job that runs a command on both nodes, one CPU each."""
        options = ("--parsable", "--cpus-per-task=1")
        return self.command("sbatch", *options, str(SCRIPT), *command, folder=project).strip()

    def end(self, job: str) -> dict[str, str]:
        """Wait for the end of a job; return its state and exit code."""
        shown: dict[str, str] = {}

        def ended() -> bool:
            words = self.scontrol("job", job).split()
            shown.update(word.split("=", 1) for word in words if "=" in word)
            return shown["JobState"] not in ("PENDING", "RUNNING", "COMPLETING", "CONFIGURING")

        wait_until(ended)
        return shown


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


@pytest.fixture
def project(serial: Path, tmp_path: Path) -> Path:
    project = untrained(serial, tmp_path)
    (project / ".venv" / "bin").mkdir(parents=True)
    for name in ("python", "ray", "dvc", "ptune"):
        (project / ".venv" / "bin" / name).symlink_to(Path(sys.executable).with_name(name))
    programs = Path(sys.executable).parent
    (project / ".venv" / "bin" / "activate").write_text(f'PATH="{programs}:$PATH"\n')
    return project


def printed(project: Path, job: str) -> str:
    return (project / f"slurm-{job}.out").read_text()


def test_a_job_that_was_canceled_resumes_and_gives_the_bytes_of_one_process(
    slurm: Slurm, project: Path, serial: Path
) -> None:
    with holding(project) as held:
        first = slurm.submit(project, "dvc", "repro", "-s", STAGE)
        held()
        slurm.command("scancel", first)
        assert slurm.end(first)["JobState"] == "CANCELLED"
    # Slurm says so before the processes have ended.
    wait_until(lambda: not processes_where(lambda each: Path(each.cwd()) == project))
    (run,) = runs_of(project, STAGE)
    assert run.info.status == "KILLED", printed(project, first)

    second = slurm.submit(project, "dvc", "repro", "-s", STAGE)
    shown = slurm.end(second)
    assert (shown["JobState"], shown["ExitCode"]) == ("COMPLETED", "0:0"), printed(project, second)
    assert min(epoch for _, epoch in epochs(printed(project, second))) > 0
    assert outputs(project, "models", "curves") == outputs(serial, "models", "curves")
    assert_one_run(project)


def test_the_exit_code_reaches_slurm_and_ray_elsewhere_on_the_machine_lives(
    slurm: Slurm, project: Path, tmp_path: Path
) -> None:
    # `ray stop` ends what has this name, and so does `ray symmetric-run`.
    raylet = shutil.copyfile(shutil.which("sleep") or "", tmp_path / "raylet")
    raylet.chmod(0o755)
    with psutil.Popen([raylet, "3600"]) as other:
        job = slurm.submit(project, "bash", "-c", 'echo "$RAY_ADDRESS $RAY_AUTH_MODE"; exit 7')
        shown = slurm.end(job)
        assert (shown["JobState"], shown["ExitCode"]) == ("FAILED", "7:0")
        assert printed(project, job) == f"10.77.0.1:{20000 + int(job)} token\n"
        assert other.status() == psutil.STATUS_SLEEPING
        other.kill()
