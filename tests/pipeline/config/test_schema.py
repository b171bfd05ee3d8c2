import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import load_params
from pipeline.errors import ParamsError
from tests.pipeline.params_text import REMOVED, write_params

PROJECT = Path(__file__).parents[3]
LAMA_METHODS = (
    "'manual', 'fine-tuning', 'manual-fine-tuning', 'p-tuning', 'prompt-tuning' or 'discrete'"
)


def _mistakes(tmp_path: Path, changes: dict[str, Any]) -> list[str]:
    """Return the lines of the error, each without the file's name in front."""
    path = write_params(tmp_path / "params.yaml", changes)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    lines = str(caught.value).splitlines()
    assert all(line.startswith(f"{path}: ") for line in lines)
    return [line.removeprefix(f"{path}: ") for line in lines]


def test_the_projects_own_file_loads():
    params = load_params(PROJECT / "params.yaml")
    assert set(params.lama.methods) <= set(params.lama.training)


def test_values_arrive_as_they_are_written(tmp_path):
    changes = {"seed": 7, "lama.training.p-tuning.prompt.learning_rate": 0.25}
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    assert params.seed == 7
    assert params.lama.training["p-tuning"].prompt.learning_rate == 0.25
    assert params.lama.training["manual"].prompt is None


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        # A misspelled key: what it may have meant, or what there is.
        ("sede", 1, ["unknown key", "did you mean 'seed'?"]),
        ("lama.relation", [], ["unknown key", "did you mean 'relations'?"]),
        ("lama.training.manual.epoch", 1, ["unknown key", "did you mean 'epochs'?"]),
        (
            "lama.training.p-tuning.prompt.learning_rte",
            0.1,
            ["unknown key", "did you mean 'learning_rate'?"],
        ),
        ("model.zzz", 1, ["unknown key", "known keys: dtype, name"]),
        # Another type: no guess at what was meant.
        ("seed", "34", ["valid integer", "'34'"]),
        ("seed", True, ["valid integer", "True"]),
        ("seed", 1.0, ["valid integer", "1.0"]),
        ("lama.training.p-tuning.batch_size", False, ["valid integer", "False"]),
        ("lama.training.p-tuning.prompt.learning_rate", "1e-4", ["valid number", "'1e-4'"]),
        ("lama.training.p-tuning.prompt.learning_rate", True, ["valid number", "True"]),
        ("model.name", 5, ["valid string", "5"]),
        ("data", None, ["None"]),
        ("lama.templates", ["{subject} {mask}"], ["valid dictionary", "list"]),
        # Out of range.
        ("seed", -1, ["greater than or equal to 0", "-1"]),
        ("lama.splits.train_facts", 0, ["greater than or equal to 1", "0"]),
        ("lama.training.p-tuning.prompt.learning_rate", 0.0, ["greater than 0"]),
        ("lama.training.p-tuning.prompt.learning_rate", 1, ["less than 1"]),
        ("lama.training.p-tuning.prompt.learning_rate", math.nan, ["nan"]),
        ("lama.training.p-tuning.prompt.dropout", 1.0, ["less than 1"]),
        ("lama.training.p-tuning.prompt.decay_per_epoch", 1.01, ["less than or equal to 1"]),
        ("lama.training.p-tuning.prompt.max_grad_norm", 0, ["greater than 0"]),
        ("lama.training.p-tuning.prompt.max_grad_norm", math.nan, ["greater than 0"]),
        ("lama.training.fine-tuning.model.gradient_accumulation_steps", 0, ["greater than or"]),
        ("lama.training.discrete.search.iterations", 0, ["greater than or equal to 1"]),
        ("lama.training.discrete.search.prompts", "", ["at least 1 character"]),
        ("lama.stability.templates_per_relation", 0, ["greater than or equal to"]),
        ("runtime.checkpoint_seconds", -1, ["greater than or equal to 0"]),
        ("superglue.prompts.rte.max_length", 7, ["greater than or equal to 8"]),
        ("runtime.threads", 0, ["greater than or equal to 1"]),
        ("model.name", "", ["at least 1 character"]),
        # Not one of the choices.
        ("lama.source", "wikidata", ["'wikidata'", "'geonames'"]),
        ("model.dtype", "float16", ["'float16'", "'auto', 'float32', 'bfloat16' or 'mixed'"]),
        (
            "lama.training.p-tuning.prompt.encoder",
            "gru",
            ["'gru'", "'lstm', 'mlp' or 'embedding'"],
        ),
        ("lama.training.p-tuning.prompt.optimizer", "sgd", ["'sgd'", "'adam' or 'adamw'"]),
        ("lama.subset", "30k", ["'30k'", "'34k' or '29k'"]),
        ("runtime.device", "gpu", ["'gpu'", "auto", "cpu", "cuda"]),
        ("runtime.device", "cuda:", ["'cuda:'", "auto", "cpu", "cuda"]),
        # Missing.
        ("seed", REMOVED, ["this key is missing"]),
        ("lama.training.p-tuning.prompt.encoder", REMOVED, ["this key is missing"]),
    ],
)  # fmt: skip
def test_a_wrong_value_gives_one_line_with_its_path(tmp_path, path, value, said):
    (line,) = _mistakes(tmp_path, {path: value})
    assert line.startswith(f"{path}: ")
    for words in said:
        assert words in line


