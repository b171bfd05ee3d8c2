import math
import os
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.schema import load_params
from pipeline.errors import ParamsError
from pipeline.tasks import task_names
from tests.pipeline.params_text import REMOVED, write_params

PROJECT = Path(__file__).parents[3]
TASKS = ", ".join(task_names())
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
    ("path", "value", "words"),
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
        ("model.zzz", 1, ["unknown key", "known keys: device_map, dtype, name"]),
        # Another type: no guess at what was meant.
        ("seed", "34", ["valid integer", "'34'"]),
        ("seed", True, ["valid integer", "True"]),
        ("seed", 1.0, ["valid integer", "1.0"]),
        ("lama.training.p-tuning.batch_size", False, ["valid integer", "False"]),
        ("lama.training.p-tuning.prompt.learning_rate", "1e-4", ["valid number", "'1e-4'"]),
        ("lama.training.p-tuning.prompt.learning_rate", True, ["be a valid number (found True)"]),
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
        ("lama.training.p-tuning.prompt.max_grad_norm", math.nan, ["finite"]),
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
def test_a_wrong_value_gives_one_line_with_its_path(tmp_path, path, value, words):
    (line,) = _mistakes(tmp_path, {path: value})
    assert line.startswith(f"{path}: ")
    assert all(word in line for word in words)


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
            TASKS,
        ),
        ({"lama.training.x": {}}, "lama.training.x", LAMA_METHODS),
        ({"lama.prompts.x": "manual"}, "lama.prompts.x", LAMA_METHODS),
        (
            {"superglue.prompts.x": {}},
            "superglue.prompts.x",
            TASKS,
        ),
        (
            {"superglue.prompts.rte.templates.x": "{mask}"},
            "superglue.prompts.rte.templates.x",
            "'manual', 'classifier', 'manual-fine-tuning', 'p-tuning' or 'prompt-tuning'",
        ),
    ],
)
def test_an_unknown_name_lists_the_known_ones(tmp_path, changes, path, said):
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
def test_a_duplicate_entry_is_named(tmp_path, name, values, twice):
    assert _mistakes(tmp_path, {name: values}) == [f"{name}: duplicate value {twice}"]


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
def test_a_listed_name_must_have_settings(tmp_path, removed, line):
    assert _mistakes(tmp_path, {removed: REMOVED}) == [line]


@pytest.mark.parametrize("section", ["training", "prompts"])
def test_a_method_of_stability_only_must_have_settings_too(tmp_path, section):
    changes = {"lama.stability.methods": ["p-tuning"], "lama.methods": []}
    (line,) = _mistakes(tmp_path, {**changes, f"lama.{section}.p-tuning": REMOVED})
    assert line == f"lama.{section}: no entry for p-tuning, which lama.stability.methods lists"


def test_an_unlisted_method_may_have_settings(tmp_path):
    changes = {
        "lama.methods": [],
        "lama.stability.methods": [],
        "superglue.tasks": [],
        "superglue.methods": [],
    }
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    assert "p-tuning" in params.lama.training


@pytest.mark.parametrize("name", ["prompt", "model"])
def test_a_tuned_part_needs_its_section(tmp_path, name):
    (line,) = _mistakes(tmp_path, {f"superglue.training.p-tuning.{name}": REMOVED})
    assert line == (
        f"superglue.training.p-tuning: section '{name}' is required when tune contains '{name}'"
    )


@pytest.mark.parametrize("name", ["prompt", "model"])
def test_a_section_of_a_part_that_is_not_tuned_is_refused(tmp_path, name):
    tuned = [other for other in ("prompt", "model") if other != name]
    (line,) = _mistakes(tmp_path, {"superglue.training.p-tuning.tune": tuned})
    assert line == (
        f"superglue.training.p-tuning: section '{name}' is only used when tune contains '{name}'"
    )


@pytest.mark.parametrize(
    ("method", "epochs"), [("manual", 1), ("discrete", 1), ("p-tuning", 0), ("fine-tuning", 0)]
)
def test_epochs_are_set_only_if_something_is_tuned(tmp_path, method, epochs):
    (line,) = _mistakes(tmp_path, {f"lama.training.{method}.epochs": epochs})
    assert line.startswith(f"lama.training.{method}: epochs must be 0 if nothing is tuned")


