from pathlib import Path
from typing import Any

import pytest

from pipeline.config.checks import check_params
from pipeline.config.schema import load_params
from pipeline.errors import ParamsError
from tests.pipeline.params_text import REMOVED, write_params


def _check(tmp_path: Path, changes: dict[str, Any]) -> None:
    check_params(load_params(write_params(tmp_path / "params.yaml", changes)))


def _mistakes(tmp_path: Path, changes: dict[str, Any]) -> list[str]:
    with pytest.raises(ParamsError) as caught:
        _check(tmp_path, changes)
    return str(caught.value).splitlines()


def test_good_parameters_pass(tmp_path):
    _check(tmp_path, {})


def test_the_projects_own_file_passes():
    check_params(load_params(Path(__file__).parents[3] / "params.yaml"))


def test_settings_that_no_method_uses_may_be_left_out(tmp_path):
    _check(
        tmp_path,
        {
            "superglue.methods": ["p-tuning"],
            "superglue.training.manual": REMOVED,  # its template is checked all the same
        },
    )


def test_own_relations_are_checked_with_the_parameters(tmp_path):
    path = tmp_path / "facts.csv"
    own = {"lama.source": "facts", "lama.facts": str(path), "lama.relations": ["made", "up"]}
    own["lama.stability.methods"] = []
    path.write_text(
        "relation,subject,object,template\nmade,a,b,[X] of [Y]\nup,a,b,{subject} {mask}\n"
    )
    _check(tmp_path, own)
    _check(tmp_path, {**own, "lama.relations": "all"})
    (line,) = _mistakes(tmp_path, {**own, "lama.relations": ["made", "P17"]})
    assert "lama.relations: 'P17' is not a relation of facts; choose from made, up" in line
    path.write_text("relation,subject,object,template\nmade,a,b,[X] only\nup,a,b,[X] [P] [Y]\n")
    first, second = _mistakes(tmp_path, own)
    assert f"lama.facts: {path}: made: template" in first
    assert "has no prompt tokens" in second
    path.unlink()
    assert _mistakes(tmp_path, own) == [
        f"params.yaml: lama.facts: {path}: no such file or folder; paths start at the checkout's "
        "root"
    ]


def test_objects_of_several_tokens_need_no_search_for_words(tmp_path):
    every = {"lama.objects": "all"}
    (line,) = _mistakes(tmp_path, every)
    assert "lama.objects: all, but the search of discrete prompts" in line
    _check(tmp_path, {**every, "lama.methods": ["manual", "p-tuning"]})
    published = {"lama.training.discrete.search.prompts": "table-1"}
    _check(tmp_path, {**every, **published})
    grid = {"lama.grid.discrete": {"search.prompts": ["table-1", "gradient"]}}
    (line,) = _mistakes(tmp_path, {**every, **published, **grid})
    assert "lama.objects: all" in line


def test_a_model_may_be_a_folder(tmp_path, tiny_folders):
    _check(tmp_path, {"model.name": str(tiny_folders["bert"])})


def test_a_mirror_may_be_a_folder(tmp_path):
    _check(tmp_path, {"data.mirror": str(tmp_path)})


def test_lama_templates_may_be_written_in_both_forms(tmp_path):
    templates = {"P17": "{subject} lies in {mask} .", "P47": "[X] meets [Y] ."}
    _check(tmp_path, {"lama.templates": templates})


def test_an_unknown_model_is_named_with_the_catalog(tmp_path):
    (line,) = _mistakes(tmp_path, {"model.name": "gpt5"})
    assert line.startswith("params.yaml: model.name: ")
    assert "'gpt5'" in line
    assert "smollm2-135m-instruct" in line


@pytest.mark.parametrize(
    ("lost", "named"),
    [("config.json", "config.json"), ("tokenizer.json", "tokenizer.json"),
     ("model.safetensors", "*.safetensors")],
)  # fmt: skip
def test_a_model_folder_without_a_file_is_refused(tmp_path, lost, named):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in {"config.json", "tokenizer.json", "model.safetensors"} - {lost}:
        (folder / file).touch()
    (line,) = _mistakes(tmp_path, {"model.name": str(folder)})
    assert f"{folder} has no {named};" in line


def test_a_mirror_must_be_a_folder(tmp_path):
    (tmp_path / "file").touch()
    for mirror in (str(tmp_path / "file"), str(tmp_path / "absent")):
        (line,) = _mistakes(tmp_path, {"data.mirror": mirror})
        assert line.startswith(f"params.yaml: data.mirror: {mirror} is not a folder")


