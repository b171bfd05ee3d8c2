import threading

from pipeline.doctor.checks import CheckResult, run_checks
from pipeline.errors import DataError


def fine() -> str:
    return "well"


def broken() -> str:
    raise ZeroDivisionError("by zero")


def refused() -> str:
    raise DataError("cut; fetch it again")


def lacking() -> str:
    raise ModuleNotFoundError("No module named 'torch'")


def test_each_check_has_a_finding_in_the_order_given_whatever_befalls_it() -> None:
    checks = {"a": fine, "b": broken, "c": refused, "d": lacking}
    assert run_checks(checks, 5) == [
        CheckResult("a", "ok", "well"),
        CheckResult("b", "failed", "the check crashed: ZeroDivisionError: by zero"),
        CheckResult("c", "failed", "cut; fetch it again"),
        CheckResult("d", "failed", "No module named 'torch'", "run `make setup`"),
    ]


def test_one_that_hangs_is_not_waited_for_and_the_others_are_reported() -> None:
    released, ended = threading.Event(), threading.Event()

    def hanging() -> str:
        released.wait(600)
        ended.set()
        return fine()

    found = run_checks({"hangs": hanging, "fine": fine}, 2)
    assert not ended.is_set()
    released.set()
    assert [finding.state for finding in found] == ["failed", "ok"]
    assert found[0].message == "no answer within 2 seconds"


def test_checks_run_side_by_side() -> None:
    both = threading.Barrier(2)

    def meets() -> str:
        both.wait(10)
        return fine()

    found = run_checks({"a": meets, "b": meets}, 10)
    assert [finding.state for finding in found] == ["ok", "ok"]
