from pathlib import Path
from typing import Any

import pytest

from pipeline.config.grid import insert_prompt_tokens, lama_configs, superglue_configs
from pipeline.config.schema import LamaParams, SuperGlueParams, load_params
from pipeline.errors import ParamsError
from pipeline.prompts.template import parse_template
from pipeline.tasks import get_task
from pipeline.tasks.lama import manual_template
from tests.pipeline.params_text import write_params


def params_with(folder: Path, **sections: Any) -> SuperGlueParams:
    """The small params.yaml with `grid` of p-tuning and `overrides` of p-tuning on RTE."""
    changes: dict[str, Any] = {}
    if "grid" in sections:
        changes["superglue.grid.p-tuning"] = sections["grid"]
    if "overrides" in sections:
        changes["superglue.overrides.rte"] = {"p-tuning": sections["overrides"]}
    return load_params(write_params(folder / "params.yaml", changes)).superglue


def test_without_a_grid_there_is_one_setting(tmp_path: Path) -> None:
    params = params_with(tmp_path)
    (setting,) = superglue_configs(params, "rte", "p-tuning", masked=True)
    assert (setting.number, setting.tried) == (1, {})
    assert setting.training == params.training["p-tuning"]
    assert setting.max_length == params.prompts["rte"].max_length
    assert setting.template.prompt_tokens > 0


def test_a_grid_is_the_product_of_its_lists_in_their_order(tmp_path: Path) -> None:
    grid = {"model.learning_rate": [1e-5, 2e-5], "batch_size": [4, 8]}
    settings = superglue_configs(params_with(tmp_path, grid=grid), "rte", "p-tuning", masked=True)
    assert [setting.number for setting in settings] == [1, 2, 3, 4]
    tried = [
        (s.training.model.learning_rate, s.training.batch_size)  # type: ignore[union-attr]
        for s in settings
    ]
    assert tried == [(1e-5, 4), (1e-5, 8), (2e-5, 4), (2e-5, 8)]
    assert settings[1].tried == {"model.learning_rate": 1e-5, "batch_size": 8}


def test_what_a_task_overrides_wins_over_the_grid(tmp_path: Path) -> None:
    params = params_with(
        tmp_path, grid={"batch_size": [4, 8]}, overrides={"batch_size": 16, "max_length": [32, 48]}
    )
    settings = superglue_configs(params, "rte", "p-tuning", masked=True)
    assert [(s.training.batch_size, s.max_length) for s in settings] == [(16, 32), (16, 48)]
    assert settings[0].tried == {"max_length": 32}


def test_a_pattern_search_tries_every_place_and_number(tmp_path: Path) -> None:
    search = {"insert_into": "{premise} so {mask} .", "tokens": [1, 2]}
    params = params_with(tmp_path, overrides={"template": search})
    for masked, places in ((True, 5), (False, 3)):
        settings = superglue_configs(params, "rte", "p-tuning", masked=masked)
        assert [s.template.prompt_tokens for s in settings] == [1] * places + [2] * places
        assert settings[1].tried == {"template": "{premise} [P] so {mask} ."}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"bach": 4}, ["superglue.overrides.rte.p-tuning.bach", "valid keys", "batch_size"]),
        ({"batch_size": []}, ["superglue.overrides.rte.p-tuning.batch", "empty list"]),
        ({"batch_size": "many"}, ["superglue.overrides.rte.p-tuning.batch", "'many'"]),
        ({"model": {}}, ["superglue.overrides.rte.p-tuning.model", "valid keys"]),
        ({"model.learning_rate": [1e-5, -1]}, ["model.learning_rate", "-1"]),
        ({"tune": ["prompt"]}, ["overrides.rte.p-tuning.tune"]),
        ({"template": "no-such-pattern"}, ["overrides.rte.p-tuning.template"]),
        ({"template": ["{premise} {mask}", "{premis} {mask}"]}, ["template", "premis"]),
        ({"template": {"insert_into": "{premise} {mask}"}}, ["template", "tokens"]),
        ({"template": {"insert_into": "{premise} {mask}", "tokens": 0}}, ["tokens: 0"]),
        ({"template": {"insert_into": "{premise} [P] {mask}", "tokens": 1}}, ["already"]),
        ({"template": "{premise} {mask}"}, ["superglue.overrides.rte.p-tuning.template", "no [P]"]),
        ({"verbalizer": 3}, ["overrides.rte.p-tuning.verbalizer", "3"]),
        ({"max_length": [64, 4]}, ["overrides.rte.p-tuning.max_length", "4"]),
    ],
)
def test_a_wrong_path_or_value_is_named_with_its_place(
    tmp_path: Path, overrides: dict[str, Any], parts: list[str]
) -> None:
    params = params_with(tmp_path, overrides=overrides)
    with pytest.raises(ParamsError) as caught:
        superglue_configs(params, "rte", "p-tuning", masked=True)
    for part in parts:
        assert part in str(caught.value)