def test_an_unknown_relation_is_named_with_the_known_ones(tmp_path):
    (line,) = _mistakes(tmp_path, {"lama.relations": ["P17", "P99"]})
    assert line.startswith("params.yaml: lama.relations: 'P99' ")
    assert "P17, P30" in line


def test_a_template_of_an_unknown_relation_is_named(tmp_path):
    (line,) = _mistakes(tmp_path, {"lama.templates": {"P99": "{subject} {mask}"}})
    assert line.startswith("params.yaml: lama.templates")
    assert "'P99'" in line


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{subject} is in", "0 masks"),
        ("{mask} {subject} {mask}", "2 masks"),
        ("{city} is in {mask}", "unknown field {city}"),
        ("It is in {mask}", "no subject"),
        ("[P*3] {subject} is in {mask}", "a manual template has no prompt tokens"),
        ("{subject is in {mask}", "opens or closes nothing"),
    ],
)
def test_a_bad_lama_template_is_named(tmp_path, template, said):
    (line,) = _mistakes(tmp_path, {"lama.templates": {"P17": template}})
    assert line.startswith("params.yaml: lama.templates.P17: ")
    assert said in line


@pytest.mark.parametrize(
    ("method", "template", "said"),
    [
        ("manual", "{premise} {hypothesis}", "0 masks"),
        ("manual", "{premise} {question} {mask}", "unknown field {question}"),
        ("manual", "{premise} {hypothesis} [P] {mask}", "tune of this method does not name prompt"),
        ("p-tuning", "{premise} {hypothesis} {mask}", "no [P] in the template"),
        ("p-tuning", "{premise} [P*0] {mask}", "[P*0] has no prompt tokens"),
    ],
)
def test_a_bad_task_template_is_named(tmp_path, method, template, said):
    path = f"superglue.prompts.rte.templates.{method}"
    (line,) = _mistakes(tmp_path, {path: template})
    assert line.startswith(f"params.yaml: {path}: ")
    assert said in line


@pytest.mark.parametrize(
    "verbalizer",
    [
        {"entailment": "yes"},
        {"entailment": "yes", "contradiction": "no"},
        {"entailment": "yes", "not_entailment": "no", "neutral": "maybe"},
    ],
)
def test_a_verbalizer_has_the_labels_of_its_task(tmp_path, verbalizer):
    (line,) = _mistakes(tmp_path, {"superglue.prompts.rte.verbalizer": verbalizer})
    assert line.startswith("params.yaml: superglue.prompts.rte.verbalizer: ")
    assert ", ".join(verbalizer) in line
    assert "entailment, not_entailment" in line


PROMPT_AND_MODEL = ["prompt", "model"]


@pytest.mark.parametrize("method", ["p-tuning", "prompt-tuning"])
def test_on_lama_the_model_may_be_tuned_with_the_prompt(tmp_path, method):
    params = load_params(write_params(tmp_path / "params.yaml"))
    both = params.superglue.training["p-tuning"].model_dump()
    assert both["tune"] == PROMPT_AND_MODEL
    _check(tmp_path, {f"lama.training.{method}": both})


@pytest.mark.parametrize(
    ("method", "like", "allowed"),
    [
        ("manual", "fine-tuning", "[]"),
        ("fine-tuning", "manual", "['model']"),
        ("manual-fine-tuning", "p-tuning", "['model']"),
        ("p-tuning", "manual", "['prompt'] or ['prompt', 'model']"),
        ("prompt-tuning", "fine-tuning", "['prompt'] or ['prompt', 'model']"),
    ],
)
def test_a_method_tunes_only_what_defines_it(tmp_path, method, like, allowed):
    settings = load_params(write_params(tmp_path / "params.yaml")).lama.training[like]
    lines = _mistakes(tmp_path, {f"lama.training.{method}": settings.model_dump()})
    (line,) = (line for line in lines if f"lama.training.{method}" in line)
    assert line == (
        f"params.yaml: lama.training.{method}.tune: {settings.tune}, but {method} tunes {allowed}; "
        "choose another method"
    )


def test_the_order_of_tune_is_fixed(tmp_path):
    (line,) = _mistakes(
        tmp_path,
        {
            "lama.training.p-tuning": {
                **load_params(write_params(tmp_path / "params.yaml"))
                .superglue.training["p-tuning"]
                .model_dump(),
                "tune": ["model", "prompt"],
            }
        },
    )
    assert line.startswith("params.yaml: lama.training.p-tuning.tune: ['model', 'prompt'], but")


