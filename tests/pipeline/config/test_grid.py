from pathlib import Path
from typing import Any

import pytest

from pipeline.config.grid import task_settings
from pipeline.config.schema import SuperGlueParams, load_params
from pipeline.errors import ParamsError
from tests.pipeline.params_text import write_params


def params_with(folder: Path, **sections: Any) -> SuperGlueParams:
    """The small params.yaml with `grid` of p-tuning and `overrides` of p-tuning on RTE."""
    changes: dict[str, Any] = {}
    if "grid" in sections:
        changes["superglue.grid.p-tuning"] = sections["grid"]
    if "overrides" in sections:
        changes["superglue.overrides.rte"] = {"p-tuning": sections["overrides"]}
    return load_params(write_params(folder / "params.yaml", changes)).superglue


def test_without_a_grid_there_is_the_method_as_it_stands(tmp_path: Path) -> None:
    params = params_with(tmp_path)
    (setting,) = task_settings(params, "rte", "p-tuning", masked=True)
    assert (setting.number, setting.tried) == (1, {})
    assert setting.training == params.training["p-tuning"]
    assert setting.max_length == params.prompts["rte"].max_length
    assert setting.template.prompt_tokens > 0


def test_a_grid_is_the_product_of_its_lists_in_their_order(tmp_path: Path) -> None:
    grid = {"model.learning_rate": [1e-5, 2e-5], "batch_size": [4, 8]}
    settings = task_settings(params_with(tmp_path, grid=grid), "rte", "p-tuning", masked=True)
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
    settings = task_settings(params, "rte", "p-tuning", masked=True)
    assert [(s.training.batch_size, s.max_length) for s in settings] == [(16, 32), (16, 48)]
    assert settings[0].tried == {"max_length": 32}


def test_a_pattern_search_tries_every_place_and_number(tmp_path: Path) -> None:
    search = {"insert_into": "{premise} so {mask} .", "tokens": [1, 2]}
    params = params_with(tmp_path, overrides={"template": search})
    for masked, places in ((True, 5), (False, 3)):
        settings = task_settings(params, "rte", "p-tuning", masked=masked)
        assert [s.template.prompt_tokens for s in settings] == [1] * places + [2] * places
        assert settings[1].tried == {"template": "{premise} [P] so {mask} ."}


@pytest.mark.parametrize(
    ("overrides", "parts"),
    [
        ({"bach": 4}, ["superglue.overrides.rte.p-tuning.bach", "choose from", "batch_size"]),
        ({"batch_size": []}, ["superglue.overrides.rte.p-tuning.batch", "empty list"]),
        ({"batch_size": "many"}, ["superglue.overrides.rte.p-tuning.batch", "'many'"]),
        ({"model": {}}, ["superglue.overrides.rte.p-tuning.model", "choose from"]),
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
        task_settings(params, "rte", "p-tuning", masked=True)
    for part in parts:
        assert part in str(caught.value)
