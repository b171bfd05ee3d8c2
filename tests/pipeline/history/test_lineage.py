from dataclasses import replace
from unittest.mock import patch

import pytest

from pipeline.errors import DataError
from pipeline.history import lineage
from pipeline.history.lineage import Artifact, LineageNode, Tracer, Used, trace
from pipeline.workflow.lock import folder_hash
from tests.pipeline.history.chain import (
    CHAIN,
    CODE,
    DOWNLOAD,
    EVALUATE,
    SPLIT,
    TRAIN,
    Runs,
    execution,
    lock,
    logged,
    run,
)

GIT = {**CODE, "stages/download.py": "d0", "metrics": "in git too", "metrics/p.json": "10"}


def tracer(executions=CHAIN, history=None, *, git=GIT, listing=None, prefer_locked=False) -> Tracer:
    return Tracer(
        lock(*executions),
        logged(*CHAIN) if history is None else history,
        hash_at=lambda commit, path: git.get(path) if commit in ("HEAD", "abc123") else None,
        listing=(listing or {}).get,
        prefer_locked=prefer_locked,
    )


def steps(node: Artifact | LineageNode) -> list[tuple[str, str | None]]:
    """Stage and run of each step, as met on the way back."""
    if isinstance(node, Artifact):
        return [] if node.made_by is None else steps(node.made_by)
    own = (node.execution.stage, None if node.run is None else node.run.run_id)
    return [own, *(pair for artifact in node.inputs for pair in steps(artifact))]


def missing(node: Artifact | LineageNode) -> list[str]:
    if isinstance(node, Artifact):
        return [node.path] if node.made_by is None else missing(node.made_by)
    return [path for artifact in node.inputs for path in missing(artifact)]


WHOLE = [
    ("evaluate@p", "run of evaluate@p"),
    ("train@p", "run of train@p"),
    ("split", "run of split"),
    ("download", "run of download"),
    ("split", "run of split"),
    ("download", "run of download"),
]


def test_a_metrics_file_is_traced_back_to_the_raw_data() -> None:
    found = tracer().back("metrics/p.json", "10")
    assert steps(found) == WHOLE
    assert missing(found) == []


def test_without_a_lock_the_history_is_enough() -> None:
    assert steps(tracer([]).back("metrics/p.json", "10")) == WHOLE


def test_without_a_history_the_lock_is_enough_but_names_no_run() -> None:
    found = tracer(history=Runs()).back("metrics/p.json", "10")
    assert steps(found) == [(stage, None) for stage, _ in WHOLE]
    assert missing(found) == []


def test_a_run_is_traced_as_its_metrics_are() -> None:
    history = logged(*CHAIN)
    assert steps(tracer(history=history).back_from(history.runs[-1])) == WHOLE
    assert steps(tracer().back_from_stage("evaluate@p")) == WHOLE


def test_content_that_nobody_recorded_is_a_missing_link() -> None:
    found = tracer([], logged(SPLIT, TRAIN, EVALUATE)).back("metrics/p.json", "10")
    assert missing(found) == ["data/raw", "data/raw"]
    assert tracer().back("metrics/p.json", "11").missing
    assert tracer().back("metrics/q.json", "10").made_by is None


def test_the_lock_says_which_of_two_executions_the_workspace_is_of() -> None:
    """Other code, the same bytes: the run of the recorded key counts, in either order of time."""
    other = replace(TRAIN, run_key="other", inputs={**TRAIN.inputs, "stages/train.py": "c0ff"})
    for minute in (-5, 50):
        history = logged(*CHAIN)
        history.runs.append(run(other, "another", minute))
        (_, made), *_ = steps(tracer(history=history).back("models/p", "e0.dir"))
        assert made == "run of train@p"
        found = tracer(history=history).back("models/p", "e0.dir").made_by
        assert found is not None
        assert found.other_runs == 1


def test_of_the_runs_of_one_key_the_newest_counts() -> None:
    history = logged(*CHAIN)
    history.runs.append(run(TRAIN, "again", 50))
    found = tracer(history=history).back("models/p", "e0.dir").made_by
    assert found is not None
    assert found.run is not None
    assert (found.run.run_id, found.other_runs) == ("again", 1)