def test_one_word_selects_all_relations(tmp_path):
    params = load_params(write_params(tmp_path / "params.yaml", {"lama.relations": "all"}))
    assert params.lama.relations == "all"


@pytest.mark.parametrize("relations", ["P17", "ALL", None, {"P17": 1}])
def test_relations_are_a_list_or_that_word(tmp_path, relations):
    (line,) = _mistakes(tmp_path, {"lama.relations": relations})
    assert line.startswith("lama.relations: value should be a valid list or 'all' (found ")


def test_a_value_in_place_of_a_list_is_shown_as_one(tmp_path):
    (line,) = _mistakes(tmp_path, {"lama.methods": "manual"})
    assert line == ("lama.methods: value should be a valid list (found 'manual'); write [manual]")


@pytest.mark.parametrize("split", ["train", "dev", "test"])
def test_a_split_may_have_all_facts(tmp_path, split):
    changes = {f"lama.splits.{split}_facts": None}
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    assert getattr(params.lama.splits, f"{split}_facts") is None


@pytest.mark.parametrize("rows", [1, 4096, "auto"])
def test_rows_per_forward_are_a_number_or_auto(tmp_path, rows):
    params = load_params(
        write_params(tmp_path / "params.yaml", {"runtime.max_tokens_per_forward": rows})
    )
    assert params.runtime.max_tokens_per_forward == rows


@pytest.mark.parametrize("rows", [0, "many", None, 1.5])
def test_other_rows_per_forward_are_refused(tmp_path, rows):
    (line,) = _mistakes(tmp_path, {"runtime.max_tokens_per_forward": rows})
    assert line.startswith("runtime.max_tokens_per_forward: value should be ")
    assert line.endswith(f" or 'auto' (found {rows!r})")


@pytest.mark.parametrize("templates", ["pararel_patterns", {"P17": ["[X] in [Y]", "[X], [Y]"]}])
def test_templates_of_stability_are_a_collection_or_written_out(tmp_path, templates):
    changes = {"lama.stability.templates": templates}
    params = load_params(write_params(tmp_path / "params.yaml", changes))
    assert params.lama.stability.templates == templates


def test_a_deviation_needs_two_templates(tmp_path):
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


