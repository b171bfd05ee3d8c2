"""The result of a check, and running checks side by side, with a timeout and without tracebacks."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.errors import PipelineError

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
        name: of the check.
        state: `failed`: something that `params.yaml` needs does not work.
        message: the reason, or what works.
        advice: what to do; empty if there is nothing to do.
    """

    name: str
    state: State
    message: str
    advice: str = ""


class Problem(NamedTuple):
    """What a check returns if something does not work; see `CheckResult`."""

    state: State
    message: str
    advice: str = ""


# Returns a message if everything works.
Check = Callable[[], str | Problem]


def run_checks(checks: Mapping[str, Check], seconds: float) -> list[CheckResult]:
    """Run checks side by side and return their results, in the order of the checks.

    Args:
        checks: name -> check.
        seconds: timeout of all of them; a check that takes longer has failed.
    """
    outcomes: dict[str, str | Problem] = {}

    def run(name: str, check: Check) -> None:
        outcomes[name] = _run_check(check)

    # As daemons, so that one that hangs does not keep the process.
    threads = [threading.Thread(target=run, args=item, daemon=True) for item in checks.items()]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    late = Problem("failed", f"no answer within {seconds:g} seconds", "check network and disk")
    return [_result(name, outcomes.get(name, late)) for name in checks]


def _run_check(check: Check) -> str | Problem:
    try:
        return check()
    except PipelineError as error:
        return Problem("failed", str(error))
    except ImportError as error:
        return Problem("failed", str(error), "run `make setup`")
    except Exception as error:  # the other results are still shown
        return Problem("failed", f"the check crashed: {type(error).__name__}: {error}")


def _result(name: str, outcome: str | Problem) -> CheckResult:
    if isinstance(outcome, str):
        return CheckResult(name, "ok", outcome)
    return CheckResult(name, *outcome)