@pytest.mark.parametrize(
    ("changes", "path", "said"),
    [
        ({"lama.methods": ["manual", "ptuning"]}, "lama.methods.1", LAMA_METHODS),
        ({"lama.stability.methods": ["ptuning"]}, "lama.stability.methods.0", LAMA_METHODS),
        (
            {"superglue.methods": ["fine"]},
            "superglue.methods.0",
            "'manual', 'classifier', 'manual-fine-tuning', 'p-tuning' or 'prompt-tuning'",
        ),
        (
            {"superglue.tasks": ["rte", "boolk"]},
            "superglue.tasks.1",
            "boolq, cb, copa, multirc, rte, wic, wsc",
        ),
        ({"lama.training.x": {}}, "lama.training.x", LAMA_METHODS),
        ({"lama.prompts.x": "manual"}, "lama.prompts.x", LAMA_METHODS),
        (
            {"superglue.prompts.x": {}},
            "superglue.prompts.x",
            "boolq, cb, copa, multirc, rte, wic, wsc",
        ),
        (
            {"superglue.prompts.rte.templates.x": "{mask}"},
            "superglue.prompts.rte.templates.x",
            "'manual', 'classifier', 'manual-fine-tuning', 'p-tuning' or 'prompt-tuning'",
        ),
    ],
)
def test_an_unknown_name_is_answered_with_the_known_ones(tmp_path, changes, path, said):
    assert any(
        line.startswith(f"{path}: ") and line.endswith((f"is not one of {said}", f": {said}"))
        for line in _mistakes(tmp_path, changes)
    )


@pytest.mark.parametrize(
    ("name", "values", "twice"),
    [
        ("lama.relations", ["P17", "P47", "P17"], "P17"),
        ("lama.relations", ["P47", "P17", "P17", "P47"], "P17, P47"),
        ("lama.methods", ["manual", "manual"], "manual"),
        ("lama.stability.relations", ["P17", "P17"], "P17"),
        ("lama.stability.methods", ["manual", "manual"], "manual"),
        ("superglue.tasks", ["rte", "rte"], "rte"),
        ("superglue.methods", ["p-tuning", "p-tuning"], "p-tuning"),
    ],
)
def test_an_entry_that_stands_twice_is_named(tmp_path, name, values, twice):
    assert _mistakes(tmp_path, {name: values}) == [f"{name}: {twice} stands twice"]