def test_a_missing_file_is_named(tmp_path):
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
def test_invalid_yaml_is_reported_in_one_line(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: not YAML: ")
    assert len(str(caught.value).splitlines()) == 1


def test_a_file_in_another_encoding_is_named(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_bytes("report: {title: Überblick}".encode("latin-1"))
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "# nothing\n", "- seed\n", "34\n"])
def test_a_file_without_a_mapping_is_refused(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: the file should be a valid dictionary")


@pytest.mark.parametrize(
    ("once", "again"),
    [
        ("seed: 1\n", "seed: 2\n"),
        ("report: {title: a, facts_shown: 1}\n", "report: {title: b, facts_shown: 1}\n"),
    ],
)
def test_a_duplicate_key_is_refused(tmp_path, once, again):
    path = tmp_path / "params.yaml"
    path.write_text(once + again)
    with pytest.raises(ParamsError, match=r"not YAML: .*duplicate key") as caught:
        load_params(path)
    assert once.split(":")[0] in str(caught.value)


def test_yes_and_no_are_text(tmp_path):
    path = write_params(tmp_path / "params.yaml")
    text = path.read_text().replace('"yes"', "yes").replace('"no"', "no")
    path.write_text(text)
    words = load_params(path).superglue.prompts["rte"].verbalizer
    assert words == {"entailment": "yes", "not_entailment": "no"}


def test_a_step_accumulates_over_at_most_its_batch(tmp_path):
    (line,) = _mistakes(
        tmp_path, {"superglue.training.p-tuning.model.gradient_accumulation_steps": 9}
    )
    assert line.startswith(
        "superglue.training.p-tuning: model.gradient_accumulation_steps is 9, more "
    )
    assert "more than batch_size 8" in line


# --- defaults of training


def _with_defaults(tmp_path: Path, defaults: dict[str, Any], **methods: Any) -> Any:
    changes = {"lama.training.defaults": defaults}
    changes |= {f"lama.training.{name}": section for name, section in methods.items()}
    return load_params(write_params(tmp_path / "params.yaml", changes)).lama.training


def test_a_method_is_merged_over_the_defaults_of_what_it_tunes(tmp_path):
    full = load_params(write_params(tmp_path / "params.yaml")).lama.training
    prompt, model = full["p-tuning"].prompt.model_dump(), full["fine-tuning"].model.model_dump()
    shared = {"epochs": 3, "batch_size": 4, "patience": 2, "prompts_per_unit": 5}
    defaults = {**shared, "prompt": prompt, "model": model}
    training = _with_defaults(
        tmp_path, defaults,
        **{
            "fine-tuning": {"tune": ["model"], "model": {"learning_rate": 0.5}},
            "p-tuning": {"tune": ["prompt"], "patience": 9},
            "prompt-tuning": {"tune": ["prompt", "model"], "prompt": {"encoder": "mlp"}},
        },
    )  # fmt: skip
    shared |= {"search": None, "steps_per_epoch": None}
    assert {name: training[name].model_dump() for name in training} == {
        **{
            name: {**full[name].model_dump(), "prompts_per_unit": 5}
            for name in ("manual", "manual-fine-tuning", "discrete")
        },
        "fine-tuning": {
            **shared, "tune": ["model"], "prompt": None, "model": {**model, "learning_rate": 0.5}
        },
        "p-tuning": {
            **shared, "tune": ["prompt"], "patience": 9, "prompt": prompt, "model": None
        },
        "prompt-tuning": {
            **shared, "tune": ["prompt", "model"], "prompt": {**prompt, "encoder": "mlp"},
            "model": model,
        },
    }  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"superglue.source": "glue", "superglue.protocol": "few-shot-32"},
            "superglue: protocol: glue has no examples for few-shot-32; choose lm-bff or a full "
            "one",
        ),
        (
            {"superglue.source": "superglue", "superglue.protocol": "lm-bff"},
            "superglue: protocol: superglue has no examples for lm-bff; it is one of glue",
        ),
        (
            {
                "superglue.source": "glue", "superglue.protocol": "lm-bff",
                "superglue.splits.train_examples": 32, "superglue.splits.dev_examples": None,
            },
            "superglue: protocol lm-bff draws splits.per_class, but splits.train_examples is 32; "
            "write null",
        ),
        (
            {"superglue.splits.seeds": [13, 21, 13]},
            "superglue: splits.seeds: duplicate value 13",
        ),
    ],
)  # fmt: skip
def test_a_protocol_that_does_not_fit_is_refused(tmp_path, changes, said):
    assert _mistakes(tmp_path, changes) == [said]


@pytest.mark.parametrize("protocol", ["full-held-out", "full-paper"])
def test_a_full_protocol_refuses_limits_that_are_left_over(tmp_path, protocol):
    limits = {"superglue.splits.train_examples": 32, "superglue.splits.dev_examples": None}
    limits |= {"superglue.splits.test_examples": 200}
    changes = {"superglue.source": "superglue", "superglue.protocol": protocol, **limits}
    (line,) = _mistakes(tmp_path, changes)
    assert line == (
        f"superglue: protocol {protocol} uses all examples, but splits.train_examples is 32, "
        "splits.test_examples is 200; write null"
    )
    load_params(
        write_params(tmp_path / "few.yaml", changes | {"superglue.protocol": "few-shot-32"})
    )
    all_examples = dict.fromkeys(limits)
    load_params(write_params(tmp_path / "full.yaml", changes | all_examples))


@pytest.mark.parametrize(
    ("defaults", "line"),
    [
        ({"epoch": 1}, "epoch: unknown key; did you mean 'epochs'?"),
        ({"prompt": {"dropout": 2}}, "prompt.dropout: value should be less than 1 (found 2)"),
        ({"batch": 4}, "batch: this key is now 'batch_size'"),
    ],
)
def test_a_mistake_in_the_defaults_is_named_once_and_where_it_is(tmp_path, defaults, line):
    changes = {"lama.training.defaults": {"prompts_per_unit": None, **defaults}}
    if "prompt" in defaults:  # used where a method has no value
        changes["lama.training.p-tuning.prompt.dropout"] = REMOVED
    assert _mistakes(tmp_path, changes) == [f"lama.training.defaults.{line}"]