# --- LAMA


MANUAL = manual_template("{subject} lies in {mask} .")


def lama_with(folder: Path, **changes: Any) -> LamaParams:
    changes = {f"lama.{name}": value for name, value in changes.items()}
    return load_params(write_params(folder / "params.yaml", changes)).lama


def test_lama_without_a_grid_has_the_method_with_its_layout(tmp_path: Path) -> None:
    params = lama_with(tmp_path)
    (config,) = lama_configs(params, "P17", "p-tuning", MANUAL, masked=True)
    assert config.template.source == "[P*3] {subject} lies in [P*3] {mask} [P*3] ."
    assert (config.number, config.tried, config.verbalizer, config.max_length) == (
        1,
        {},
        None,
        None,
    )
    assert config.training == params.training["p-tuning"]


def test_a_lama_grid_tries_layouts_and_values_and_a_relation_overrides_them(tmp_path: Path) -> None:
    grid = {"template": ["paper-v1", "{before}[P] {mask}"], "prompt.learning_rate": [0.1, 0.2]}
    overrides = {"P17": {"p-tuning": {"prompt.learning_rate": 0.3}}}
    params = lama_with(tmp_path, grid={"p-tuning": grid, "manual": {}, "discrete": {}},
                       overrides=overrides)  # fmt: skip
    by_relation = {
        relation: [
            (config.template.source, config.training.prompt.learning_rate)  # type: ignore[union-attr]
            for config in lama_configs(params, relation, "p-tuning", MANUAL, masked=True)
        ]
        for relation in ("P17", "P47")
    }
    v1, inline = "[P*3] {subject} [P*3] {mask} [P*3]", "{subject} lies in [P] {mask}"
    assert by_relation == {
        "P17": [(v1, 0.3), (inline, 0.3)],
        "P47": [(v1, 0.1), (v1, 0.2), (inline, 0.1), (inline, 0.2)],
    }
    (config,) = lama_configs(params, "P17", "p-tuning", MANUAL, masked=True, grid=False)
    assert config.training == params.training["p-tuning"]


def test_a_pattern_search_inserts_prompt_tokens_into_a_layout(tmp_path: Path) -> None:
    search = {"P17": {"p-tuning": {"template": {"insert_into": "manual", "tokens": 2}}}}
    params = lama_with(tmp_path, overrides=search)
    for masked, places in ((True, 6), (False, 4)):
        configs = lama_configs(params, "P17", "p-tuning", MANUAL, masked=masked)
        assert [config.template.prompt_tokens for config in configs] == [2] * places
        assert configs[1].tried == {"template": "{subject} [P*2] lies in {mask} ."}


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ({"max_length": 64}, ["lama.overrides.P17.p-tuning.max_length", "valid keys: template, "]),
        ({"template": "paper-v3"}, ["lama.overrides.P17.p-tuning.template", "paper-v3"]),
        ({"template": "manual"}, ["lama.overrides.P17.p-tuning.template", "no [P]"]),
        ({"epochs": 0}, ["lama.overrides.P17.p-tuning.epochs: epochs must be 0"]),
    ],
)
def test_a_wrong_value_for_a_relation_is_named_with_its_place(
    tmp_path: Path, values: dict[str, Any], parts: list[str]
) -> None:
    params = lama_with(tmp_path, overrides={"P17": {"p-tuning": values}})
    with pytest.raises(ParamsError) as caught:
        lama_configs(params, "P17", "p-tuning", MANUAL, masked=True)
    for part in parts:
        assert part in str(caught.value)