SEARCH = {"prompts": "gradient", "iterations": 1, "candidates": 1, "batch_size": 1}


@pytest.mark.parametrize("method", ["manual", "p-tuning", "fine-tuning"])
def test_only_discrete_uses_a_search(tmp_path, method):
    (line,) = _mistakes(tmp_path, {f"lama.training.{method}.search": SEARCH})
    assert line.startswith(
        f"params.yaml: lama.training.{method}.search: section 'search' is only used "
    )


def test_discrete_needs_its_search(tmp_path):
    (line,) = _mistakes(tmp_path, {"lama.training.discrete.search": REMOVED})
    assert line.startswith(
        "params.yaml: lama.training.discrete.search: section 'search' is required "
    )


@pytest.mark.parametrize(
    ("method", "layout", "said"),
    [
        (
            "p-tuning",
            "paper-v3",
            "unknown layout 'paper-v3'; available: manual, paper-v2",
        ),
        ("p-tuning", "{before}[P]", "0 masks"),
        ("p-tuning", "{object} [P] {mask}", "unknown field {object}"),
        ("p-tuning", "manual", "no [P] in the template, but this method trains prompt tokens"),
        ("p-tuning", "{before}{mask}", "no [P] in the template, but this method trains"),
        ("discrete", "{before}{mask}", "no [P] in the template"),
        ("manual", "paper-v1", "[P] in the template, but tune of this method does not name prompt"),
        ("fine-tuning", "[P] {subject} {mask}", "[P] in the template, but tune of this method"),
        ("manual-fine-tuning", "released-code", "[P] in the template, but tune of this method"),
        ("manual", "In {mask}.", "no subject"),
        ("manual", "{before:shorten}{mask}", "{before:shorten}"),
    ],
)
def test_a_bad_layout_is_named(tmp_path, method, layout, said):
    (line,) = _mistakes(tmp_path, {f"lama.prompts.{method}": layout})
    assert line.startswith(f"params.yaml: lama.prompts.{method}: ")
    assert said in line


@pytest.mark.parametrize("layout", ["paper-v1", "released-code", "{before}[P]{mask}{after}"])
def test_p_tuning_takes_every_layout_with_prompt_tokens(tmp_path, layout):
    _check(tmp_path, {"lama.prompts.p-tuning": layout})


def test_all_relations_need_no_names(tmp_path):
    _check(tmp_path, {"lama.relations": "all"})
    _check(tmp_path, {"lama.relations": "all", "lama.source": "lama"})


def test_each_source_has_its_own_relations(tmp_path):
    _check(tmp_path, {"lama.source": "lama", "lama.relations": ["P17", "P1001"]})
    (line,) = _mistakes(tmp_path, {"lama.relations": ["P17", "P1001"]})
    assert line.startswith("params.yaml: lama.relations: 'P1001' is not a relation of geonames; ")
    changes = {"lama.source": "lama", "lama.relations": ["P17", "P999"]}
    (line,) = _mistakes(tmp_path, changes)
    assert line.startswith("params.yaml: lama.relations: 'P999' is not a relation of lama; ")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"relations": ["P17", "P30"]}, "'P30' is not in lama.relations; add it there"),
        ({"methods": ["discrete"]}, "discrete has no manual template to vary"),
        ({"templates": {"P47": ["[X] [Y]", "[X]: [Y]"]}}, "for P17"),
        ({"templates": {"P17": ["[X] [Y]", "[X]: {city} [Y]"]}}, "unknown field {city}"),
        ({"templates": {"P17": ["[X] [Y]", "in [Y]"]}}, "no subject"),
        ({"templates": {"P17": ["[X] [Y]"]}}, "two"),
    ],
)
def test_a_mistake_in_stability_is_named(tmp_path, changes, said):
    changes = {f"lama.stability.{key}": value for key, value in changes.items()}
    (line,) = _mistakes(tmp_path, changes)
    assert line.startswith("params.yaml: lama.stability")
    assert said in line


LAMA = {"lama.source": "lama"}
STABILITY = "lama.stability.templates"
SEARCHED = "lama.training.discrete.search.prompts"


