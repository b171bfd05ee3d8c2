"""Give the commands hundreds of bad inputs: does each end in a clear message, and soon?

A tiny project runs once. For each case, a copy of it gets one bad input (a value in params.yaml, a
damaged file, a model folder, a full disk) and runs one real command. These are faults: a traceback,
a hang, the death of the process, acceptance of what must be refused, refusal of what must work, a
refusal whose message does not name what is wrong, and outputs that a refused command has changed.

    python -m benchmarks.bad_inputs
    python -m benchmarks.bad_inputs --kind params --kind yaml
    python -m benchmarks.bad_inputs --write     # the counts: results/bad_inputs.json, README.md

Disks of limited size and other users' files are only tried as root, which may mount and change
owners; elsewhere these kinds are counted as left out.
"""

import datetime
import os
import shutil
import signal
import subprocess
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import typer
from rich.console import Console
from rich.table import Table

from benchmarks.bad_cases import RESUMED, Case, all_cases
from benchmarks.environment import ENVIRONMENT
from pipeline.files import read_json, write_json
from pipeline.history.context import hardware_name
from pipeline.report.tables import markdown_table
from pipeline.results.page import insert_between
from tests.project import environment_of, make_project, outputs, run
from tests.tiny import save_tiny
from tests.warm import Started, can_run, start_warm

SECONDS = 60.0
RESULTS = Path(__file__).parent / "results" / "bad_inputs.json"
README = Path(__file__).parent / "README.md"
BEGIN = "<!-- bad inputs: written by `python -m benchmarks.bad_inputs --write` -->"
END = "<!-- end of the bad inputs -->"
_OUTPUTS = ("data", "models", "curves", "metrics", "evaluation", "report")
# By which pydantic calls its own types.
_INTERNAL = ("constrained-", "literal[", "list[", "dict[", "function-", "is-instance")
_MOVED = "The checkout was moved:"
_MESSAGE = ("error: ", "ERROR: ", "Usage: ", "✗", "x ")

console = Console(width=110)


class Ended(NamedTuple):
    """A command that ended, or was ended after `SECONDS`: exit code, output and changed outputs."""

    code: int
    text: str
    hung: bool = False
    changed: tuple[str, ...] = ()


@dataclass(frozen=True)
class Verdict:
    """What came of a case; `fault` is empty where all is as it should be."""

    case: Case
    fault: str
    ended: Ended


def judge(case: Case, ended: Ended) -> str:
    """Name the fault of a command on a bad input; empty if there is none."""
    refused = ended.code != 0
    if ended.hung:
        return "hang"
    if ended.code < 0:
        return "killed"
    if "Traceback (most recent call last)" in ended.text:
        return "traceback"
    if case.expected == "refused" and not refused:
        return "silent"
    if case.expected == "accepted" and refused:
        return "refused"
    if refused and not any(sign in ended.text for sign in _MESSAGE):
        return "no message"
    if case.kind == "params" and any(word in ended.text for word in _INTERNAL):
        return "unclear"
    if case.says and (refused or case.expected == "accepted") and not _says(case, ended):
        return "unclear"
    if refused and ended.changed:
        return "half-written"
    return ""


def _says(case: Case, ended: Ended) -> bool:
    # Each copy is a checkout that was moved, of which the first command says so.
    lines = (line for line in ended.text.splitlines() if not line.startswith(_MOVED))
    # Without white space, as a table cuts long words.
    text = "".join("".join(lines).split())
    return all("".join(part.split()) in text for part in case.says.split("|"))


@contextmanager
def prepared_project() -> Iterator[Path]:
    """Yield a tiny project that was run once; without DVC's cache, so that copies are small."""
    with tempfile.TemporaryDirectory(prefix="bad-inputs-") as folder:
        model = save_tiny("gpt2", Path(folder, "model"))
        root = make_project(Path(folder, "project"), model, lama__methods=["manual", "p-tuning"])
        run(root, "dvc", "repro")
        shutil.rmtree(root / ".dvc" / "cache")
        for stage, command in RESUMED.items():  # dvc has not recorded these: their progress stays
            run(root, *command, DVC_STAGE=stage)
        yield root


def try_case(project: Path, case: Case) -> Verdict:
    """Run a case in a copy of the project."""
    with (
        tempfile.TemporaryDirectory(prefix="bad-", dir=project.parent) as folder,
        ExitStack() as on,
    ):
        root = Path(folder, "project")
        shutil.copytree(project, root, symlinks=True)
        if case.within is not None:
            on.enter_context(case.within(root))
        if case.prepare is not None:
            case.prepare(root)
        before = outputs(root, *_OUTPUTS)
        ended = _run(root, case)
        after = outputs(root, *_OUTPUTS)
        changed = tuple(path for path in after if before.get(path) != after[path])
        ended = ended._replace(changed=changed)
    return Verdict(case, judge(case, ended), ended)


