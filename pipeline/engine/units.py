"""Units of a stage's work, and the engine that runs them one after the other.

Units are cut by `params.yaml` alone, never by the number of workers or their memory, so an engine
decides where and when a result is computed, not what it is.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:  # a worker without pydantic can run units
    from pipeline.config.schema import RuntimeParams

Report = Callable[[Any], None]


@dataclass(frozen=True)
class Unit:
    """One piece of work, such as a bank to train or a prompt to evaluate.

    Attributes:
        name: unique among the units that run together.
        do: does the work in any process whose current folder is the project's, or a copy with what
            the unit reads and has left; resumes what an earlier call left, and returns the outcome.
            It takes a function that reports to the process of the stage. The function, its reports
            and its outcome can be pickled.
        processes: that it starts on the same machine, each with a GPU if there are any, and with
            `runtime.threads`; 1 if it starts none.
        reads: files and folders, relative to the current one, as are folder and writes.
        folder: what it resumes from; None: it starts over.
        writes: other files that it writes.
        cost: about how long it takes, to be compared with the other units; of several workers, the
            first takes the longest unit.
    """

    name: str
    do: Callable[[Report], Any]
    processes: int = 1
    reads: tuple[Path, ...] = ()
    folder: Path | None = None
    writes: tuple[Path, ...] = ()
    cost: float = 0.0


@dataclass(frozen=True)
class Progress:
    """A report of how far a unit is, in steps. An engine may drop some of these, but no other."""

    done: int
    total: int


@dataclass(frozen=True)
class ProgressSaved:
    """A report: the unit's folder has what another process needs to resume from here."""


class Engine(Protocol):
    """Runs units."""

    def run(
        self, units: Sequence[Unit], on_report: Callable[[str, Any], None]
    ) -> Iterator[tuple[str, Future[Any]]]:
        """Run units; yield name and outcome of each as it ends, in any order.

        Args:
            units: with different names.
            on_report: called in this process with a unit's name and its report, before the unit's
                outcome is yielded. A unit that is resumed after a machine was lost may repeat
                reports.

        Yields:
            The name, and a future that has the outcome or the exception of the unit.
        """


class Serial:
    """Runs one unit after the other in this process."""

    def run(
        self, units: Sequence[Unit], on_report: Callable[[str, Any], None]
    ) -> Iterator[tuple[str, Future[Any]]]:
        """See `Engine`."""
        for unit in units:
            future: Future[Any] = Future()
            try:
                future.set_result(unit.do(partial(on_report, unit.name)))
            except Exception as error:
                future.set_exception(error)
            yield unit.name, future


@contextmanager
def open_engine(runtime: "RuntimeParams", folder: Path) -> Iterator[Engine]:
    """Yield the engine that `runtime.engine` names.

    Args:
        runtime: engine, device and threads of the units.
        folder: of the stage's progress; machines that do not see it get their files from this one.

    Raises:
        PipelineError: from `run`; see `pipeline.engine.cluster`.
    """
    if runtime.engine == "serial":
        yield Serial()
        return
    from pipeline.engine.cluster import RayCluster

    with RayCluster(runtime, folder) as cluster:
        yield cluster


@contextmanager
def shared_pool(runtime: "RuntimeParams") -> Iterator[dict[str, str]]:
    """Yield the environment in which the units of several stages share one pool.

    With `runtime.engine: ray` and no RAY_ADDRESS, Ray runs on this machine until the block ends.

    Raises:
        PipelineError: ray is not installed, or cannot start.
    """
    if runtime.engine == "serial":
        yield {}
        return
    from pipeline.engine.cluster import running_cluster

    with running_cluster() as address:
        yield {"RAY_ADDRESS": address}