@pytest.mark.parametrize(
    ("changes", "place", "said"),
    [
        ({STABILITY: "pararel_patterns"}, "lama.stability", "'pararel_patterns'"),
        ({**LAMA, STABILITY: "pararel"}, "lama.stability", "'pararel'"),
        ({SEARCHED: "lpaqa_mine"}, "lama.training.discrete.search", "'lpaqa_mine'"),
        ({**LAMA, SEARCHED: "lpaqa"}, "lama.training.discrete.search", "'lpaqa'"),
        ({"lama.stability.relations": ["P47"]}, "lama.stability", "P47"),
    ],
)
def test_an_unknown_collection_of_templates_lists_the_known_ones(tmp_path, changes, place, said):
    (line,) = _mistakes(tmp_path, changes)
    assert line.startswith(f"params.yaml: {place}: ")
    assert said in line
    if "P47" not in said:
        assert "table-1" in line
        assert ("lpaqa_mine, lpaqa_paraphrase" in line) == (changes.items() >= LAMA.items())


def test_a_task_of_another_source_is_named(tmp_path):
    full = {f"superglue.splits.{name}_examples": None for name in ("train", "dev", "test")}
    prompts = load_params(Path("params.yaml")).superglue.prompts["sst2"].model_dump()
    sst2 = {
        "superglue.tasks": ["sst2"], "superglue.prompts.sst2": prompts,
        "superglue.overrides.sst2": {}, "superglue.protocol": "full-paper", **full,
    }  # fmt: skip
    (line,) = _mistakes(tmp_path, {**sst2, "superglue.source": "superglue"})
    assert line.endswith(
        "superglue.tasks: superglue.source superglue has no sst2, but glue has. Change "
        "superglue.source or take the task out"
    )
    assert len(_mistakes(tmp_path, {**sst2, "superglue.source": "geonames"})) == 1
    _check(tmp_path, {**sst2, "superglue.source": "glue"})
    rte = {"superglue.tasks": ["rte"], "superglue.protocol": "lm-bff", **full}
    (line,) = _mistakes(tmp_path, {**rte, "superglue.source": "glue"})
    assert "glue has no rte; it has cola, glue_rte, mnli, mrpc, qnli, sst2. Change" in line


def test_a_split_without_its_template_is_named(tmp_path):
    changes = {"superglue.overrides.rte": {"p-tuning": {"template": {"split-2": "p-tuning"}}}}
    (line,) = _mistakes(tmp_path, changes)
    assert line.endswith(
        "superglue.overrides.rte.p-tuning.template: none for split-1, but for split-2; write one "
        "for each split"
    )


def test_published_templates_of_lama_may_be_used(tmp_path):
    _check(tmp_path, {**LAMA, STABILITY: "pararel_patterns", SEARCHED: "autoprompt_bert"})


def test_stability_without_methods_is_not_checked(tmp_path):
    changes = {"lama.stability.methods": [], "lama.stability.relations": ["P131"]}
    _check(tmp_path, {**changes, STABILITY: {}})


def test_with_all_relations_stability_needs_known_ones(tmp_path):
    changes = {
        "lama.relations": "all",
        "lama.stability.relations": ["P999"],
        "lama.stability.templates": {"P999": ["[X] [Y]", "[X]: [Y]"]},
    }
    (line,) = _mistakes(tmp_path, changes)
    assert line.startswith("params.yaml: lama.stability")
    assert "'P999'" in line
    changes["lama.stability.relations"] = ["P47"]
    changes["lama.stability.templates"] = {"P47": ["[X] [Y]", "[X]: [Y]"]}
    _check(tmp_path, changes)


def test_all_mistakes_are_reported_at_once(tmp_path):
    lines = _mistakes(
        tmp_path,
        {
            "model.name": "gpt5",
            "data.mirror": str(tmp_path / "absent"),
            "lama.relations": ["P98", "P99"],
            "lama.templates": {"P17": "no slots"},
            "lama.training.manual.search": SEARCH,
            "lama.prompts.p-tuning": "paper-v3",
            "lama.stability.relations": ["P17", "P47"],
            "lama.stability.templates": {"P17": ["[X] [Y]", "[X]: [Y]"]},
            "superglue.prompts.rte.verbalizer": {},
            "superglue.prompts.rte.templates.manual": "{mask} {mask}",
        },
    )
    assert [line.split(": ")[1] for line in lines] == [
        "model.name",
        "data.mirror",
        "lama.relations",
        "lama.relations",
        "lama.training.manual.search",
        "lama.prompts.p-tuning",
        "lama.stability",
        "lama.stability",
        "lama.templates.P17",
        "superglue.prompts.rte.verbalizer",
        "superglue.prompts.rte.templates.manual",
    ]


