"""Manual prompts under each start, against evaluations of the tiny model worked out one by one."""

import shutil
from pathlib import Path

import pytest

from benchmarks.starts import main, starts_page
from pipeline.data.lama import LamaSplits, Relation, write_lama
from pipeline.errors import ModelError
from pipeline.evaluation.evaluate import evaluate
from pipeline.files import read_json
from pipeline.models.dataset import PromptFormat
from pipeline.models.loading import load_model
from pipeline.tasks.lama import apply_layout, fact_examples, lama_task, manual_template
from tests.project import ROOT
from tests.worked import VOCABULARY, make_facts

TEMPLATE = "[X] is in [Y] ."


def written(folder: Path) -> LamaSplits:
    names = ("train", "dev", "test")
    splits = LamaSplits(
        {name: Relation(name, TEMPLATE, f"label of {name}") for name in ("P17", "P30")},
        {
            name: {split: make_facts(9 + n, start=n, relation=name) for split in names}
            for n, name in enumerate(("P17", "P30"))
        },
        VOCABULARY,
        {},
    )
    write_lama(folder, splits)
    return splits


def test_each_start_is_evaluated_and_the_page_has_all_records(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    splits = written(tmp_path / "splits")
    params = Path(shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml"))
    results = tmp_path / "docs" / "starts"
    main("tiny", tiny_folders["gpt2"], tmp_path / "splits", params, results)
    record = read_json(results / "tiny.json")
    assert list(record["starts"]) == ["none", "bos", "auto"]
    # The tiny tokenizer has no such token.
    assert "no such token" in record["starts"].pop("bos")["not_run"]
    for start, of in record["starts"].items():
        network = load_model(tiny_folders["gpt2"], device="cpu", start=start)
        template = apply_layout("manual", manual_template(TEMPLATE), masked=False)
        for name, row in of["relations"].items():
            examples = {s: fact_examples(facts) for s, facts in splits.facts[name].items()}
            form = PromptFormat(lama_task(name, VOCABULARY), template)
            found = evaluate(network, form, None, examples, max_tokens_per_forward=64)
            assert row == {"facts": found.num_examples, "p_at_1": pytest.approx(found.score)}
        low, high = of["interval"]
        assert 0 <= low <= of["p_at_1"] <= high <= 1
    assert record["starts"]["none"]["tokens"] == ""
    assert record["starts"]["auto"]["tokens"] != ""
    page = (results.parent / "starts.md").read_text()
    assert page == starts_page([read_json(results / "tiny.json")])
    assert "## `tiny`: smollm2-135m-instruct, `geonames`, 2 relations" in page
    assert "| relation | test facts | none | auto |" in page


def test_a_masked_model_has_no_start(tiny_folders: dict[str, Path], tmp_path: Path) -> None:
    written(tmp_path / "splits")
    params = Path(shutil.copyfile(ROOT / "params.yaml", tmp_path / "params.yaml"))
    with pytest.raises(ModelError, match="a masked model has no start"):
        main("tiny", tiny_folders["bert"], tmp_path / "splits", params, tmp_path / "starts")


def test_a_start_that_the_tokenizer_lacks_is_named() -> None:
    row = {"relations": {"P17": {"facts": 3, "p_at_1": 0.5}}, "p_at_1": 0.5, "tokens": "\n"}
    record = {
        "name": "x", "date": "2026-11-28", "machine": "a machine", "model": "m", "source": "lama",
        "subset": "34k",
        "starts": {"auto": {**row, "interval": [0.4, 0.6]}, "bos": {"not_run": "no such token"}},
    }  # fmt: skip
    page = starts_page([record])
    assert r"| `auto` | '\\n' | 50.0 | 40.0 to 60.0 |" in page
    assert "`bos` was not run: no such token" in page
    assert "| P17 | 3 | 50.0 |" in page
