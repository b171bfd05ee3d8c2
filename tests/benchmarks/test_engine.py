import json

import pytest

from benchmarks.engine import BEGIN, END, README, RESULTS, makespan, page


def test_the_readme_shows_the_results_of_the_file() -> None:
    shown = README.read_text(encoding="utf-8").partition(BEGIN)[2].partition(END)[0]
    assert page(json.loads(RESULTS.read_text(encoding="utf-8"))) == shown.strip()


def test_a_gpu_that_is_free_takes_the_next_unit_and_logs_wait_for_each_other() -> None:
    # A worker starts in 20 s.
    assert makespan([10, 10, 30], 2, 1, 0.3) == pytest.approx(20 + 11 + 31 + 0.3)
    assert makespan([30, 10, 10], 2, 1, 0.3) == pytest.approx(20 + 31 + 0.3)
    assert makespan([5.0] * 11, 11, 0, 0.3) == pytest.approx(25 + 0.3 * 11)
