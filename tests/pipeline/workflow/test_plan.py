from hypothesis import given
from hypothesis import strategies as st

from pipeline.workflow.plan import plan_tasks
from pipeline.workflow.project import StageNode
from pipeline.workflow.schedule import Task


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
