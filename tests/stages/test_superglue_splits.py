"""The protocols, on SuperGLUE and FewGLUE themselves."""

from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.data.sources import fetch_source
from pipeline.files import read_json, read_jsonl
from pipeline.tasks import TASKS
from stages.splits import app
from tests.pipeline.params_text import write_params

MIRROR = Path(__file__).parents[3] / "shared" / "mirror"
pytestmark = pytest.mark.skipif(
    not (MIRROR / "superglue").is_dir(), reason="no mirror at ../shared/mirror"
)


def split(own_folder: Path, task: str, protocol: str, **sizes: Any) -> Path:
    """Run the stage; return the folder that it wrote."""
    raw = own_folder / "raw"
    raw.mkdir(exist_ok=True)
    fetch_source(f"superglue/{task}", raw, cache=own_folder / "cache", mirror=MIRROR)
    limits = {"train_examples": None, "dev_examples": None, "test_examples": None, **sizes}
    params = write_params(
        own_folder / "params.yaml",
        {
            "superglue.source": "superglue",
            "superglue.protocol": protocol,
            "superglue.splits": {"held_out": 0.1, **limits},
        },
    )
    out = own_folder / "splits"
    done = CliRunner().invoke(
        app, ["superglue", task, "--raw", str(raw), "--out", str(out), "--params", str(params)]
    )
    assert done.exit_code == 0, done.output
    return out


@pytest.mark.parametrize(
    ("protocol", "train", "dev"),
    [("few-shot-32", 32, 32), ("full-paper", 2490, 277), ("full-held-out", 2241, 249)],
)
def test_each_protocol_takes_the_sets_that_it_names(
    own_folder: Path, protocol: str, train: int, dev: int
) -> None:
    out = split(own_folder, "rte", protocol)
    counts = read_json(out / "counts.json")
    assert counts["test/examples"] == 277
    assert counts["train/examples"] + counts["dev/examples"] == train + dev
    assert counts["dev/examples"] == pytest.approx(dev, abs=5)
    official = read_jsonl(MIRROR / "superglue" / "RTE" / "val.jsonl")
    assert read_jsonl(out / "test.jsonl") == official
    assert (read_jsonl(out / "dev.jsonl") == official) == (protocol == "full-paper")


def test_a_passage_is_held_out_whole(own_folder: Path) -> None:
    out = split(own_folder, "multirc", "full-held-out")
    counts = read_json(out / "counts.json")
    assert counts["train/passages"] + counts["dev/passages"] == 456
    assert counts["train/examples"] + counts["dev/examples"] == 27243
    assert (counts["test/passages"], counts["test/examples"]) == (83, 4848)
    groups = [
        {TASKS["multirc"].group(record) for record in read_jsonl(out / f"{name}.jsonl")}
        for name in ("train", "dev")
    ]
    assert not groups[0] & groups[1]


def test_a_limit_takes_records_in_the_order_of_the_file(own_folder: Path) -> None:
    out = split(own_folder, "cb", "full-paper", train_examples=40, test_examples=7)
    official = read_jsonl(MIRROR / "superglue" / "CB" / "train.jsonl")
    places = [official.index(record) for record in read_jsonl(out / "train.jsonl")]
    assert len(places) == 40
    assert places == sorted(places)
    assert len(read_jsonl(out / "test.jsonl")) == 7
    assert len(read_jsonl(out / "dev.jsonl")) == 56
