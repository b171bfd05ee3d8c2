"""The processes that make one training together, each on a GPU, or on threads of the CPU.

Rank r makes the forward passes r, r + k, ... of a step and of dev, and gradients and losses are
summed. The rest, such as encoders and optimizers, is computed by each rank alike. Rank 0 alone
writes and reports.
"""

import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, TypeVar

import cloudpickle
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.engine.units import Report
from pipeline.errors import ModelError, PipelineError
from pipeline.models.loading import choose_device

Outcome = TypeVar("Outcome")


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training; the default is a training by one process.

    Attributes:
        number: of this process, from 0.
        count: of the processes.
    """

    number: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes and reports."""
        return self.number == 0

    def makes(self, number: int) -> bool:
        """Whether this process makes the pass of this number."""
        return number % self.count == self.number

    def idles(self, passes: int) -> bool:
        """Whether others make a pass at last, of so many, while this process has none."""
        return 0 < passes % self.count <= self.number

    def add(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over all processes, which give equal shapes."""
        if self.count == 1:
            return
        for work in [dist.all_reduce(tensor, async_op=True) for tensor in tensors]:
            work.wait()

    def add_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace gradients by their sums; one that no process has stays None."""
        if self.count == 1:
            return
        every = list(parameters)
        used = self.any([parameter.grad is not None for parameter in every])
        chosen = [parameter for parameter, one in zip(every, used, strict=True) if one]
        for parameter in chosen:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        self.add([parameter.grad for parameter in chosen if parameter.grad is not None])

    def any(self, flags: Sequence[bool]) -> list[bool]:
        """Return which flags are set in any process; a GPU does not wait for it."""
        if self.count == 1:
            return list(flags)
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, op=dist.ReduceOp.MAX)
        return [vote == 1 for vote in votes.tolist()]

    def least(self, value: int) -> int:
        """Return the least value of all processes."""
        if self.count == 1:
            return value
        found = torch.tensor(value)
        dist.all_reduce(found, op=dist.ReduceOp.MIN)
        return int(found)


ALONE = Ranks()


@dataclass(frozen=True)
class _Ended:
    """The last message of a rank that has done its work."""

    outcome: Any


@dataclass(frozen=True)
class _Failed:
    """The last message of a rank that has not."""

    error: BaseException


def check_devices(count: int, device: str) -> None:
    """Check that this machine has a GPU for each process of a training.

    Args:
        count: `runtime.gpus_per_training`.
        device: `runtime.device`. On CPUs there may be any number of processes.

    Raises:
        ModelError: it has not.
    """
    if choose_device(device).type == "cuda" and torch.cuda.device_count() < count:
        raise ModelError(
            f"runtime.gpus_per_training is {count}, but this process sees "
            f"{torch.cuda.device_count()} GPUs; write at most so many, or check "
            "CUDA_VISIBLE_DEVICES"
        )


def run_ranks(
    count: int, work: Callable[[Report, Ranks], Outcome], on_report: Report, *, device: str
) -> Outcome:
    """Do work in several new processes, all on this machine; a lost or failed one ends all.

    Args:
        count: of the processes.
        work: can be pickled by cloudpickle, its reports and outcome by pickle. Those of rank 0
            count.
        on_report: called in this process.
        device: `runtime.device`; rank r takes the r-th GPU that this process sees.

    Returns:
        The outcome of rank 0.

    Raises:
        ModelError: there are fewer GPUs. Nothing has started.
        PipelineError: a process was killed, such as by a lack of memory.
        BaseException: what the first rank to fail has raised, with its traceback as a note.
    """
    check_devices(count, device)
    context = multiprocessing.get_context("spawn")
    pickled = cloudpickle.dumps(work)  # with the functions of tasks, which pickle refuses
    ranks: dict[Connection, BaseProcess] = {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for number in range(count):
                ours, theirs = context.Pipe(duplex=False)
                ranks[ours] = context.Process(
                    target=_run_rank,
                    args=(Ranks(number, count), Path(folder) / "store", device, pickled, theirs),
                    name=f"rank {number} of {count}",
                    daemon=True,
                )
                ranks[ours].start()
                theirs.close()  # so that the end of the process is the end of what it sends
            outcome: Outcome = _follow(ranks, on_report)
            return outcome
        finally:
            for connection, process in ranks.items():
                connection.close()
                if process.pid is not None:
                    process.kill()
                    process.join()


def _follow(ranks: Mapping[Connection, BaseProcess], on_report: Report) -> Any:
    """Pass reports on until all ranks have ended; return the outcome of the first."""
    outcomes: dict[Connection, Any] = {}
    while running := [connection for connection in ranks if connection not in outcomes]:
        ready = wait(running)
        messages = {each: _receive(each) for each in running if each in ready}
        for connection in messages:
            if messages[connection] is None:  # first: other ranks fail because of this one
                raise _lost(ranks[connection])
        for connection, message in messages.items():
            match message:
                case _Failed(error):
                    raise error
                case _Ended(outcome):
                    outcomes[connection] = outcome
                case _:
                    on_report(message)
    return outcomes[next(iter(ranks))]


def _receive(connection: Any) -> Any:
    """Return the next message; None where the process has ended."""
    try:
        return pickle.loads(connection.recv_bytes())
    except EOFError:
        return None


def _lost(process: BaseProcess) -> PipelineError:
    process.join()
    code = process.exitcode or 0
    how = f"was killed ({signal.Signals(-code).name})" if code < 0 else f"exited with {code}"
    return PipelineError(
        f"runtime.gpus_per_training: {process.name} {how}, perhaps because the memory is full; run "
        "it again, and it resumes from its last checkpoint"
    )


def _run_rank(
    ranks: Ranks,
    store: Path,
    device: str,
    pickled: bytes,
    connection: Connection,
) -> None:
    """Do the work in the process of a rank."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C ends the process that has started this
    threading.Thread(target=_end_with_parent, daemon=True).start()

    def send(message: Any) -> None:
        connection.send_bytes(pickle.dumps(message))

    def report(event: Any) -> None:
        if ranks.first:
            send(event)

    try:
        backend = "gloo"
        if choose_device(device).type == "cuda":
            torch.cuda.set_device(ranks.number)
            backend = "cpu:gloo,cuda:nccl"
        dist.init_process_group(
            backend,
            init_method=store.as_uri(),
            rank=ranks.number,
            world_size=ranks.count,
        )
        outcome = pickle.loads(pickled)(report, ranks)
        dist.destroy_process_group()
    except BaseException as error:
        error.add_note(f"{multiprocessing.current_process().name}:\n{traceback.format_exc()}")
        send(_Failed(error))
        # If this process ended, others could fail because of it, and be heard first.
        threading.Event().wait()
    send(_Ended(outcome if ranks.first else None))


def _end_with_parent() -> None:
    """End this process at once when the one that has started it is gone."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
