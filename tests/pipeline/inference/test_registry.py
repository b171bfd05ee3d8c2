"""Stages that the search for candidates ignores; tests/pipeline/cli/test_promote.py finds some."""

from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline.errors import PipelineError
from pipeline.inference.registry import find_candidates


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "--help",
        "lama",
        "lama --out models/own",
        "lama p-tuning",
        "lama p-tuning --out models/own --model data/model",
        "lama p-tuning --out models/own --model data/other --splits data/splits/lama",
        "lama p-tuning own --out models/own --model data/model --splits data/splits/lama",
        "superglue p-tuning --out models/own --model data/model --splits data/splits/lama",
        "stability p-tuning --out models/own --model data/model --splits data/splits/lama",
    ],
)
def test_a_stage_of_ones_own_that_trains_in_another_way_is_passed_over(
    own_folder: Path, arguments: str
) -> None:
    stage = {
        "cmd": f"python -m stages.train {arguments}",
        "deps": [{"path": path, "md5": "aa.dir"} for path in ("data/model", "data/splits/lama")],
        "outs": [{"path": "models/own", "md5": "bb.dir"}],
    }
    YAML().dump({"schema": "2.0", "stages": {"own": stage}}, own_folder / "dvc.lock")
    with pytest.raises(PipelineError, match=r"not trained in this checkout \(trained: nothing\)"):
        find_candidates("lama")
