"""The presets of this repository against its params.yaml, and against the published settings."""

import re
import shutil
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config.grid import superglue_configs
from pipeline.config.presets import (
    Overlay,
    Setting,
    apply_overlay,
    edit_params,
    list_presets,
    merge_overlays,
    read_assignments,
    read_preset,
)
from pipeline.config.schema import load_params
from pipeline.data.lama import TEST_FACTS
from tests.project import ROOT

FOLDER = ROOT / "presets"
SHIPPED = ROOT / "params.yaml"

SMOLLM2 = ["lama-smollm2", "lama-smollm2-eleven", "lama-smollm2-four"]

# Preset -> model, subset, relations, methods of LAMA, methods of the stability section.
# Source: arXiv 2103.10385v2, Tables 1 and 3; model names: v1, and THUDM/P-tuning, LAMA/cli.py.
OF_TABLES: dict[str, tuple[str, str, list[str] | str, list[str], list[str]]] = {
    "lama-table1-bert-base": ("bert-base-cased", "34k", ["P17"], [], ["manual", "p-tuning"]),
    **{
        f"lama-34k-bert-{size}": (
            f"bert-{size}-cased", "34k", "all", ["manual", "discrete", "p-tuning"], []
        )
        for size in ("base", "large")
    },
    **{
        f"lama-29k-{model.removesuffix('-cased')}": (
            model, "29k", "all", ["manual", "fine-tuning", "manual-fine-tuning", "p-tuning"], []
        )
        for model in (
            "bert-base-cased", "bert-large-cased", "roberta-base", "roberta-large", "gpt2-medium"
        )
    },
    "lama-29k-gpt2-xl": ("gpt2-xl", "29k", "all", ["manual", "p-tuning"], []),
}  # fmt: skip

# Preset -> model, protocol, number of tasks, methods, settings to train, and how dev uses them.
# Source: arXiv 2103.10385v2, Tables 4, 5, 7 and 8 and its settings.
OF_SUPERGLUE: dict[str, tuple[str, str, int, list[str], int, str]] = {
    "superglue-few-shot-albert": (
        "albert-xxlarge-v2", "multi-split", 7,
        ["manual-fine-tuning", "p-tuning", "prompt-tuning"], 2, "dev",
    ),
    "superglue-table7-albert": ("albert-xxlarge-v2", "multi-split", 1, ["p-tuning"], 8, "none"),
    "superglue-table8-albert": ("albert-xxlarge-v2", "multi-split", 3, ["p-tuning"], 3, "none"),
    "superglue-patterns-albert": (
        "albert-xxlarge-v2", "multi-split", 1, ["manual-fine-tuning", "p-tuning"], 6, "none",
    ),
    **{
        f"superglue-full-{name}": (
            model, "full-paper", 7, ["classifier", "manual-fine-tuning", "p-tuning"], 18, "dev"
        )
        for name, model in (
            ("bert-base", "bert-base-cased"), ("bert-large", "bert-large-cased"),
            ("gpt2-base", "gpt2"), ("gpt2-medium", "gpt2-medium"),
        )
    },
    "superglue-few-shot-smollm2": (
        "smollm2-135m-instruct", "few-shot-32", 7,
        ["manual", "classifier", "manual-fine-tuning", "p-tuning", "prompt-tuning"], 1, "dev",
    ),
    "superglue-multi-split-smollm2": (
        "smollm2-135m-instruct", "multi-split", 7,
        ["manual", "manual-fine-tuning", "p-tuning", "prompt-tuning"], 2, "dev",
    ),
}  # fmt: skip

# Source: THUDM/P-tuning @ f4225d4d, LAMA/cli.py and p_tuning/modeling.py; learning rate and Adam
# are also the paper's. The code knows neither warm-up nor clipping.
RELEASED_LOOP = {"epochs": 100, "batch_size": 8, "patience": 20}
RELEASED_OPTIMIZER = {
    "optimizer": "adam",
    "weight_decay": 5e-4,
    "schedule": "exponential",
    "warmup_ratio": 0.0,
    "decay_per_epoch": 0.98,
    "max_grad_norm": None,
}