def test_the_projects_methods_resolve_to_these_values():
    """The values of each method, as they were when every section was written out."""
    params = load_params(PROJECT / "params.yaml")
    nothing = {
        "tune": [], "epochs": 0, "batch_size": 1, "patience": 1,
        "steps_per_epoch": None, "prompts_per_unit": None, "prompt": None, "model": None,
        "search": None,
    }  # fmt: skip

    def optimization(*values: Any, **more: Any) -> dict[str, Any]:
        keys = (
            "optimizer", "learning_rate", "weight_decay", "schedule", "warmup_ratio",
            "decay_per_epoch", "max_grad_norm",
        )  # fmt: skip
        return {**dict(zip(keys, values, strict=True)), **more}

    lstm = {"encoder": "lstm", "start": "words", "dropout": 0.0}
    embedding = lstm | {"encoder": "embedding"}
    one_pass = {"gradient_accumulation_steps": 1}
    lama_model = optimization("adam", 5e-6, 5e-4, "exponential", 0.0, 0.98, None, **one_pass)
    model = optimization("adamw", 1e-5, 0.01, "linear", 0.1, 1.0, 1.0, **one_pass)
    fine_tuning = nothing | {
        "tune": ["model"], "epochs": 5, "batch_size": 8, "patience": 5, "model": lama_model
    }  # fmt: skip
    few = nothing | {"tune": ["prompt"], "epochs": 4, "batch_size": 4, "patience": 4}
    tuned = nothing | {"epochs": 3, "batch_size": 8, "patience": 3}
    search = {"prompts": "gradient", "iterations": 60, "candidates": 10, "batch_size": 56}
    assert {name: method.model_dump() for name, method in params.lama.training.items()} == {
        "manual": nothing,
        "fine-tuning": fine_tuning,
        "manual-fine-tuning": fine_tuning,
        "p-tuning": few | {
            "prompt": optimization("adam", 3e-4, 5e-4, "exponential", 0.2, 0.98, 1.0, **lstm)
        },
        "prompt-tuning": few | {
            "prompt": optimization("adamw", 3e-2, 0.0, "linear", 0.1, 1.0, 1.0, **embedding)
        },
        "discrete": nothing | {"search": search},
    }  # fmt: skip
    assert {name: method.model_dump() for name, method in params.superglue.training.items()} == {
        "manual": nothing,
        "classifier": tuned | {"tune": ["model"], "model": model},
        "manual-fine-tuning": tuned | {"tune": ["model"], "model": model},
        "p-tuning": tuned | {
            "tune": ["prompt", "model"],
            "prompt": optimization("adamw", 1e-4, 0.01, "linear", 0.1, 1.0, 1.0, **lstm),
            "model": model,
        },
        "prompt-tuning": tuned | {
            "tune": ["prompt"],
            "prompt": optimization("adamw", 3e-2, 0.0, "linear", 0.1, 1.0, 1.0, **embedding),
        },
    }  # fmt: skip


# --- files of earlier versions


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"lama.training.p-tuning.batch_size": REMOVED, "lama.training.p-tuning.batch": 8},
            "lama.training.p-tuning.batch: this key is now 'batch_size'",
        ),
        (
            {"superglue.training.p-tuning.model.gradient_accumulation": 2},
            "superglue.training.p-tuning.model.gradient_accumulation: this key is now "
            "'gradient_accumulation_steps'",
        ),
        (
            {"runtime.rows_per_pass": 4},
            "runtime.rows_per_pass: this key is now 'max_tokens_per_forward'; "
            "it counts tokens instead of rows",
        ),
        ({"lama.source": "gazetteer"}, "lama.source: 'gazetteer' is now 'geonames'"),
        (
            {"lama.seeds": REMOVED},
            "lama.seeds: this key is missing; training on LAMA reads it in place of `seed`; write "
            "`seeds: [34]`",
        ),
        (
            {"lama.training.defaults.prompts_per_unit": REMOVED},
            "lama.training.defaults.prompts_per_unit: this key is missing; write "
            "`prompts_per_unit: null`",
        ),
    ],
)
def test_the_error_for_an_old_key_or_value_names_the_new_one(tmp_path, changes, line):
    assert _mistakes(tmp_path, changes) == [line]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runtime.threads": None}, "a number for threads:"),
        ({"runtime.max_tokens_per_forward": "auto"}, "a number for max_tokens_per_forward:"),
        (
            {"runtime.threads": None, "runtime.max_tokens_per_forward": "auto"},
            "a number for threads and max_tokens_per_forward:",
        ),
        ({"runtime.device": "cuda:1"}, "device is cuda:1, but with engine ray, Ray assigns"),
    ],
)
def test_with_ray_nothing_that_changes_bits_is_left_to_the_machines(tmp_path, changes, words):
    same = {
        "runtime.engine": "ray",
        "runtime.threads": 2,
        "runtime.max_tokens_per_forward": 64,
        "runtime.device": "auto",
    }
    load_params(write_params(tmp_path / "params.yaml", same))
    (line,) = _mistakes(tmp_path, {**same, **changes})
    assert line.startswith("runtime: ")
    assert words in line