def test_what_a_run_read_was_made_before_it_started() -> None:
    """The splits were made again later, with the same bytes: the old run had the old ones."""
    history = logged(*CHAIN)
    history.runs.append(run(replace(SPLIT, run_key="later"), "later", 50))
    evaluate = history.runs[3]
    assert "later" not in [made for _, made in steps(tracer(history=history).back_from(evaluate))]
    again = run(EVALUATE, "again", 60)
    assert "later" in [made for _, made in steps(tracer(history=history).back_from(again))]


def test_a_run_that_has_just_ended_read_what_is_in_the_lock() -> None:
    """A setting that this method does not use was changed and changed back: the same bytes."""
    history = logged(*CHAIN)
    history.runs.append(run(replace(TRAIN, run_key="changed"), "with the change", 50))
    again = run(EVALUATE, "again", 60)
    read = {
        prefer: steps(tracer(history=history, prefer_locked=prefer).back_from(again))
        for prefer in (False, True)
    }
    assert ("train@p", "with the change") in read[False]
    assert ("train@p", "run of train@p") in read[True]
    assert ("train@p", "with the change") not in read[True]


def test_code_is_held_against_the_commit_of_the_run() -> None:
    step = tracer().back("models/p", "e0.dir").made_by
    assert step is not None
    assert step.code == {"stages/train.py": True}
    edited = tracer(git={**GIT, "stages/train.py": "c0ff"}).back("models/p", "e0.dir").made_by
    assert edited is not None
    assert edited.code == {"stages/train.py": False}
    unknown = tracer(history=Runs()).back("models/p", "e0.dir").made_by
    assert unknown is not None
    assert unknown.code == {"stages/train.py": None}


def test_an_output_that_git_has_too_is_no_code() -> None:
    report = execution("report", {"metrics/p.json": "77"}, {"report": "99.dir"})
    found = tracer([*CHAIN, report], logged(*CHAIN, report)).back("report", "99.dir")
    assert missing(found) == ["metrics/p.json"]


METRICS = folder_hash([("p.json", "10"), ("q/one.json", "21")])
OTHER = execution("evaluate@q", {"data/splits": "b0.dir"}, {"metrics/q": "22.dir"})
REPORT = execution("report", {"metrics": METRICS}, {"report": "99.dir"})


@pytest.mark.parametrize("by_run", [False, True])
def test_a_folder_of_other_stages_outputs_is_traced_through_each(by_run: bool) -> None:
    within = {"metrics/p.json": "10", "metrics/q": "22.dir"}
    report = replace(REPORT, inputs={**REPORT.inputs, **within})
    history = logged(*CHAIN, OTHER, report)
    own = tracer([*CHAIN, OTHER, REPORT], history, listing={"22.dir": [("one.json", "21")]})
    found = own.back_from(history.runs[-1]) if by_run else own.back("report", "99.dir").made_by
    assert found is not None
    assert [artifact.path for artifact in found.inputs] == ["metrics/p.json", "metrics/q"]
    assert missing(found) == []


@pytest.mark.parametrize("listing", [{}, {"22.dir": [("one.json", "21"), ("two.json", "23")]}])
def test_what_the_outputs_in_a_folder_do_not_explain_is_a_missing_link(listing) -> None:
    """A file of unknown origin lay in it, or its listing is not in the cache."""
    own = tracer([*CHAIN, OTHER, REPORT], listing=listing)
    assert missing(own.back("report", "99.dir")) == ["metrics"]


def test_a_run_that_does_not_say_what_lay_in_a_folder_has_a_missing_link() -> None:
    history = logged(*CHAIN, OTHER, REPORT)
    found = tracer([*CHAIN, OTHER, REPORT], history).back_from(history.runs[-1])
    assert missing(found) == ["metrics"]


def uses(node: Used) -> list[str]:
    return [
        name
        for step in node.used_by
        for name in [step.execution.stage, *(n for used in step.outputs for n in uses(used))]
    ]


@pytest.mark.parametrize("history", [logged(*CHAIN, REPORT), Runs()])
def test_forward_finds_all_that_was_made_from_something(history: Runs) -> None:
    own = tracer([*CHAIN, OTHER, REPORT], history)
    found = own.forward("data/splits", "b0.dir")
    assert sorted(set(uses(found))) == ["evaluate@p", "evaluate@q", "report", "train@p"]
    assert sorted(set(uses(own.forward("stages/train.py", "c0de")))) == [
        "evaluate@p", "report", "train@p",
    ]  # fmt: skip
    assert uses(own.forward("report", "99.dir")) == []


