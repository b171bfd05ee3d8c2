import json
from dataclasses import replace

from pipeline.history.lineage_text import as_json, as_tree
from tests.pipeline.history.chain import CHAIN, EVALUATE, SPLIT, TRAIN, Runs, logged
from tests.pipeline.history.test_lineage import GIT, tracer


def test_a_trace_back_is_a_tree_that_tells_each_step_once() -> None:
    history = logged(*CHAIN)
    history.runs[2] = replace(history.runs[2], dirty=True)
    own = tracer(history=history, git={**GIT, "stages/train.py": "c0ff"})
    assert as_tree(own.back("metrics/p.json", "10")) == (
        "metrics/p.json  10\n"
        "└─ evaluate@p  run run of eva  2026-01-01 10:03 UTC  commit abc123\n"
        "   ├─ models/p  e0.dir\n"
        "   │  └─ train@p  run run of tra  2026-01-01 10:02 UTC  commit abc123  with changes "
        "(git/diff.patch)\n"
        "   │     │  code differs from the commit: stages/train.py\n"
        "   │     └─ data/splits  b0.dir\n"
        "   │        └─ split  run run of spl  2026-01-01 10:01 UTC  commit abc123\n"
        "   │           └─ data/raw  a0.dir\n"
        "   │              └─ download  run run of dow  2026-01-01 10:00 UTC  commit abc123\n"
        "   │                    code: 1 files and folders, as in the commit\n"
        "   └─ data/splits  b0.dir\n"
        "      └─ split  run run of spl  2026-01-01 10:01 UTC  commit abc123  (above)\n"
    )


def test_a_missing_run_and_a_missing_link_are_said() -> None:
    text = as_tree(tracer([SPLIT, TRAIN, EVALUATE], Runs()).back("models/p", "e0.dir"))
    assert "train@p  no run in this history (`ptune sync` creates one)\n" in text
    assert "└─ data/raw  a0.dir\n" in text
    assert "└─ missing link: its producer is not in dvc.lock or the history\n" in text
    assert "code: 1 files and folders; their commit is unknown\n" in text


def test_parameters_are_reported_on_request() -> None:
    found = tracer().back("models/p", "e0.dir")
    assert "seed: 34" not in as_tree(found)
    assert "│  seed: 34\n" in as_tree(found, params=True)


def test_more_runs_of_the_same_content_and_restored_ones_are_said() -> None:
    history = logged(*CHAIN)
    history.runs.append(replace(history.runs[2], run_id="restored run", restored=True))
    (line, *_) = as_tree(tracer(history=history).back_from_stage("train@p")).splitlines()
    assert "restored" not in line
    text = as_tree(tracer(history=Runs([history.runs[-1]])).back("models/p", "e0.dir"))
    assert "UTC  restored  commit abc123" in text


def test_a_trace_forward_is_a_tree() -> None:
    assert as_tree(tracer().forward("data/splits", "b0.dir")) == (
        "data/splits  b0.dir\n"
        "├─ evaluate@p  run run of eva  2026-01-01 10:03 UTC  commit abc123\n"
        "│  └─ metrics/p.json  10  (nothing was made from it)\n"
        "└─ train@p  run run of tra  2026-01-01 10:02 UTC  commit abc123\n"
        "   ├─ models/p  e0.dir\n"
        "   │  └─ evaluate@p  run run of eva  2026-01-01 10:03 UTC  commit abc123  (above)\n"
        "   └─ curves/p.csv  f0  (nothing was made from it)\n"
    )


def test_json_has_all_of_it() -> None:
    found = json.loads(json.dumps(as_json(tracer().back("metrics/p.json", "10"))))
    assert (found["path"], found["hash"]) == ("metrics/p.json", "10")
    evaluate = found["made_by"]
    assert evaluate["stage"] == "evaluate@p"
    assert evaluate["run"]["id"] == "run of evaluate@p"
    assert evaluate["run"]["started"] == "2026-01-01T10:03:00+00:00"
    assert evaluate["params"] == {"seed": 34}
    train = evaluate["inputs"][0]["made_by"]
    assert train["code_as_in_commit"] == {"stages/train.py": True}
    gone = as_json(tracer([]).back("data/raw", "nothing"))
    assert gone["made_by"] is None
    assert gone["missing"]
    used = as_json(tracer().forward("data/splits", "b0.dir"))
    assert [step["stage"] for step in used["used_by"]] == ["evaluate@p", "train@p"]
    assert used["used_by"][1]["outputs"][0]["path"] == "models/p"
