"""What a check finds, and how checks run: side by side, none for ever, none with a traceback."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from pipeline.errors import PipelineError

State = Literal["ok", "warning", "failed", "skipped"]


@dataclass(frozen=True)
class CheckResult:
    """What a check found.

    Attributes:
        name: what was checked.
        state: `failed`: something that `params.yaml` needs does not work.
        found: in words.
        advice: what to do; empty where there is nothing to do.
    """

    name: str
    state: State
    found: str
    advice: str = ""


Check = Callable[[], CheckResult]


def run_checks(checks: Mapping[str, Check], seconds: float) -> list[CheckResult]:
    """Run checks side by side and return what they found, in their order.

    Args:
        checks: name -> check.
        seconds: how long all of them are waited for; one that takes longer has failed.
    """
    found: dict[str, CheckResult] = {}

    def run(name: str, check: Check) -> None:
        found[name] = _told(name, check)

    # As daemons, so that one that hangs does not keep the process.
    threads = [
        threading.Thread(target=run, args=item, daemon=True, name=f"check of {item[0]}")
        for item in checks.items()
    ]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    return [found.get(name) or _hanging(name, seconds) for name in checks]


def _told(name: str, check: Check) -> CheckResult:
    try:
        return check()
    except PipelineError as error:
        return CheckResult(name, "failed", str(error))
    except ImportError as error:
        return CheckResult(name, "failed", str(error), "run `make setup`")
    except Exception as error:  # a check that fails must not hide what the others found
        return CheckResult(
            name, "failed", f"the check itself broke: {type(error).__name__}: {error}"
        )


def _hanging(name: str, seconds: float) -> CheckResult:
    return CheckResult(
        name, "failed", f"no answer within {seconds:g} seconds", "check the network or the disk"
    )
