import os
import threading
import time
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.workflow.processes import threads_each
from pipeline.workflow.project import StageNode
from pipeline.workflow.scheduler import (
    Result,
    Task,
    TaskStatus,
    longest_first,
    plan_tasks,
    run_tasks,
)


class Commands:
    """Commands that only say how they end, and note what happens beside what."""

    def __init__(
        self, tasks: Iterable[Task], ends: Mapping[str, TaskStatus], *, last: float = 0
    ) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.ends = ends
        self.last = last
        self.started: list[str] = []
        self.ended: set[str] = set()
        self.running: set[str] = set()
        self.most = 0
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def run(self, task: Task) -> TaskStatus:
        with self._lock:
            self.started.append(task.name)
            if not task.after <= self.ended:
                self.wrong.append(f"{task.name} started before {task.after - self.ended}")
            self.running.add(task.name)
            self.most = max(self.most, len(self.running))
        time.sleep(self.last)
        with self._lock:
            self.running.remove(task.name)
            self.ended.add(task.name)
        return self.ends.get(task.name, TaskStatus.RAN)


def names(results: Mapping[str, Result], status: TaskStatus) -> set[str]:
    return {name for name, result in results.items() if result.status is status}


@st.composite
def graphs(draw: st.DrawFn) -> list[Task]:
    count = draw(st.integers(0, 9))
    tasks = []
    for number in range(count):
        earlier = [f"t{before}" for before in range(number)]
        after = draw(st.sets(st.sampled_from(earlier), max_size=3)) if earlier else set()
        tasks.append(Task(f"t{number}", frozenset(after)))
    return tasks


def cannot_run(tasks: list[Task], bad: set[str]) -> set[str]:
    """Find slowly what lies behind something bad: by every path."""
    behind = {task.name: task.after for task in tasks}

    def touched(name: str) -> bool:
        return any(before in bad or touched(before) for before in behind[name])

    return {task.name for task in tasks if touched(task.name)}


@settings(deadline=None, max_examples=150)
@given(tasks=graphs(), jobs=st.integers(1, 4), data=st.data())
def test_every_graph_is_run_as_a_naive_reading_of_the_rules_says(
    tasks: list[Task], jobs: int, data: st.DataObject
) -> None:
    ends = {task.name: data.draw(st.sampled_from(list(TaskStatus)[:5])) for task in tasks}
    commands = Commands(tasks, ends)
    results = run_tasks(tasks, commands.run, jobs=jobs)

    bad = {name for name, end in ends.items() if end in (TaskStatus.FAILED, TaskStatus.STOPPED)}
    behind = cannot_run(tasks, bad)
    assert list(results) == [task.name for task in tasks]
    assert names(results, TaskStatus.NOT_RUN) == behind
    assert sorted(commands.started) == sorted(set(results) - behind)
    assert all(results[name].status is ends[name] for name in commands.started)
    for task in tasks:
        blocked_by = {name for name in task.after if name in bad | behind}
        assert set(results[task.name].blocked_by) == (blocked_by if task.name in behind else set())
    assert commands.wrong == []
    assert commands.most <= jobs


def test_one_job_keeps_the_order_of_the_tasks() -> None:
    tasks = [Task("b"), Task("a"), Task("d", frozenset({"b"})), Task("c")]
    commands = Commands(tasks, {})
    run_tasks(tasks, commands.run, jobs=1)
    assert commands.started == ["b", "a", "d", "c"]


def test_independent_tasks_run_at_the_same_time() -> None:
    meeting = threading.Barrier(3, timeout=600)

    def run(task: Task) -> TaskStatus:
        meeting.wait()
        return TaskStatus.RAN

    results = run_tasks([Task("a"), Task("b"), Task("c")], run, jobs=3)
    assert names(results, TaskStatus.RAN) == {"a", "b", "c"}


def test_of_the_tasks_that_can_start_the_first_does() -> None:
    tasks = [Task("d", frozenset({"a"})), Task("c"), Task("a"), Task("b", frozenset({"c"}))]
    commands = Commands(tasks, {})
    run_tasks(tasks, commands.run, jobs=1)
    assert commands.started == ["c", "a", "d", "b"]


@given(tasks=graphs(), data=st.data())
def test_what_the_longest_wait_is_for_starts_first(tasks: list[Task], data: st.DataObject) -> None:
    seconds = {
        task.name: data.draw(st.floats(0, 100)) for task in tasks if data.draw(st.booleans())
    }

    def slowly(name: str) -> float:
        behind = [slowly(task.name) for task in tasks if name in task.after]
        return seconds.get(name, 0.0) + max(behind, default=0.0)

    places = {task.name: number for number, task in enumerate(tasks)}
    expected = sorted(places, key=lambda name: (-slowly(name), places[name]))
    assert [task.name for task in longest_first(tasks, seconds)] == expected


def test_the_seconds_are_those_of_the_task() -> None:
    commands = Commands([Task("a")], {}, last=0.05)
    assert 0.05 <= run_tasks([Task("a")], commands.run, jobs=1)["a"].seconds < 5


def test_a_circle_is_refused() -> None:
    tasks = [Task("a", frozenset({"b"})), Task("b", frozenset({"a"}))]
    with pytest.raises(ValueError, match="cycle"):
        run_tasks(tasks, lambda _: TaskStatus.RAN, jobs=1)


# Planning


def node(name: str, *after: str, changed: bool = True) -> StageNode:
    return StageNode(name, frozenset(after), changed)


def test_all_wait_for_the_first_stage_wherever_it_is() -> None:
    nodes = [node("report"), node("validate"), node("download", "validate")]
    assert plan_tasks(nodes, "validate") == [
        Task("validate"),
        Task("report", frozenset({"validate"})),
        Task("download", frozenset({"validate"})),
    ]


def test_what_has_not_changed_behind_nothing_that_has_is_left_out() -> None:
    nodes = [
        node("validate", changed=False),
        node("download", "validate", changed=False),
        node("splits", "download"),
        node("train", "splits", "download", changed=False),
        node("other", "download", changed=False),
    ]
    assert plan_tasks(nodes, "validate") == [
        Task("splits"),
        Task("train", frozenset({"splits"})),
    ]


@given(st.data())
def test_a_stage_is_left_out_just_if_nothing_on_its_way_has_changed(data: st.DataObject) -> None:
    nodes: list[StageNode] = []
    for number in range(data.draw(st.integers(0, 8))):
        earlier = [before.name for before in nodes]
        after = data.draw(st.sets(st.sampled_from(earlier), max_size=3)) if earlier else set()
        nodes.append(node(f"s{number}", *after, changed=data.draw(st.booleans())))
    known = {own.name: own for own in nodes}

    def stale(own: StageNode) -> bool:
        return own.changed or any(stale(known[name]) for name in own.after)

    tasks = plan_tasks(nodes, "validate")
    assert [task.name for task in tasks] == [own.name for own in nodes if stale(own)]


def test_stages_share_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    assert [threads_each(jobs) for jobs in (1, 2, 3, 8, 9)] == [8, 4, 2, 1, 1]
