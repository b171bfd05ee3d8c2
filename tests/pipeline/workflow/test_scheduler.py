import threading
import time
from collections.abc import Iterable, Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.workflow.project import StageNode
from pipeline.workflow.scheduler import Result, Task, TaskStatus, plan_tasks, run_tasks


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
        self.running: dict[str, str | None] = {}
        self.most = 0
        self.wrong: list[str] = []
        self._lock = threading.Lock()

    def run(self, task: Task, gpu: str | None) -> TaskStatus:
        with self._lock:
            self.started.append(task.name)
            if not task.after <= self.ended:
                self.wrong.append(f"{task.name} started before {task.after - self.ended}")
            if gpu is not None and gpu in self.running.values():
                self.wrong.append(f"GPU {gpu} is taken")
            self.running[task.name] = gpu
            self.most = max(self.most, len(self.running))
        time.sleep(self.last)
        with self._lock:
            del self.running[task.name]
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
        tasks.append(Task(f"t{number}", frozenset(after), gpu=draw(st.booleans())))
    return tasks


def cannot_run(tasks: list[Task], bad: set[str]) -> set[str]:
    """Find slowly what lies behind something bad: by every path."""
    behind = {task.name: task.after for task in tasks}

    def touched(name: str) -> bool:
        return any(before in bad or touched(before) for before in behind[name])

    return {task.name for task in tasks if touched(task.name)}


@settings(deadline=None, max_examples=150)
@given(
    tasks=graphs(),
    jobs=st.integers(1, 4),
    gpus=st.lists(st.sampled_from(["0", "1", "7"]), unique=True),
    data=st.data(),
)
def test_every_graph_is_run_as_a_naive_reading_of_the_rules_says(
    tasks: list[Task], jobs: int, gpus: list[str], data: st.DataObject
) -> None:
    ends = {task.name: data.draw(st.sampled_from(list(TaskStatus)[:5])) for task in tasks}
    commands = Commands(tasks, ends)
    results = run_tasks(tasks, commands.run, jobs=jobs, gpus=gpus)

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

    def run(task: Task, gpu: str | None) -> TaskStatus:
        meeting.wait()
        return TaskStatus.RAN

    results = run_tasks([Task("a"), Task("b"), Task("c")], run, jobs=3)
    assert names(results, TaskStatus.RAN) == {"a", "b", "c"}


def test_who_waits_for_a_gpu_holds_nobody_up() -> None:
    tasks = [*(Task(f"train-{n}", gpu=True) for n in range(4)), *(Task(f"read-{n}") for n in "ab")]
    commands = Commands(tasks, {}, last=0.05)
    run_tasks(tasks, commands.run, jobs=4, gpus=["0", "1"])
    assert set(commands.started[:4]) == {"train-0", "train-1", "read-a", "read-b"}
    assert commands.most == 4
    assert commands.wrong == []


@pytest.mark.parametrize(("gpus", "seen"), [([], {None}), (["3"], {"3"}), ([""], {""})])
def test_a_task_has_a_gpu_where_there_are_some(gpus: list[str], seen: set[str | None]) -> None:
    given: set[str | None] = set()

    def run(task: Task, gpu: str | None) -> TaskStatus:
        given.add(gpu)
        return TaskStatus.RAN

    run_tasks([Task("a", gpu=True), Task("b", gpu=True)], run, jobs=2, gpus=gpus)
    assert given == seen


def test_the_seconds_are_those_of_the_task() -> None:
    commands = Commands([Task("a")], {}, last=0.05)
    assert 0.05 <= run_tasks([Task("a")], commands.run, jobs=1)["a"].seconds < 5


def test_an_order_that_cannot_be_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a precedes \['b'\]"):
        run_tasks([Task("a", frozenset({"b"})), Task("b")], lambda *_: TaskStatus.RAN, jobs=1)


# Planning


def node(name: str, *after: str, changed: bool = True) -> StageNode:
    return StageNode(name, frozenset(after), changed)


def test_all_wait_for_the_first_stage_wherever_it_stands() -> None:
    nodes = [node("report"), node("validate"), node("download", "validate")]
    assert plan_tasks(nodes, "validate") == [
        Task("validate"),
        Task("report", frozenset({"validate"})),
        Task("download", frozenset({"validate"})),
    ]


def test_only_what_trains_or_evaluates_takes_a_gpu() -> None:
    stages = ["train-lama@manual", "evaluate-lama@manual", "trainer", "splits-lama", "report"]
    tasks = plan_tasks([node(name) for name in stages], "validate")
    assert [task.name for task in tasks if task.gpu] == stages[:2]


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
        Task("train", frozenset({"splits"}), gpu=True),
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
