from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import ParamsError
from pipeline.params import load_params
from pipeline.validation import check_params
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
    check_params(load_params(Path(__file__).parents[2] / "params.yaml"))


def test_settings_that_no_method_uses_may_be_left_out(tmp_path):
    _check(
        tmp_path,
        {
            "superglue.methods": ["p-tuning"],
            "superglue.training.manual": REMOVED,
            "superglue.prompts.rte.templates.manual": REMOVED,
        },
    )


def test_a_template_of_a_method_without_settings_is_no_crash(tmp_path):
    _check(tmp_path, {"superglue.methods": ["p-tuning"], "superglue.training.manual": REMOVED})


def test_a_model_may_be_a_folder(tmp_path, tiny_folders):
    _check(tmp_path, {"model.name": str(tiny_folders["bert"])})


def test_a_mirror_may_be_a_folder(tmp_path):
    _check(tmp_path, {"data.mirror": str(tmp_path)})


def test_lama_templates_may_be_written_in_both_forms(tmp_path):
    templates = {"P17": "{subject} lies in {mask} .", "P47": "[X] meets [Y] ."}
    _check(tmp_path, {"lama.templates": templates})


def test_an_unknown_model_is_named_with_the_catalogue(tmp_path):
    (line,) = _mistakes(tmp_path, {"model.name": "gpt5"})
    assert line.startswith("params.yaml: model.name: ")
    assert "'gpt5'" in line
    assert "smollm2-135m-instruct" in line


def test_the_place_of_a_mistake_is_said_once(tmp_path):
    (line,) = _mistakes(tmp_path, {"model.name": "gpt5"})
    assert line.count("model.name") == 1


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


def test_a_mirror_that_is_no_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    for mirror in (str(tmp_path / "file"), str(tmp_path / "absent")):
        (line,) = _mistakes(tmp_path, {"data.mirror": mirror})
        assert line.startswith(f"params.yaml: data.mirror: {mirror} is not a folder")


def test_an_unknown_relation_is_named_with_the_known_ones(tmp_path):
    (line,) = _mistakes(tmp_path, {"lama.relations": ["P17", "P99"]})
    assert line.startswith("params.yaml: lama.relations: 'P99' ")
    assert "P17, P30" in line


def test_a_template_of_an_unknown_relation_is_found_where_it_stands(tmp_path):
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
        ("p-tuning", "{premise} [P*0] {mask}", "[P*0] stands for no prompt token"),
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


def test_on_lama_the_model_stays_frozen(tmp_path):
    settings = load_params(write_params(tmp_path / "params.yaml")).superglue.training["p-tuning"]
    changes = {"lama.training.p-tuning": settings.model_dump()}
    (line,) = _mistakes(tmp_path, changes)
    assert line.startswith("params.yaml: lama.training.p-tuning.tune: ")
    assert "['prompt', 'model']" in line


def test_every_mistake_is_told_at_once(tmp_path):
    lines = _mistakes(
        tmp_path,
        {
            "model.name": "gpt5",
            "data.mirror": str(tmp_path / "absent"),
            "lama.relations": ["P98", "P99"],
            "lama.templates": {"P17": "no slots"},
            "superglue.prompts.rte.verbalizer": {},
            "superglue.prompts.rte.templates.manual": "{mask} {mask}",
        },
    )
    assert [line.split(": ")[1] for line in lines] == [
        "model.name",
        "data.mirror",
        "lama.relations",
        "lama.relations",
        "lama.templates.P17",
        "superglue.prompts.rte.verbalizer",
        "superglue.prompts.rte.templates.manual",
    ]