def test_forward_tells_executions_of_other_content_apart() -> None:
    other = execution("train@p", {"data/splits": "b1.dir"}, {"models/p": "e1.dir"}, key="other")
    history = logged(*CHAIN, other)
    assert uses(tracer(history=history).forward("data/splits", "b1.dir")) == ["train@p"]
    found = tracer(history=history).forward("data/splits", "b0.dir").used_by
    assert [step.run and step.run.run_id for step in found] == [
        "run of evaluate@p", "run of train@p",
    ]  # fmt: skip


def test_of_many_runs_of_one_execution_forward_shows_one() -> None:
    history = logged(*CHAIN)
    history.runs.append(run(TRAIN, "again", 50))
    (first, _) = tracer(history=history).forward("data/splits", "b0.dir").used_by
    assert (first.run and first.run.run_id, first.other_runs) == ("again", 1)


def test_the_download_has_no_input_but_its_code() -> None:
    step = tracer().back("data/raw", "a0.dir").made_by
    assert step is not None
    assert step.execution == DOWNLOAD
    assert step.inputs == []
    assert step.code == {"stages/download.py": True}


HISTORY = logged(*CHAIN)
RUN = HISTORY.runs[2]
HISTORY.by_id = {"abcdef": RUN, "abcdef01": RUN}


def traces(target: str, *, forward: bool = False, workspace: dict[str, str | None] | None = None):
    every = {path: digest for e in CHAIN for path, digest in e.outputs.items()}
    with patch.object(lineage, "workspace_hashes", lambda _: workspace or every):
        return trace(target, tracer(history=HISTORY), forward=forward)


@pytest.mark.parametrize(
    "target", ["models/p", "models/p/", "./models/p", "models/p/prompts.json", "models/p/a/b"]
)
def test_a_path_is_the_output_that_it_is_or_lies_in(target: str) -> None:
    (artifact,) = traces(target)
    assert isinstance(artifact, Artifact)
    assert (artifact.path, artifact.digest) == ("models/p", "e0.dir")
    (used,) = traces(target, forward=True)
    assert isinstance(used, Used)
    assert used.path == "models/p"


def test_a_folder_is_the_outputs_in_it() -> None:
    assert [artifact.path for artifact in traces("data")] == ["data/raw", "data/splits"]


def test_a_beginning_of_a_name_is_no_folder() -> None:
    with pytest.raises(DataError, match="mod: not an output"):
        traces("mod")


def test_a_stage_is_its_execution_on_record() -> None:
    (step,) = traces("train@p")
    assert isinstance(step, LineageNode)
    assert step.run == RUN
    assert [used.path for used in traces("train@p", forward=True)] == list(TRAIN.outputs)


@pytest.mark.parametrize("run_id", ["abcdef", "abcdef01"])
def test_a_run_is_found_by_its_id_or_the_beginning_of_it(run_id: str) -> None:
    (step,) = traces(run_id)
    assert isinstance(step, LineageNode)
    assert step.run == RUN
    assert [used.path for used in traces(run_id, forward=True)] == list(TRAIN.outputs)


def test_what_the_workspace_holds_counts_not_what_is_on_record() -> None:
    (artifact,) = traces("models/p", workspace={"models/p": "edited"})
    assert isinstance(artifact, Artifact)
    assert artifact.digest == "edited"
    assert artifact.missing


def test_what_is_not_checked_out_is_taken_from_the_record() -> None:
    (artifact,) = traces("models/p", workspace={"models/p": None})
    assert isinstance(artifact, Artifact)
    assert artifact.digest == "e0.dir"


def test_code_has_a_future_but_no_stage_that_makes_it() -> None:
    (used,) = traces("stages/train.py", forward=True)
    assert isinstance(used, Used)
    assert [step.execution.stage for step in used.used_by] == ["train@p"]
    with pytest.raises(DataError, match=r"git log stages/train\.py.*--forward"):
        traces("stages/train.py")


@pytest.mark.parametrize("target", ["nothing", "deadbeef", "deadbee", "models/q", "", "/", ".."])
def test_what_is_none_of_these_is_an_error_that_lists_outputs(target: str) -> None:
    with pytest.raises(DataError, match=r"Outputs: curves/p\.csv, data/raw"):
        traces(target)
