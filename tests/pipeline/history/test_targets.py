import pytest

from pipeline.errors import DataError
from pipeline.history.lineage import Artifact, LineageNode, Used, trace
from tests.pipeline.history.chain import CHAIN, TRAIN, logged
from tests.pipeline.history.test_lineage import tracer

HISTORY = logged(*CHAIN)
RUN = HISTORY.runs[2]


def found(target: str, *, forward: bool = False, workspace: dict[str, str | None] | None = None):
    every = {path: digest for e in CHAIN for path, digest in e.outputs.items()}
    return trace(
        target,
        tracer(history=HISTORY),
        find_run={"abcdef": RUN, "abcdef01": RUN}.get,
        workspace_hashes=lambda _: workspace or every,
        forward=forward,
    )


@pytest.mark.parametrize(
    "target", ["models/p", "models/p/", "./models/p", "models/p/prompts.json", "models/p/a/b"]
)
def test_a_path_is_the_output_that_it_is_or_lies_in(target: str) -> None:
    (artifact,) = found(target)
    assert isinstance(artifact, Artifact)
    assert (artifact.path, artifact.digest) == ("models/p", "e0.dir")
    (used,) = found(target, forward=True)
    assert isinstance(used, Used)
    assert used.path == "models/p"


def test_a_folder_is_the_outputs_in_it() -> None:
    assert [artifact.path for artifact in found("data")] == ["data/raw", "data/splits"]


def test_a_beginning_of_a_name_is_no_folder() -> None:
    with pytest.raises(DataError, match="mod: not an output"):
        found("mod")


def test_a_stage_is_its_execution_on_record() -> None:
    (step,) = found("train@p")
    assert isinstance(step, LineageNode)
    assert step.run == RUN
    assert [used.path for used in found("train@p", forward=True)] == list(TRAIN.outputs)


@pytest.mark.parametrize("run_id", ["abcdef", "abcdef01"])
def test_a_run_is_found_by_its_id_or_the_beginning_of_it(run_id: str) -> None:
    (step,) = found(run_id)
    assert isinstance(step, LineageNode)
    assert step.run == RUN
    assert [used.path for used in found(run_id, forward=True)] == list(TRAIN.outputs)


def test_what_the_workspace_holds_counts_not_what_is_on_record() -> None:
    (artifact,) = found("models/p", workspace={"models/p": "edited"})
    assert isinstance(artifact, Artifact)
    assert artifact.digest == "edited"
    assert artifact.missing


def test_what_is_not_checked_out_is_taken_from_the_record() -> None:
    (artifact,) = found("models/p", workspace={"models/p": None})
    assert isinstance(artifact, Artifact)
    assert artifact.digest == "e0.dir"


def test_code_has_a_future_but_no_stage_that_makes_it() -> None:
    (used,) = found("stages/train.py", forward=True)
    assert isinstance(used, Used)
    assert [step.execution.stage for step in used.used_by] == ["train@p"]
    with pytest.raises(DataError, match=r"git log stages/train\.py.*--forward"):
        found("stages/train.py")


@pytest.mark.parametrize("target", ["nothing", "deadbeef", "deadbee", "models/q", "", "/", ".."])
def test_what_is_none_of_these_is_an_error_that_lists_outputs(target: str) -> None:
    with pytest.raises(DataError, match=r"Outputs: curves/p\.csv, data/raw"):
        found(target)
