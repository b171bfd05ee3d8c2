"""The presets of this repository against its params.yaml, and against the published settings."""

import re
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config.grid import superglue_configs
from pipeline.config.presets import (
    Assignments,
    apply_values,
    edit_params,
    list_presets,
    read_assignments,
    read_preset,
)
from pipeline.config.schema import load_params
from pipeline.data.lama import TEST_FACTS
from pipeline.tasks import get_task
from tests.project import ROOT

FOLDER = ROOT / "presets"
SHIPPED = ROOT / "params.yaml"

SMOLLM2 = ["lama-smollm2", "lama-smollm2-eleven", "lama-smollm2-four", "lama-smollm2-seeds"]

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

# Preset -> model, protocol, number of tasks, methods, settings to train of all tasks together for
# each method (without manual and prompt tuning), and how dev uses them.
# Source: arXiv 2103.10385v2, Tables 4, 5, 7 and 8 and its settings; THUDM/FewNLU,
# scripts/search_pet_multisplit.sh and search_ptuning_multisplit.sh.
OF_SUPERGLUE: dict[str, tuple[str, str, int, list[str], list[int], str]] = {
    "superglue-few-shot-albert": (
        "albert-xxlarge-v2", "multi-split", 7,
        ["manual-fine-tuning", "p-tuning", "prompt-tuning"],
        # Patterns (and BoolQ's two verbalizers) x learning rates x steps; x encoders x warm-ups.
        [(6 + 5 + 2 + 3 + 5 + 2 + 3) * 2 * 2, 7 * 2 * 2 * 2 * 2], "dev",
    ),
    "superglue-table7-albert": ("albert-xxlarge-v2", "multi-split", 1, ["p-tuning"], [8], "none"),
    "superglue-table8-albert": ("albert-xxlarge-v2", "multi-split", 3, ["p-tuning"], [9], "none"),
    "superglue-patterns-albert": (
        "albert-xxlarge-v2", "multi-split", 1, ["manual-fine-tuning", "p-tuning"], [6, 6], "none",
    ),
    **{
        f"superglue-full-{name}": (
            model, "full-paper", 7, ["classifier", "manual-fine-tuning", "p-tuning"],
            3 * [7 * 18], "dev",
        )
        for name, model in (
            ("bert-base", "bert-base-cased"), ("bert-large", "bert-large-cased"),
            ("gpt2-base", "gpt2"), ("gpt2-medium", "gpt2-medium"),
        )
    },
    "superglue-few-shot-smollm2": (
        "smollm2-135m-instruct", "few-shot-32", 7,
        ["manual", "classifier", "manual-fine-tuning", "p-tuning", "prompt-tuning"],
        [7, 7, 7], "dev",
    ),
    "superglue-multi-split-smollm2": (
        "smollm2-135m-instruct", "multi-split", 7,
        ["manual", "manual-fine-tuning", "p-tuning", "prompt-tuning"], [14, 14], "dev",
    ),
}  # fmt: skip

# Source: THUDM/P-tuning @ f4225d4d, LAMA/cli.py and p_tuning/modeling.py; learning rate and Adam
# are also the paper's. The code knows neither warm-up nor clipping.
RELEASED_LOOP = {
    "epochs": 100,
    "batch_size": 8,
    "patience": 20,
    "steps_per_epoch": None,
    "prompts_per_unit": None,
}
RELEASED_OPTIMIZER = {
    "optimizer": "adam",
    "weight_decay": 5e-4,
    "schedule": "exponential",
    "warmup_ratio": 0.0,
    "decay_per_epoch": 0.98,
    "max_grad_norm": None,
}


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@cache
def values_of(name: str) -> Assignments:
    return read_preset(FOLDER, name).values