# What presets set to what params.yaml ships, so that they give the same run whatever it holds.
RESTATED = {
    "seed",
    "model.name",
    "model.dtype",
    "lama.subset",
    "lama.methods",
    "lama.templates",
    *(f"lama.stability.{key}" for key in ("methods", "relations", "templates")),
    "lama.stability.templates_per_relation",
}
RESTATED_GROUPS = ("lama.prompts.", "lama.training.", "superglue.")


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@cache
def overlay_of(name: str) -> Overlay:
    return read_preset(FOLDER, name).overlay


def settings_of(overlay: Overlay, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, new in overlay.items():
        if isinstance(new, Setting):
            yield f"{prefix}{name}", new.value
        else:
            yield from settings_of(new, f"{prefix}{name}.")


def get(values: Any, path: str) -> Any:
    for name in path.split("."):
        values = values[name]
    return values


def run_of(values: dict[str, Any]) -> dict[str, Any]:
    """Return what the results of a run hang on; of method manual nothing is trained."""
    lama = values["lama"]
    used = {*lama["methods"], *lama["stability"]["methods"]}
    common = {
        "seed": values["seed"],
        "model": values["model"],
        "superglue": tasks_of(values["superglue"]),
        "title": values["report"]["title"],
    }
    if not used:
        return common
    return {
        **common,
        "lama": {
            **{key: lama[key] for key in ("source", "subset", "relations", "methods", "splits")},
            "templates": lama["templates"],
            "stability": lama["stability"],
            "prompts": {name: lama["prompts"][name] for name in used},
            "training": {name: lama["training"][name] for name in used - {"manual"}},
        },
    }


def tasks_of(glue: dict[str, Any]) -> dict[str, Any]:
    """Return what the results on SuperGLUE hang on; without tasks, nothing."""
    if not glue["tasks"]:
        return {}
    keys = ("source", "protocol", "tasks", "methods", "seeds", "selection", "splits")
    return {
        **{key: glue[key] for key in keys},
        **{
            key: {method: glue[key][method] for method in glue["methods"]}
            for key in ("training", "grid")
        },
        **{
            f"{task} {key}": glue["prompts"][task][key]
            for task in glue["tasks"]
            for key in ("max_length", "verbalizer")
        },
        **{
            f"{task} {method}": glue["prompts"][task]["templates"][method]
            for task in glue["tasks"]
            for method in glue["methods"]
        },
        "overrides": {task: glue["overrides"][task] for task in glue["tasks"]},
    }


@pytest.fixture
def params(tmp_path: Path) -> Path:
    return Path(shutil.copyfile(SHIPPED, tmp_path / "params.yaml"))


PRESETS = list(list_presets(FOLDER))
each_preset = pytest.mark.parametrize("name", PRESETS)


def test_the_presets_are_those_of_the_tables_and_of_the_embedded_model() -> None:
    assert sorted(PRESETS) == sorted([*OF_TABLES, *SMOLLM2, *OF_SUPERGLUE])


@each_preset
def test_a_preset_applies_to_the_shipped_parameters_and_twice_is_once(
    name: str, params: Path
) -> None:
    overlay = overlay_of(name)
    assert apply_overlay(params, overlay)
    once = params.read_bytes()
    loaded = load_params(params).model_dump()
    for path, value in settings_of(overlay):
        assert get(loaded, path) == value, path
    assert apply_overlay(params, overlay) == []
    assert params.read_bytes() == once


@each_preset
def test_only_lines_of_changed_values_differ_and_their_comments_stay(
    name: str, params: Path
) -> None:
    before = params.read_text().split("\n")
    changes = apply_overlay(params, overlay_of(name))
    after = params.read_text().split("\n")
    assert len(after) == len(before)
    pairs = [(old, new) for old, new in zip(before, after, strict=True) if old != new]
    assert len(pairs) == len(changes)
    for (old, new), change in zip(pairs, changes, strict=True):
        key = change.path.rpartition(".")[2]
        assert old.lstrip().startswith(f"{key}: {change.old}")
        assert new.lstrip().startswith(f"{key}: {change.new}")
        assert new.partition("  # ")[2] == old.partition("  # ")[2]


@each_preset
def test_what_a_preset_restates_is_restated_knowingly(name: str) -> None:
    shipped = load(SHIPPED.read_text())
    for path, value in settings_of(overlay_of(name)):
        known = path in RESTATED or path.startswith(RESTATED_GROUPS)
        assert known or get(shipped, path) != value, f"{path} is {value!r} as shipped"


@each_preset
def test_a_preset_decides_all_that_its_run_hangs_on(name: str, params: Path) -> None:
    """Applied to parameters that are all something else, it gives the run that it always gives."""
    overlay = overlay_of(name)
    expected = run_of(load(edit_params(params, overlay).text))
    shipped = load(SHIPPED.read_text())
    params.write_text(edit_params(params, _scrambled(shipped)).text)
    assert run_of(load(edit_params(params, overlay).text)) == expected


def _scrambled(values: dict[str, Any]) -> Overlay:
    other = Setting("something else", '"something else"')
    return {
        name: _scrambled(value) if isinstance(value, dict) and value else other
        for name, value in values.items()
    }


def test_presets_may_follow_each_other(params: Path) -> None:
    for name in PRESETS:
        apply_overlay(params, overlay_of(name))
        alone = edit_params(SHIPPED, overlay_of(name)).text
        assert run_of(load(params.read_text())) == run_of(load(alone))


@each_preset
def test_a_preset_leaves_alone_where_things_come_from_and_where_they_run(
    name: str, params: Path, tmp_path: Path
) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    overlay = overlay_of(name)
    assert not {"data", "runtime"} & set(overlay)
    overlay = merge_overlays(overlay, read_assignments([f"data.mirror={mirror}"]))
    apply_overlay(params, overlay)
    apply_overlay(params, overlay_of(name))
    loaded = load_params(params)
    assert loaded.data.mirror == str(mirror)
    assert loaded.runtime == load_params(SHIPPED).runtime


@pytest.mark.parametrize("name", [*OF_TABLES, *SMOLLM2])
def test_only_lama_runs_with_all_of_its_test_facts(name: str, params: Path) -> None:
    apply_overlay(params, overlay_of(name))
    loaded = load_params(params)
    assert loaded.lama.source == "lama"
    assert loaded.lama.splits.test_facts is None
    if name in OF_TABLES:
        assert set(loaded.lama.splits.model_dump().values()) == {None}
    assert loaded.lama.templates == {}
    assert loaded.superglue.tasks == []


@pytest.mark.parametrize("name", OF_TABLES)
def test_presets_of_the_tables_have_the_published_settings(name: str, params: Path) -> None:
    apply_overlay(params, overlay_of(name))
    loaded = load_params(params)
    lama = loaded.lama
    assert (
        loaded.model.name, lama.subset, lama.relations, lama.methods, lama.stability.methods
    ) == OF_TABLES[name]  # fmt: skip
    assert loaded.seed == 34
    assert lama.prompts["manual"] == "manual"
    assert lama.prompts["p-tuning"] == "paper-v2"
    assert lama.training["p-tuning"].model_dump() == {
        "tune": ["prompt"],
        **RELEASED_LOOP,
        "prompt": {
            **RELEASED_OPTIMIZER, "learning_rate": 1e-5, "encoder": "lstm", "dropout": 0.0
        },
        "model": None,
        "search": None,
    }  # fmt: skip
    for method in {"fine-tuning", "manual-fine-tuning"} & set(lama.methods):
        assert lama.training[method].model_dump() == {
            "tune": ["model"],
            **RELEASED_LOOP,
            "prompt": None,
            "model": {
                **RELEASED_OPTIMIZER,
                "learning_rate": 5e-6,
                "gradient_accumulation_steps": 1,
            },
            "search": None,
        }


def test_the_stability_section_of_table_1_is_that_of_p17(params: Path) -> None:
    apply_overlay(params, overlay_of("lama-table1-bert-base"))
    stability = load_params(params).lama.stability
    assert stability.model_dump() == {
        "methods": ["manual", "p-tuning"],
        "relations": ["P17"],
        "templates": "table-1",
        "templates_per_relation": None,
    }


@pytest.mark.parametrize(
    ("name", "prompts"),
    [("lama-34k-bert-base", "autoprompt_bert"), ("lama-34k-bert-large", "lpaqa_top1")],
)
def test_discrete_prompts_are_those_with_a_figure_in_table_3(
    name: str, prompts: str, params: Path
) -> None:
    apply_overlay(params, overlay_of(name))
    search = load_params(params).lama.training["discrete"].search
    assert search is not None
    assert search.prompts == prompts


@pytest.mark.parametrize(
    ("name", "relations", "methods"),
    [
        ("lama-smollm2", "all", 2),
        ("lama-smollm2-four", ["P19", "P527", "P17", "P495"], 6),
        ("lama-smollm2-eleven", list(TEST_FACTS)[::4], 2),
    ],
)
def test_presets_of_the_embedded_model_share_its_settings(
    name: str, relations: list[str] | str, methods: int, params: Path
) -> None:
    apply_overlay(params, overlay_of(name))
    loaded = load_params(params)
    lama = loaded.lama
    first = load(edit_params(SHIPPED, overlay_of(SMOLLM2[0])).text)
    assert loaded.model.name == "smollm2-135m-instruct"
    assert lama.relations == relations
    assert len(lama.methods) == methods
    own = load(params.read_text())["lama"]
    assert own["training"]["p-tuning"] == first["lama"]["training"]["p-tuning"]
    assert own["subset"] == first["lama"]["subset"]


@each_preset
def test_a_preset_says_what_it_is_where_from_and_what_it_costs(name: str) -> None:
    comment = [line for line in read_preset(FOLDER, name).text.split("\n") if line.startswith("#")]
    assert comment[1] == "#"
    for words in ("Source: ", "Differs from the paper", "Costs: "):
        assert any(line.startswith(f"# {words}") for line in comment), words
    # What a comment tells to set can be set.
    told = re.findall(r"--set (\S+=\S+)", "\n".join(comment))
    assert told or not name.startswith("lama-34k")
    read_assignments(told)


@pytest.mark.parametrize("name", OF_SUPERGLUE)
def test_presets_of_superglue_train_what_their_table_has(name: str, params: Path) -> None:
    apply_overlay(params, overlay_of(name))
    loaded = load_params(params)
    glue = loaded.superglue
    masked = not loaded.model.name.startswith(("gpt2", "smollm2"))
    settings = {
        (task, method): superglue_configs(glue, task, method, masked=masked)
        for task in glue.tasks
        for method in glue.methods
        if method not in ("manual", "prompt-tuning")
    }
    assert (
        loaded.model.name, glue.protocol, len(glue.tasks), glue.methods,
        *{len(own) for own in settings.values()}, glue.selection,
    ) == OF_SUPERGLUE[name]  # fmt: skip
    assert (loaded.lama.methods, loaded.lama.stability.methods) == ([], [])
    sizes = glue.splits
    assert (sizes.train_examples, sizes.dev_examples, sizes.test_examples) == (None, None, None)
    assert (sizes.count, sizes.train_share) == (4, 0.5)


def test_the_patterns_of_table_7_are_tried_in_its_order(params: Path) -> None:
    apply_overlay(params, overlay_of("superglue-table7-albert"))
    settings = superglue_configs(load_params(params).superglue, "cb", "p-tuning", masked=True)
    assert [setting.template.prompt_tokens for setting in settings] == [1, 1, 1, 1, 1, 2, 4, 8]
    assert settings[4].template.source.endswith("[P]")


def test_each_pattern_of_the_stability_preset_has_its_twin_with_a_prompt_token(
    params: Path,
) -> None:
    apply_overlay(params, overlay_of("superglue-patterns-albert"))
    glue = load_params(params).superglue
    manual, tuned = (
        [s.template.source for s in superglue_configs(glue, "cb", method, masked=True)]
        for method in ("manual-fine-tuning", "p-tuning")
    )
    assert [source.replace("[P] ", "") for source in tuned] == manual


def test_what_the_readme_of_the_presets_names_is_there() -> None:
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"(?:lama|superglue)-[\w-]+", text)) <= set(PRESETS)
    told = re.findall(r"--set (\S+=[^\s`]+)", text)
    assert told
    read_assignments(told)
