import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from types import SimpleNamespace

import pytest

from pipeline.data.build_superglue import build_superglue
from pipeline.errors import DataError, ParamsError
from pipeline.tasks import get_task, task_names
from tests.project import ROOT

# Keys of the official files.
_KEYS = {
    "boolq": {"question", "passage", "idx", "label"},
    "cb": {"premise", "hypothesis", "label", "idx"},
    "copa": {"premise", "choice1", "choice2", "question", "label", "idx"},
    "multirc": {"idx", "version", "passage"},
    "rte": {"premise", "hypothesis", "label", "idx"},
    "wic": {
        "word", "sentence1", "sentence2", "idx", "label", "start1", "start2", "end1", "end2",
        "version",
    },
    "wsc": {"text", "target", "idx", "label"},
}  # fmt: skip

GENERATED = [name for name in task_names() if get_task(name).from_geonames]
each_task = pytest.mark.parametrize("task", GENERATED)


def _records(places, task, seed=0):
    return list(get_task(task).from_geonames(places, random.Random(seed)))


@each_task
def test_records_have_the_official_keys_and_run_from_0(places, task):
    records = _records(places, task)
    assert records
    assert all(set(record) == _KEYS.get(task, set(records[0])) for record in records)
    assert [record["idx"] for record in records] == list(range(len(records)))


@each_task
def test_the_task_reads_every_record_and_finds_names_once(places, task):
    examples = [e for record in _records(places, task) for e in get_task(task).examples(record)]
    assert len({example.name for example in examples}) == len(examples)
    assert {example.label for example in examples} == set(get_task(task).labels)


@pytest.mark.parametrize("task", sorted({*GENERATED} - {"multirc"}))
def test_every_label_is_as_frequent_and_none_is_first_more_often(places, task):
    first = Counter()
    for seed in range(200):
        labels = [record["label"] for record in _records(places, task, seed)]
        counts = Counter(labels)
        assert len(set(counts.values())) <= 1, "not balanced"
        first.update(labels[:1])
    expected = first.total() / len(get_task(task).labels)
    assert all(first[label] == pytest.approx(expected, abs=36) for label in counts)


@each_task
def test_the_same_seed_gives_the_same_records_and_another_gives_others(places, task):
    assert _records(places, task, 1) == _records(places, task, 1)
    assert _records(places, task, 1) != _records(places, task, 2)


def test_a_task_without_generated_examples_is_refused_for_the_source_geonames(tmp_path):
    task = replace(get_task("rte"), from_geonames=None)
    with pytest.raises(DataError, match="rte has no examples generated from GeoNames; set super"):
        build_superglue(tmp_path, task, SimpleNamespace(source="geonames"), seed=0)


def test_an_unknown_task_is_answered_with_the_available_ones():
    with pytest.raises(ParamsError, match="unknown task 'boolk'; available: boolq, cb, cola, co"):
        get_task("boolk")


def test_a_task_is_imported_without_the_others_and_without_geonames():
    code = (
        "import sys\nfrom pipeline.tasks import get_task\n"
        "assert get_task('rte').name == 'rte'\n"
        "loaded = [name for name in sys.modules if name.startswith('pipeline.')]\n"
        "assert not [name for name in loaded if 'geonames' in name], loaded\n"
        "assert 'pipeline.tasks.boolq' not in loaded, loaded\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_name_of_a_task_is_that_of_its_file():
    assert [get_task(name).name for name in task_names()] == task_names()