@pytest.mark.parametrize(
    ("removed", "line"),
    [
        (
            "lama.training.p-tuning",
            "lama.training: no entry for p-tuning, which lama.methods lists",
        ),
        (
            "lama.prompts.p-tuning",
            "lama.prompts: no entry for p-tuning, which lama.methods lists",
        ),
        (
            "superglue.training.manual",
            "superglue.training: no entry for manual, which superglue.methods lists",
        ),
        (
            "superglue.prompts.rte",
            "superglue.prompts: no entry for rte, which superglue.tasks lists",
        ),
        (
            "superglue.prompts.rte.templates.p-tuning",
            "superglue.prompts.rte.templates: no entry for p-tuning, which superglue.methods lists",
        ),
    ],
)
def test_what_a_list_names_must_have_settings(tmp_path, removed, line):
    assert _mistakes(tmp_path, {removed: REMOVED}) == [line]


@pytest.mark.parametrize("section", ["training", "prompts"])
def test_what_only_stability_names_must_have_settings_too(tmp_path, section):
    changes = {"lama.stability.methods": ["p-tuning"], "lama.methods": []}
    (line,) = _mistakes(tmp_path, {**changes, f"lama.{section}.p-tuning": REMOVED})
    assert line == f"lama.{section}: no entry for p-tuning, which lama.stability.methods lists"


def test_what_no_list_names_may_have_settings(tmp_path):
    changes = {
        "lama.methods": [],
        "lama.stability.methods": [],
        "superglue.tasks": [],
        "superglue.methods": [],
    }
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    assert "p-tuning" in params.lama.training


@pytest.mark.parametrize("name", ["prompt", "model"])
def test_a_tuned_thing_needs_its_section(tmp_path, name):
    (line,) = _mistakes(tmp_path, {f"superglue.training.p-tuning.{name}": REMOVED})
    assert line.startswith("superglue.training.p-tuning: missing: a section ")
    assert f"'{name}'" in line


@pytest.mark.parametrize("name", ["prompt", "model"])
def test_a_section_for_what_is_not_tuned_is_refused(tmp_path, name):
    tuned = [other for other in ("prompt", "model") if other != name]
    (line,) = _mistakes(tmp_path, {"superglue.training.p-tuning.tune": tuned})
    assert line.startswith("superglue.training.p-tuning: not used: a section ")
    assert f"'{name}'" in line


@pytest.mark.parametrize(
    ("method", "epochs"), [("manual", 1), ("discrete", 1), ("p-tuning", 0), ("fine-tuning", 0)]
)
def test_epochs_stand_where_something_is_tuned_and_only_there(tmp_path, method, epochs):
    (line,) = _mistakes(tmp_path, {f"lama.training.{method}.epochs": epochs})
    assert line.startswith(f"lama.training.{method}: epochs must be 0 where nothing is tuned")


def test_all_relations_may_be_asked_for_by_one_word(tmp_path):
    params = load_params(write_params(tmp_path / "params.yaml", {"lama.relations": "all"}))
    assert params.lama.relations == "all"


@pytest.mark.parametrize("relations", ["P17", "ALL", None, {"P17": 1}])
def test_relations_are_a_list_or_that_word(tmp_path, relations):
    lines = _mistakes(tmp_path, {"lama.relations": relations})
    # One line for the list, one for the word: both are allowed.
    assert all(line.startswith("lama.relations") for line in lines)
    assert any("valid list" in line for line in lines)
    assert any("is not one of 'all'" in line for line in lines)


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_may_have_all_facts(tmp_path, split):
    changes = {f"lama.splits.{split}_facts": None}
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    assert getattr(params.lama.splits, f"{split}_facts") is None


@pytest.mark.parametrize("rows", [1, 4096, "auto"])
def test_rows_in_a_pass_are_a_number_or_by_memory(tmp_path, rows):
    params = load_params(
        write_params(tmp_path / "params.yaml", {"runtime.max_rows_per_forward": rows})
    )
    assert params.runtime.max_rows_per_forward == rows


