"""The section `tasks` of params.yaml."""

from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.config.checks import check_params
from pipeline.config.grid import own_configs
from pipeline.config.presets import apply_values
from pipeline.config.schema import load_params
from pipeline.config.yaml_edit import Block
from pipeline.errors import ParamsError
from pipeline.tasks.own import Definition
from tests.pipeline.params_text import write_params


def make_own(folder: Path, **changes: Any) -> dict[str, Any]:
    """A task with some dotted paths, written with `__`, set to other values."""
    own: dict[str, Any] = {
        "data": {
            "file": str(folder / "rows.csv"),
            "fields": {"text": "Text"},
            "label": "Label",
            "labels": ["bad", "good"],
            "choices": None,
            "group": None,
            "splits": {"train": None, "dev": 0.2, "test": 10},
        },
        "metrics": ["accuracy"],
        "positive": None,
        "prompts": {
            "max_length": 64,
            "verbalizer": {"bad": "no", "good": "yes"},
            "templates": {"manual": "{text:shorten} {mask}.", "p-tuning": "p-tuning"},
        },
        "seeds": [1, 2],
        "selection": "dev",
        "overrides": {},
    }
    (folder / "rows.csv").write_text("Text,Label\n")
    for dotted, value in changes.items():
        *sections, key = dotted.split("__")
        section = own
        for name in sections:
            section = section[name]
        section[key] = value
    return own


def check(folder: Path, own: dict[str, Any], name: str = "reviews") -> None:
    path = write_params(folder / "params.yaml", {f"tasks.{name}": own})
    check_params(load_params(path))


def test_a_task_has_the_settings_of_superglue_and_its_overrides(tmp_path: Path) -> None:
    own = make_own(tmp_path, overrides={"p-tuning": {"epochs": [3, 4], "max_length": 32}})
    check(tmp_path, own)
    params = load_params(tmp_path / "params.yaml")
    task = Definition.from_params("reviews", params.tasks["reviews"]).task
    configs = own_configs(params, task, "p-tuning", masked=True)
    assert [config.training.epochs for config in configs] == [3, 4]
    assert {config.max_length for config in configs} == {32}
    assert configs[0].template.source == "{text:shorten} [P*3] Answer: {mask}."
    (manual,) = own_configs(params, task, "manual", masked=True)
    assert manual.verbalizer == {"bad": "no", "good": "yes"}
    assert manual.training.epochs == 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data__file": "nowhere.csv"}, "tasks.reviews.data.file: nowhere.csv: no such file"),
        ({"data__labels": ["bad"]}, "tasks.reviews.data.labels: "),
        ({"data__labels": ["bad", "bad"]}, "tasks.reviews.data: labels: duplicate value bad"),
        ({"data__labels": [0, 1]}, "tasks.reviews.data.labels.0: value should be a valid string"),
        ({"data__fields": {}}, "tasks.reviews.data.fields: "),
        ({"data__fields": {"Text": "Text"}}, "tasks.reviews.data.fields.Text: 'Text' is not a na"),
        ({"data__fields": {"mask": "Text"}}, "tasks.reviews.data.fields.mask: 'mask' is not a na"),
        ({"data__fields": {"a": "Text", "b": "Text"}}, "columns of fields and label: duplicate va"),
        ({"data__choices": ["text"]}, "tasks.reviews.data.choices: "),
        ({"data__choices": ["text", "other"]}, "fields: no entry for other, which choices lists"),
        ({"data__splits__dev": 0.0}, "tasks.reviews.data.splits.dev: "),
        ({"data__colums": {}}, "tasks.reviews.data.colums: unknown key"),
        ({"metrics": ["f2"]}, "tasks.reviews.metrics.0: 'f2' is not one of 'accuracy', 'f1'"),
        ({"metrics": ["f1_positive"]}, "tasks.reviews: positive: the label of the metric f1_posi"),
        ({"metrics": ["f1_positive"], "positive": "fine"}, "data.labels: no entry for fine"),
        ({"metrics": ["em"]}, "metrics: em is the share of groups that are right; set data.group"),
        ({"prompts__verbalizer": {"bad": "no"}}, "tasks.reviews.prompts.verbalizer: labels are b"),
        ({"prompts__verbalizer": None}, "tasks.reviews.prompts.verbalizer: unknown verbalizer"),
        (
            {"prompts__templates": {"manual": "{text} {mask}"}},
            "tasks.reviews.prompts.templates: no entry for p-tuning, which superglue.methods lists",
        ),
        (
            {"prompts__templates__manual": "{title} {mask}"},
            "tasks.reviews.prompts.templates.manual: template '{title} {mask}': unknown field",
        ),
        ({"overrides": {"manual": {"epoch": 1}}}, "tasks.reviews.overrides.manual.epoch: unknown"),
        ({"overrides": {"manuel": {}}}, "superglue.training: no entry for manuel, which tasks.rev"),
    ],
)
def test_a_mistake_in_a_task_is_named(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ParamsError) as error:
        check(tmp_path, make_own(tmp_path, **changes))
    assert said in str(error.value)


@pytest.mark.parametrize("name", ["rte", "lama", "superglue", "my reviews", "a/b", "1a", "x" * 41])
def test_a_name_that_commands_or_paths_cannot_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ParamsError, match=r"another|not a name"):
        check(tmp_path, make_own(tmp_path), name)


def test_a_new_task_has_a_key_on_each_line_and_comments_stay(tmp_path: Path) -> None:
    path = write_params(tmp_path / "params.yaml")
    values = YAML(typ="safe").load(path)
    del values["tasks"]
    with path.open("w") as file:
        file.write("# Before.\ntasks: {}\n\n# After.\n")
        YAML(typ="safe", pure=True).dump(values, file)
    own = make_own(tmp_path)
    for name in ("one", "two"):
        apply_values(path, [(("tasks", name), Block(own, data=Block(own["data"])))])
    written = path.read_text()
    assert written.startswith("# Before.\ntasks:\n  one:\n    data:\n      file: ")
    assert "\n  two:\n    data:\n      file: " in written
    assert "\n\n# After.\n" in written
    assert list(load_params(path).tasks) == ["one", "two"]
