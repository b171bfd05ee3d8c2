import shutil
from pathlib import Path

import pytest

from pipeline.files import write_json, write_jsonl
from tests.pipeline.report.conftest import Files
from tests.project import ROOT, edit_params


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with files of evaluation of both benchmarks, but without git."""
    shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml")
    edit_params(
        tmp_path,
        model__name="smollm2-135m-instruct",
        lama__relations=["P17", "P30"],
        lama__methods=["manual", "p-tuning"],
        lama__stability__methods=["manual", "prompt-tuning"],
        lama__stability__relations=["P17"],
        superglue__source="superglue",
        superglue__seeds=[1, 2],
        superglue__methods=["manual", "p-tuning"],
        superglue__overrides__rte={"p-tuning": {"batch_size": 4}},
    )
    files = Files(tmp_path)
    files.add_lama(relations=["P17", "P30"])
    files.add_stability(["manual", "prompt-tuning"])
    files.add_task("rte")
    splits = tmp_path / "data" / "splits" / "superglue" / "rte"
    (splits / "1").mkdir(parents=True)
    write_jsonl(splits / "1" / "train.jsonl", _rte("ennn"))
    write_jsonl(splits / "test.jsonl", _rte("eeenn"))
    counts = {"1/train/examples": 4, "1/dev/examples": 2, "test/examples": 5}
    write_json(splits / "counts.json", counts)
    return tmp_path


def _rte(labels: str) -> list[dict[str, object]]:
    names = {"e": "entailment", "n": "not_entailment"}
    return [
        {"premise": f"a {i}", "hypothesis": "b", "label": names[label], "idx": i}
        for i, label in enumerate(labels)
    ]