# --- templates of splits


def test_each_split_may_have_its_own_template(tmp_path: Path) -> None:
    by_split = {"split-13": "p-tuning", "split-2": "{premise} [P] {mask}"}
    params = params_with(tmp_path, overrides={"template": by_split})
    (config,) = superglue_configs(params, "rte", "p-tuning", masked=True)
    assert config.tried == {}
    sources = {split: config.for_split(split).template.source for split in (13, 2)}
    assert sources == {13: get_task("rte").patterns["p-tuning"], 2: "{premise} [P] {mask}"}
    with pytest.raises(ParamsError, match="none for split-1, but for split-13, split-2; write"):
        config.for_split(1)
    (config,) = superglue_configs(params_with(tmp_path), "rte", "p-tuning", masked=True)
    assert config.for_split(7) is config


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ({"split-1": "pet-1"}, "no [P] in the template"),
        ({"split-1": "no"}, "unknown pattern 'no' of rte"),
        ({"split-1": "p-tuning", "two": "p-tuning"}, "write a name, a template, {insert_into"),
        ({}, "write a name"),
    ],
)
def test_a_wrong_template_of_a_split_is_named(
    tmp_path: Path, value: dict[str, str], said: str
) -> None:
    params = params_with(tmp_path, overrides={"template": value})
    with pytest.raises(ParamsError) as caught:
        superglue_configs(params, "rte", "p-tuning", masked=True)
    assert str(caught.value).startswith("superglue.overrides.rte.p-tuning.template: ")
    assert said in str(caught.value)


# --- places of a pattern search


FIELDS = ("premise", "hypothesis")


def test_the_places_are_the_start_the_gaps_and_the_end() -> None:
    assert insert_prompt_tokens("{premise:shorten} so {mask} .", 1, after_mask=True) == [
        "[P] {premise:shorten} so {mask} .",
        "{premise:shorten} [P] so {mask} .",
        "{premise:shorten} so [P] {mask} .",
        "{premise:shorten} so {mask} [P] .",
        "{premise:shorten} so {mask} . [P]",
    ]


def test_a_causal_model_has_no_place_after_the_mask() -> None:
    assert insert_prompt_tokens("{premise} so {mask} .", 3, after_mask=False) == [
        "[P*3] {premise} so {mask} .",
        "{premise} [P*3] so {mask} .",
        "{premise} so [P*3] {mask} .",
    ]


def test_every_candidate_is_a_template_with_that_number_of_prompt_tokens() -> None:
    pattern = '"{hypothesis}" ? {mask} , "{premise:shorten}"'
    candidates = insert_prompt_tokens(pattern, 2, after_mask=True)
    assert len(set(candidates)) == len(candidates) == 6
    for candidate in candidates:
        assert parse_template(candidate, FIELDS).prompt_tokens == 2
        assert candidate.replace("[P*2]", "").split() == pattern.split()


@pytest.mark.parametrize(
    ("grid", "words"),
    [
        ({"epochs": [1, 2, 1]}, "a value appears twice"),
        ({"epochs": list(range(1, 1002))}, "1001 settings of a method, more than 1000"),
        (
            {f"prompt.{key}": [n / 1000 for n in range(1, 216)]
             for key in ("learning_rate", "weight_decay", "warmup_ratio")},
            "9938375 settings",
        ),
        ({"max_length": [10**9]}, "from 8 to 100000"),
        ({"epochs": [0]}, "superglue.grid.p-tuning.epochs: epochs must be"),
        ({"template": [{"insert_into": "p-tuning", "tokens": list(range(2000))}]}, "2000 values"),
    ],
)  # fmt: skip
def test_a_grid_without_end_is_refused_at_once(tmp_path, grid, words):
    path = write_params(tmp_path / "params.yaml", {"superglue.grid.p-tuning": grid})
    with pytest.raises(ParamsError) as caught:
        superglue_configs(load_params(path).superglue, "rte", "p-tuning", masked=True)
    assert "superglue.grid.p-tuning" in str(caught.value)
    assert words in str(caught.value)