@pytest.mark.parametrize("device", ["cuda:1", "mps"])
def test_several_gpus_of_a_training_are_not_one_device(tmp_path, device):
    (line,) = _mistakes(tmp_path, {"runtime.device": device, "runtime.gpus_per_training": 2})
    assert line == (
        f"runtime: device is {device}, which is one device, but gpus_per_training is 2; write "
        "cuda, auto or cpu, or gpus_per_training: 1"
    )


def test_a_model_is_not_cut_over_one_gpu(tmp_path):
    (line,) = _mistakes(tmp_path, {"runtime.shard_model": True})
    assert line == (
        "runtime: shard_model cuts a model over the GPUs of a training, but gpus_per_training is "
        "1; write more, or shard_model: false"
    )


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("seed", 2**63, "less than"),
        ("runtime.gpus_per_training", 0, "greater than or equal to 1"),
        ("superglue.seeds", list(range(20_000)), "at most 1000 items"),
        ("lama.training.p-tuning.epochs", 10**12, "less than or equal to 1000000"),
        ("superglue.prompts.rte.max_length", 10**9, "less than 100001"),
        ("superglue.training.p-tuning.model.max_grad_norm", math.inf, "finite"),
        ("runtime.threads", 10**6, "less than or equal to 1024"),
        ("runtime.checkpoint_seconds", math.inf, "finite"),
        ("runtime.device", "cuda:99999999999999999999", "cuda:9999"),
        ("runtime.device", "cuda:\u0663", "cuda:"),
        ("data.mirror", "", "at least 1 character"),
    ],
)
def test_values_without_sense_are_out_of_bounds(tmp_path, path, value, words):
    (line,) = _mistakes(tmp_path, {path: value})
    assert line.startswith(f"{path}: ")
    assert words in line


def _aliases(levels: int) -> str:
    lines = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)]
    return "\n".join(["a0: &a0 [x]", *lines])


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("seed: " + "[" * 10_000 + "]" * 10_000, "nested"),
        ("seed: " + "[" * 60 + "]" * 60, "nested more than 50 levels"),
        ("seed: " + "9" * 5_000, "not YAML: Exceeds the limit"),
        (_aliases(10), "more than 50000 values"),
        (
            "a: {b: [1, 2]}\nlama: {seeds: [" + "1," * 50_000 + "]}",
            "aliases written out, most of them in lama.seeds; write fewer",
        ),
        ("&a [*a]", "nested"),
        ("# " + "x" * 1_000_000, "at most 1000 kB"),
    ],
)
def test_a_file_that_explodes_is_refused_at_once(tmp_path, text, words):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        load_params(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert words in str(caught.value)


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_not_read(tmp_path, make):
    path = tmp_path / "params.yaml"
    make(path)
    with pytest.raises(ParamsError, match="not a text file"):
        load_params(path)


def test_of_many_mistakes_the_first_are_listed(tmp_path):
    lines = _mistakes(tmp_path, {"lama.stability.relations": [1] * 100})
    assert lines[-1] == "and 70 more mistakes"
    assert len(lines) == 31


def test_the_kinds_of_a_value_have_no_names_of_the_library(tmp_path):
    (line,) = _mistakes(tmp_path, {"lama.stability.templates": 5})
    assert line.startswith("lama.stability.templates: value should be a valid string or ")
    assert "[" not in line
