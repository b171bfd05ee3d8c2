"""The protocols, on SuperGLUE and FewGLUE themselves."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pipeline.files import read_json, read_jsonl
from pipeline.sources.superglue import SUPERGLUE
from pipeline.tasks import get_task
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
    SUPERGLUE[task].fetch(raw, cache=own_folder / "cache", mirror=MIRROR)
    drawn = {"held_out": 0.1, "count": 3, "train_share": 0.25, "per_class": 16, "seeds": [13]}
    limits = {"train_examples": None, "dev_examples": None, "test_examples": None, **sizes}
    params = write_params(
        own_folder / "params.yaml",
        {
            "superglue.source": "superglue",
            "superglue.protocol": protocol,
            "superglue.splits": {
                "held_out": 0.1,
                "count": 3,
                "train_share": 0.25,
                **drawn,
                **limits,
            },
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
    assert counts["1/train/examples"] + counts["1/dev/examples"] == train + dev
    assert counts["1/dev/examples"] == pytest.approx(dev, abs=5)
    official = read_jsonl(MIRROR / "superglue" / "RTE" / "val.jsonl")
    assert read_jsonl(out / "test.jsonl") == official
    assert (read_jsonl(out / "1" / "dev.jsonl") == official) == (protocol == "full-paper")


def test_a_passage_is_held_out_whole(own_folder: Path) -> None:
    out = split(own_folder, "multirc", "full-held-out")
    counts = read_json(out / "counts.json")
    assert counts["1/train/passages"] + counts["1/dev/passages"] == 456
    assert counts["1/train/examples"] + counts["1/dev/examples"] == 27243
    assert (counts["test/passages"], counts["test/examples"]) == (83, 4848)
    groups = [
        {get_task("multirc").group(record) for record in read_jsonl(out / "1" / f"{name}.jsonl")}
        for name in ("train", "dev")
    ]
    assert not groups[0] & groups[1]


def test_a_limit_takes_records_in_the_order_of_the_file(own_folder: Path) -> None:
    out = split(own_folder, "cb", "few-shot-32", train_examples=20, test_examples=7)
    official = read_jsonl(MIRROR / "fewglue" / "CB" / "train.jsonl")
    places = [official.index(record) for record in read_jsonl(out / "1" / "train.jsonl")]
    assert len(places) == 20
    assert places == sorted(places)
    assert len(read_jsonl(out / "test.jsonl")) == 7
    assert len(read_jsonl(out / "1" / "dev.jsonl")) == 32


def test_multi_split_deals_the_64_of_fewglue_several_times(own_folder: Path) -> None:
    out = split(own_folder, "cb", "multi-split")
    given = [
        json.dumps(record, sort_keys=True)
        for name in ("train", "dev32")
        for record in read_jsonl(MIRROR / "fewglue" / "CB" / f"{name}.jsonl")
    ]
    trains = []
    for number in ("1", "2", "3"):
        train, dev = (
            [json.dumps(record, sort_keys=True) for record in read_jsonl(out / number / name)]
            for name in ("train.jsonl", "dev.jsonl")
        )
        assert sorted([*train, *dev]) == sorted(given)
        assert (len(train), len(dev)) == (16, 48)
        trains.append(sorted(train))
    assert len({tuple(train) for train in trains}) == 3
    assert sorted(path.name for path in out.iterdir()) == [
        "1", "2", "3", "counts.json", "test.jsonl",
    ]  # fmt: skip