def run_of(values: dict[str, Any]) -> dict[str, Any]:
    """What the results of a run depend on; with method manual nothing is trained."""
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
            **{
                key: lama[key]
                for key in (
                    "source", "subset", "relations", "methods", "seeds", "selection", "splits",
                )
            },
            "grid": {name: lama["grid"][name] for name in lama["methods"]},
            "overrides": lama["overrides"] if lama["methods"] else {},
            "templates": lama["templates"],
            "stability": lama["stability"],
            "prompts": {name: lama["prompts"][name] for name in used},
            "training": {name: lama["training"][name] for name in used - {"manual"}},
        },
    }  # fmt: skip


def tasks_of(glue: dict[str, Any]) -> dict[str, Any]:
    """What the results on SuperGLUE depend on; without tasks, nothing."""
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
    assert sorted(PRESETS) == sorted([*OF_TABLES, *SMOLLM2, *OF_SUPERGLUE, *OF_LM_BFF])


@each_preset
def test_a_preset_applies_and_keeps_comments_and_where_stages_run(name: str, params: Path) -> None:
    before, shipped = params.read_text(), load_params(SHIPPED)
    assert apply_values(params, values_of(name))
    text, applied = params.read_text(), load_params(params)
    assert (applied.data, applied.runtime) == (shipped.data, shipped.runtime)
    assert edit_params(params, values_of(name))[0] == text
    comments = {line.partition("# ")[2] for line in text.split("\n")}
    assert {line.partition("# ")[2] for line in before.split("\n")} <= comments


@each_preset
def test_a_preset_sets_all_that_its_run_depends_on(name: str) -> None:
    """On top of parameters that are all something else, nothing of these remains in its run."""
    values = load(SHIPPED.read_text())
    for path, value in [*_scrambled(values, ()), *values_of(name)]:
        values = put(values, path, value)
    assert "something else" not in str(run_of(_resolved(values)))


def put(values: Any, path: tuple[str, ...], value: Any) -> Any:
    """A copy of nested dictionaries with the value at a path set."""
    if not path:
        return value
    return {**values, path[0]: put(values.get(path[0], {}), path[1:], value)}


def _scrambled(values: Any, path: tuple[str, ...]) -> Assignments:
    if isinstance(values, dict) and values:
        return [pair for key in values for pair in _scrambled(values[key], (*path, key))]
    return [(path, "something else")]


def _resolved(values: dict[str, Any]) -> dict[str, Any]:
    """The file with `defaults` of what a method tunes merged into the section of that method."""
    for benchmark in ("lama", "superglue"):
        training = values[benchmark]["training"]
        defaults = training["defaults"]
        for section in training.values():
            tune = section.get("tune", []) if isinstance(section, dict) else []
            for key in (k for k in defaults if tune and tune != "something else"):
                if key not in ("prompt", "model"):
                    section.setdefault(key, defaults[key])
                elif key in tune:
                    section[key] = {**defaults[key], **section.get(key, {})}
    return values


@pytest.mark.parametrize("name", [*OF_TABLES, *SMOLLM2])
def test_only_lama_runs_with_all_of_its_test_facts(name: str, params: Path) -> None:
    apply_values(params, values_of(name))
    loaded = load_params(params)
    assert loaded.lama.source == "lama"
    assert loaded.lama.splits.test_facts is None
    if name in OF_TABLES:
        assert set(loaded.lama.splits.model_dump().values()) == {None}
    assert loaded.lama.templates == {}
    assert loaded.superglue.tasks == []