def test_grids_and_overrides_of_lama_are_checked(tmp_path):
    changes = {
        "lama.grid": {"manual": {}, "p-tuning": {"template": ["manual"]}, "discrete": {}},
        "lama.overrides": {"P99": {}, "P47": {"discrete": {"search.prompts": ["gradient", "x"]}}},
    }
    lines = _mistakes(tmp_path, changes)
    assert [line.split(": ")[1] for line in lines] == [
        "lama.overrides",
        "lama.grid.p-tuning.template",
        "lama.overrides.P47.discrete.search.prompts",
    ]


def test_a_grid_is_checked_for_the_tasks_that_run(tmp_path):
    words = {"verbalizer": ["yes-no", "true-false"], "template": ["[P] {premise} {mask}"]}
    templates = {"manual": "pet-0", "p-tuning": "[P] {choice1} {mask}"}
    changes = {
        "superglue.tasks": ["rte"],
        "superglue.prompts.copa": {"max_length": 64, "verbalizer": None, "templates": templates},
        "superglue.overrides.copa": {},
        "superglue.grid": {"manual": {}, "p-tuning": words},
    }
    _check(tmp_path, changes)
    lines = _mistakes(tmp_path, {**changes, "superglue.tasks": ["rte", "copa"]})
    assert [line.split(": ")[1:3] for line in lines] == [
        ["superglue.grid.p-tuning.verbalizer", "copa"]
    ]


def test_a_mistake_in_a_grid_of_training_settings_names_its_key(tmp_path):
    grid = {"manual": {}, "p-tuning": {"epochs": [0]}}
    (line,) = _mistakes(tmp_path, {"superglue.grid": grid})
    assert line.startswith("params.yaml: superglue.grid.p-tuning.epochs: ")


TUNING = {"lama.methods": ["manual", "fine-tuning"], "lama.grid": {"manual": {}, "fine-tuning": {}}}


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({}, "superglue.training.p-tuning.tune"),
        ({"superglue.methods": ["manual"]}, ""),
        ({"superglue.tasks": []}, ""),
        (TUNING, "lama.training.fine-tuning.tune, superglue.training.p-tuning.tune"),
        ({**TUNING, "superglue.tasks": []}, "lama.training.fine-tuning.tune"),
        (
            {"lama.stability.methods": ["fine-tuning"], "superglue.tasks": []},
            "lama.training.fine-tuning.tune",
        ),
    ],
)
def test_a_method_that_is_run_cannot_tune_bfloat16_weights(tmp_path, changes, places):
    for dtype in ("auto", "float32", "mixed"):
        _check(tmp_path, {**changes, "model.dtype": dtype})
    changes = {**changes, "model.dtype": "bfloat16"}
    if not places:
        _check(tmp_path, changes)
        return
    assert _mistakes(tmp_path, changes) == [
        "params.yaml: model.dtype: bfloat16 rounds most steps of a tuned model away, and model is "
        f"in {places}; write mixed or auto"
    ]
    for key, value in (("quantization", "8bit"), ("device_map", "auto")):
        assert _mistakes(tmp_path, {**changes, "model.dtype": "auto", f"model.{key}": value}) == [
            f"params.yaml: model.{key}: {value} is for frozen models only, and model is in "
            f"{places}; write null, or choose other methods"
        ]


@pytest.mark.parametrize(("key", "value"), [("quantization", "8bit"), ("device_map", "auto")])
def test_a_model_over_several_devices_or_with_small_weights_is_trained_by_one_process(
    tmp_path, key, value
):
    frozen = {"superglue.tasks": []}
    _check(tmp_path, {**frozen, f"model.{key}": value})
    changes = {**frozen, f"model.{key}": value, "runtime.gpus_per_training": 2}
    assert _mistakes(tmp_path, changes) == [
        f"params.yaml: model.{key}: {value} does not go with runtime.gpus_per_training: 2; write "
        "null, or gpus_per_training: 1"
    ]


@pytest.mark.parametrize("second", ["yes", " yes"])
def test_two_labels_with_one_word_are_refused(tmp_path, second):
    words = {"entailment": "yes", "not_entailment": second}
    (line,) = _mistakes(tmp_path, {"superglue.prompts.rte.verbalizer": words})
    assert line.startswith("params.yaml: superglue.prompts.rte.verbalizer: ")
    assert "two labels have the word 'yes'" in line


def test_a_name_longer_than_a_file_system_takes_is_named(tmp_path):
    (line,) = _mistakes(tmp_path, {"model.name": "x" * 300})
    assert line.startswith("params.yaml: model.name: ")
