"""The result of a check, and running checks side by side, with a timeout and without tracebacks."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple

from pipeline.errors import PipelineError
from pipeline.sources.http import run_side_by_side

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """The result of a check.

    Attributes:
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
    late = Problem("failed", f"no answer within {seconds:g} seconds", "check network and disk")
    calls = {name: partial(_run_check, check) for name, check in checks.items()}
    outcomes = run_side_by_side(calls, seconds)
    return [CheckResult(name, *outcomes.get(name, late)) for name in checks]


def _run_check(check: Check) -> Problem:
    try:
        outcome = check()
        return Problem("ok", outcome) if isinstance(outcome, str) else outcome
    except PipelineError as error:
        return Problem("failed", str(error))
    except ImportError as error:
        return Problem("failed", str(error), "run `make setup`")
    except Exception as error:  # the other results are still shown
        return Problem("failed", f"the check crashed: {type(error).__name__}: {error}")