@pytest.mark.parametrize("name", OF_TABLES)
def test_presets_of_the_tables_have_the_published_settings(name: str, params: Path) -> None:
    apply_values(params, values_of(name))
    loaded = load_params(params)
    lama = loaded.lama
    assert (
        loaded.model.name, lama.subset, lama.relations, lama.methods, lama.stability.methods
    ) == OF_TABLES[name]  # fmt: skip
    assert loaded.seed == 34
    assert lama.prompts["manual"] == "manual"
    causal = "[P*3] {before}[P*3] {mask}{after}"
    assert lama.prompts["p-tuning"] == (causal if name.startswith("lama-29k-gpt2") else "paper-v2")
    assert lama.training["p-tuning"].model_dump() == {
        "tune": ["prompt"],
        **RELEASED_LOOP,
        "prompt": {
            **RELEASED_OPTIMIZER, "learning_rate": 1e-5, "encoder": "lstm", "start": "random",
            "dropout": 0.0,
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
    apply_values(params, values_of("lama-table1-bert-base"))
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
    apply_values(params, values_of(name))
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
    apply_values(params, values_of(SMOLLM2[0]))
    first = load_params(params).lama
    apply_values(params, values_of(name))
    loaded = load_params(params)
    lama = loaded.lama
    assert loaded.model.name == "smollm2-135m-instruct"
    assert lama.relations == relations
    assert len(lama.methods) == methods
    assert lama.training["p-tuning"] == first.training["p-tuning"]
    assert lama.subset == first.subset


@each_preset
def test_the_comment_of_a_preset_has_source_differences_and_cost(name: str) -> None:
    comment = [line for line in read_preset(FOLDER, name).text.split("\n") if line.startswith("#")]
    assert comment[1] == "#"
    for words in ("Source: ", "Differs from the paper", "Costs: "):
        assert any(line.startswith(f"# {words}") for line in comment), words
    # The values that a comment suggests can be set.
    suggested = re.findall(r"--set (\S+=\S+)", "\n".join(comment))
    assert suggested or not name.startswith("lama-34k")
    read_assignments(suggested)


@pytest.mark.parametrize("name", OF_SUPERGLUE)
def test_presets_of_superglue_train_what_their_table_has(name: str, params: Path) -> None:
    apply_values(params, values_of(name))
    loaded = load_params(params)
    glue = loaded.superglue
    masked = not loaded.model.name.startswith(("gpt2", "smollm2"))
    settings = [
        sum(len(superglue_configs(glue, task, method, masked=masked)) for task in glue.tasks)
        for method in glue.methods
        if method not in ("manual", "prompt-tuning")
    ]
    assert (
        loaded.model.name, glue.protocol, len(glue.tasks), glue.methods,
        settings, glue.selection,
    ) == OF_SUPERGLUE[name]  # fmt: skip
    assert (loaded.lama.methods, loaded.lama.stability.methods) == ([], [])
    sizes = glue.splits
    assert (sizes.train_examples, sizes.dev_examples, sizes.test_examples) == (None, None, None)
    assert (sizes.count, sizes.train_share) == (4, 0.5)


# Preset -> model, tasks, methods, settings of each tuned method on a task, and steps.
# Source: princeton-nlp/LM-BFF, README and run_experiment.sh.
OF_LM_BFF: dict[str, tuple[str, list[str], list[str], int, int]] = {
    "lm-bff-roberta-large": (
        "roberta-large", ["cola", "glue_rte", "mnli", "mrpc", "qnli", "sst2"],
        ["manual", "classifier", "manual-fine-tuning", "p-tuning"], 9, 1000,
    ),
    "lm-bff-roberta-large-auto": (
        "roberta-large", ["mnli", "mrpc", "sst2"], ["manual-fine-tuning", "p-tuning"], 9, 1000,
    ),
    "lm-bff-smollm2": (
        "smollm2-135m-instruct", ["mrpc", "sst2"], ["manual", "manual-fine-tuning", "p-tuning"],
        2, 32,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_LM_BFF)
def test_presets_of_lm_bff_have_its_protocol(name: str, params: Path) -> None:
    apply_values(params, values_of(name))
    loaded = load_params(params)
    glue = loaded.superglue
    model, tasks, methods, settings, steps = OF_LM_BFF[name]
    assert (loaded.model.name, glue.tasks, glue.methods) == (model, tasks, methods)
    assert (glue.source, glue.protocol, glue.selection) == ("glue", "lm-bff", "dev-per-split")
    assert (glue.splits.per_class, glue.split_numbers) == (16, [13, 21, 42, 87, 100])
    for task in tasks:
        templates = {}
        for method in methods:
            configs = superglue_configs(glue, task, method, masked=model == "roberta-large")
            assert len(configs) == (1 if method == "manual" else settings)
            templates[method] = [
                configs[0].for_split(seed).template.source for seed in glue.split_numbers
            ]
            for config in configs:
                training = config.training
                if training.tune:
                    assert training.epochs * (training.steps_per_epoch or 0) == steps
                    assert training.patience == training.epochs
        own = get_task(task).patterns
        if name.endswith("auto"):
            names = [f"lm-bff-auto-{seed}" for seed in glue.split_numbers]
            assert templates["manual-fine-tuning"] == [own[each] for each in names]
        # P-tuning has the same templates with a prompt token.
        without = [template.replace("[P] ", "") for template in templates["p-tuning"]]
        assert without == templates["manual-fine-tuning"]
        if model == "roberta-large":
            assert glue.prompts[task].max_length == (256 if task in ("glue_rte", "mnli") else 128)
    if model == "roberta-large":
        assert glue.grid["p-tuning"] == {
            "model.learning_rate": [1e-5, 2e-5, 5e-5], "batch_size": [2, 4, 8],
        }  # fmt: skip


@pytest.mark.parametrize("name", [n for n in OF_SUPERGLUE if "full" not in n])
def test_few_shot_presets_train_at_least_250_steps(name: str, params: Path) -> None:
    """Source: 250 and 500 in THUDM/FewNLU, scripts/search_*_multisplit.sh; 32 examples in train."""
    apply_values(params, values_of(name))
    glue = load_params(params).superglue
    for method, training in glue.training.items():
        if method in glue.methods and training.tune:
            assert training.epochs * (32 // training.batch_size) in range(250, 501), method


def test_table_5_has_the_patterns_and_words_of_fewnlu(params: Path) -> None:
    """Source: THUDM/FewNLU, tasks/superglue/pvp.py, pattern 1 with a continuous prompt."""
    apply_values(params, values_of("superglue-few-shot-albert"))
    glue = load_params(params).superglue
    words = {}
    for task in glue.tasks:
        settings = superglue_configs(glue, task, "p-tuning", masked=True)
        assert {setting.template.prompt_tokens for setting in settings} == {1}
        assert len({setting.template.source for setting in settings}) == 1
        words[task] = "/".join((settings[0].verbalizer or {}).values())
    assert words == {
        "boolq": "true/false", "cb": "Yes/No/Maybe", "copa": "", "multirc": "Yes/No",
        "rte": "Yes/No", "wic": "b/2", "wsc": "",
    }  # fmt: skip


def test_the_patterns_of_table_7_are_tried_in_its_order(params: Path) -> None:
    apply_values(params, values_of("superglue-table7-albert"))
    settings = superglue_configs(load_params(params).superglue, "cb", "p-tuning", masked=True)
    assert [setting.template.prompt_tokens for setting in settings] == [1, 1, 1, 1, 1, 2, 4, 8]
    assert settings[4].template.source.endswith("[P]")


def test_each_pattern_has_a_variant_with_a_prompt_token(
    params: Path,
) -> None:
    apply_values(params, values_of("superglue-patterns-albert"))
    glue = load_params(params).superglue
    manual, tuned = (
        [s.template.source for s in superglue_configs(glue, "cb", method, masked=True)]
        for method in ("manual-fine-tuning", "p-tuning")
    )
    assert [source.replace("[P] ", "") for source in tuned] == manual


def test_the_readme_names_only_existing_presets() -> None:
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"(?:lama|superglue)-[\w-]+", text)) <= set(PRESETS)
    suggested = re.findall(r"--set (\S+=[^\s`]+)", text)
    assert suggested
    read_assignments(suggested)