def _run(root: Path, case: Case) -> Ended:
    environment = environment_of(root, **case.environment)
    with tempfile.TemporaryFile("w+", errors="replace") as output:
        file = output.fileno()
        started: Started | subprocess.Popen[bytes]
        if can_run(case.command):
            started = start_warm(case.command, root, environment, file, file, group=0)
        else:
            started = subprocess.Popen(
                case.command, cwd=root, env=environment, stdout=file, stderr=file, process_group=0
            )
        hung = threading.Event()

        def end() -> None:
            hung.set()
            os.killpg(started.pid, signal.SIGKILL)

        timer = threading.Timer(SECONDS, end)
        timer.start()
        code = started.wait()
        timer.cancel()
        output.seek(0)
        return Ended(code, output.read(), hung.is_set())


def try_all(project: Path, cases: Sequence[Case], *, jobs: int) -> Iterator[Verdict]:
    """Run cases side by side, and yield their verdicts in order."""
    with ThreadPoolExecutor(jobs) as pool:
        yield from pool.map(partial(try_case, project), cases)


def main(
    kinds: Annotated[
        list[str] | None, typer.Option("--kind", help="Kinds of input; default: all.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Commands at a time.")] = 2,
    every: Annotated[int, typer.Option(min=1, help="Only each n-th case.")] = 1,
    write: Annotated[
        bool, typer.Option("--write", help="Keep the counts of these kinds in the benchmarks.")
    ] = False,
) -> None:
    """Try all cases, print each fault and the counts by kind; exit code 1 if there is a fault."""
    if write and every > 1:
        raise typer.BadParameter("counts of all cases are kept: leave out --every")
    os.environ.update(ENVIRONMENT)
    counts: dict[str, Counter[str]] = {}
    with prepared_project() as project:
        cases = [case for case in all_cases(project) if not kinds or case.kind in kinds][::every]
        for kind, group in groupby(cases, lambda case: case.kind):
            results = counts[kind] = Counter()
            for verdict in try_all(project, list(group), jobs=jobs):
                results[_result(verdict)] += 1
                if verdict.fault:
                    _print_fault(verdict)
            console.print(f"{kind}: {dict(results)}", markup=False, highlight=False)
            if write:
                keep(kind, results)
    console.print(counts_table(counts))
    faults = sum(counts.values(), Counter()).keys() - {"accepted", "message"}
    raise typer.Exit(1 if faults else 0)


def _result(verdict: Verdict) -> str:
    return verdict.fault or ("accepted" if verdict.ended.code == 0 else "message")


def _print_fault(verdict: Verdict) -> None:
    last = "\n".join(verdict.ended.text.strip().splitlines()[-4:])[-600:]
    console.print(
        f"{verdict.fault}: {verdict.case.kind}: {verdict.case.name}"
        f" [{' '.join(verdict.case.command)[:100]}]\n{last}\n",
        markup=False, highlight=False,
    )  # fmt: skip


def keep(kind: str, counts: Counter[str]) -> None:
    """Write the counts of a kind into `RESULTS`, and the table of all kinds into `README`."""
    kinds = read_json(RESULTS)["kinds"] if RESULTS.exists() else {}
    kinds[kind] = {
        "command": f"python -m benchmarks.bad_inputs --kind {kind} --write",
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "hardware": hardware_name(None),
        "counts": dict(sorted(counts.items())),
    }
    write_json(RESULTS, {"seconds": SECONDS, "kinds": dict(sorted(kinds.items()))})
    text = insert_between(README.read_text("utf-8"), BEGIN, END, markdown_counts(kinds))
    README.write_text(text, encoding="utf-8")


def markdown_counts(kinds: dict[str, Any]) -> str:
    """The table of `README`: a row for each kind, by name, and one for all."""
    rows = []
    for kind, content in sorted(kinds.items()):
        counts = Counter(content["counts"])
        faults = {name: n for name, n in counts.items() if name not in ("accepted", "message")}
        rows.append(
            {
                "kind": kind,
                "inputs": counts.total(),
                "clear message": counts["message"],
                "accepted": counts["accepted"],
                "faults": ", ".join(f"{n} {name}" for name, n in faults.items()) or "0",
                "date, hardware": f"{content['date']}, {content['hardware']}",
            }
        )
    total = {key: sum(row[key] for row in rows) for key in ("inputs", "clear message", "accepted")}
    missing = total["inputs"] - total["clear message"] - total["accepted"]
    return markdown_table([*rows, {"kind": "all", **total, "faults": str(missing)}])


def counts_table(counts: dict[str, Counter[str]]) -> Table:
    """A row for each kind of input, a column for each result."""
    results = sorted({result for counter in counts.values() for result in counter})
    table = Table("kind", *results, "all")
    total: Counter[str] = Counter()
    for kind, counter in counts.items():
        total += counter
        table.add_row(kind, *(str(counter[r]) for r in results), str(counter.total()))
    table.add_row("all", *(str(total[r]) for r in results), str(total.total()))
    return table


if __name__ == "__main__":
    typer.run(main)