@pytest.mark.parametrize("rows", [0, "many", None, 1.5])
def test_other_rows_in_a_pass_are_refused(tmp_path, rows):
    lines = _mistakes(tmp_path, {"runtime.max_rows_per_forward": rows})
    assert all(line.startswith("runtime.max_rows_per_forward") for line in lines)


@pytest.mark.parametrize("templates", ["pararel_patterns", {"P17": ["[X] in [Y]", "[X], [Y]"]}])
def test_templates_of_stability_are_a_collection_or_written_out(tmp_path, templates):
    changes = {"lama.stability.templates": templates}
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    assert params.lama.stability.templates == templates


def test_the_spread_over_one_template_is_none(tmp_path):
    """A deviation needs two: one a relation would end in a crash after all training."""
    (line,) = _mistakes(tmp_path, {"lama.stability.templates_per_relation": 1})
    assert line.startswith("lama.stability.templates_per_relation: ")


def test_every_mistake_has_its_own_line(tmp_path):
    changes = {"seed": "x", "lama.source": "x", "runtime.thread": 1}
    lines = _mistakes(tmp_path, changes)
    assert sorted(line.split(": ")[0] for line in lines) == sorted(changes)


@pytest.mark.parametrize("number", ["1e-4", "1.0e-4", "1E-4", "0.0001", ".0001"])
def test_a_number_may_be_written_in_any_usual_way(tmp_path, number):
    path = write_params(tmp_path / "params.yaml", {"report.title": "LEARNING"})
    text = path.read_text().replace('"learning_rate": 0.001', f'"learning_rate": {number}')
    path.write_text(text)
    assert load_params(path).lama.training["p-tuning"].prompt.learning_rate == 1e-4


def test_a_file_that_is_not_there_is_named(tmp_path):
    path = tmp_path / "params.yaml"
    with pytest.raises(ParamsError, match="no such file") as caught:
        load_params(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "seed: [1\nmodel: 2\n",
        "seed: 1\n\tmodel: 2\n",
        "a: b: c\n",
        "seed: !!python/name:os.system\n",
        "seed: *unknown\n",
        "seed: \x00\n",
    ],
)
def test_what_is_not_yaml_is_said_in_one_line(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: not YAML: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_in_another_encoding_is_said_in_one_line(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes("report: {title: Überblick}".encode("latin-1"))
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- seed\n", "34\n"])
def test_a_file_that_holds_no_mapping_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: the file: ")


@pytest.mark.parametrize(
    ("once", "again"),
    [
        ("seed: 1\n", "seed: 2\n"),
        ("report: {title: a, facts_shown: 1}\n", "report: {title: b, facts_shown: 1}\n"),
    ],
)
def test_a_key_that_stands_twice_is_refused(tmp_path, once, again):
    path = tmp_path / "params.yaml"
    path.write_text(once + again)
    with pytest.raises(ParamsError, match=r"not YAML: .*duplicate key") as caught:
        load_params(path)
    assert once.split(":")[0] in str(caught.value)


def test_words_that_older_yaml_took_for_booleans_stay_words(tmp_path):
    path = write_params(tmp_path / "params.yaml")
    text = path.read_text().replace('"yes"', "yes").replace('"no"', "no")
    path.write_text(text)
    words = load_params(path).superglue.prompts["rte"].verbalizer
    assert words == {"entailment": "yes", "not_entailment": "no"}


def test_a_step_has_no_more_passes_than_examples(tmp_path):
    (line,) = _mistakes(
        tmp_path, {"superglue.training.p-tuning.model.gradient_accumulation_steps": 9}
    )
    assert line.startswith(
        "superglue.training.p-tuning: model.gradient_accumulation_steps is 9, more "
    )
    assert "more than batch_size 8" in line
