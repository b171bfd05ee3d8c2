import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML

from pipeline.config.presets import (
    Change,
    apply_values,
    edit_params,
    list_presets,
    read_assignments,
    read_preset,
)
from pipeline.errors import ParamsError

PROJECT = Path(__file__).parents[3]


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


@pytest.fixture
def params(tmp_path: Path) -> Path:
    """A copy of the project's own parameters."""
    return Path(shutil.copyfile(PROJECT / "params.yaml", tmp_path / "params.yaml"))


@pytest.fixture
def presets(tmp_path: Path) -> Path:
    folder = tmp_path / "presets"
    folder.mkdir()
    (folder / "small.yaml").write_text(
        "# Few facts.\n#\n# More.\n\nseed: 7\nlama:\n  methods: []\n"
    )
    (folder / "other.yaml").write_text("seed: 8\n")
    (folder / "README.md").write_text("# No preset\n")
    return folder


# --- values of the parameters


def scalars(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return dotted path -> value of all single values."""
    found: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= scalars(value, f"{prefix}{name}.")
        elif not isinstance(value, list):
            found[f"{prefix}{name}"] = value
    return found


# A dictionary with keys of the user's own is set as a whole.
KNOWN = [
    path
    for path in scalars(load((PROJECT / "params.yaml").read_text()))
    if ".verbalizer." not in path
]
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Zl", "Zp"]), max_size=40)
)


def put(values: dict[str, Any], path: str, new: Any) -> None:
    *sections, key = path.split(".")
    for section in sections:
        values = values[section]
    values[key] = new


@given(st.dictionaries(st.sampled_from(KNOWN), SCALARS, max_size=6))
@example({"report.title": "a: b, [c] # d", "lama.prompts.discrete": '"{subject}" {mask}'})
@example(dict.fromkeys(KNOWN, "x"))
@settings(
    max_examples=8,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_values_of_known_keys_come_back_as_they_were_set(
    params: Path, changes: dict[str, Any]
) -> None:
    text = (PROJECT / "params.yaml").read_text()
    expected = load(text)
    for path, new in changes.items():
        put(expected, path, new)
    edited, differences = edit_params(
        params,
        read_assignments(
            f"{path}={json.dumps(new, ensure_ascii=False)}" for path, new in changes.items()
        ),
    )
    assert load(edited) == expected
    assert len(differences) <= len(changes)
    lines, before = edited.split("\n"), text.split("\n")
    assert len(lines) == len(before)
    comments = [line for line in before if line.lstrip().startswith("#")]
    assert [line for line in lines if line.lstrip().startswith("#")] == comments


@pytest.mark.parametrize(
    ("assignment", "values"),
    [
        ("seed=3", {"seed": 3}),
        ("seed=1e-4", {"seed": 1e-4}),
        ("seed=", {"seed": None}),
        ("seed= 3  # three", {"seed": 3}),
        ("model.name=a=b", {"model.name": "a=b"}),
        ("model.name='3'", {"model.name": "3"}),
        ("model.name=a, b", {"model.name": "a, b"}),
        ("lama.methods=[manual,  p-tuning]", {"lama.methods": ["manual", "p-tuning"]}),
        ("lama.methods=\n- manual\n", {"lama.methods": ["manual"]}),
        # Sections are merged, but for those of methods; dictionaries with other keys are replaced.
        ("lama.splits={dev_facts: 3}", {"lama.splits.dev_facts": 3}),
        ("lama.prompts={p-tuning: paper-v1}", {"lama.prompts.p-tuning": "paper-v1"}),
        ("lama.training.p-tuning.prompt={dropout: 0.1}",
         {"lama.training.p-tuning.prompt.dropout": 0.1}),
        ("lama.training.p-tuning={epochs: 1}", {"lama.training.p-tuning": {"epochs": 1}}),
        ("lama.training.defaults={epochs: 1}", {"lama.training.defaults.epochs": 1}),
        ("lama.templates={P17: a}", {"lama.templates": {"P17": "a"}}),
        ("lama.templates={}", {"lama.templates": {}}),
        ("superglue.prompts.rte.verbalizer={x: y}",
         {"superglue.prompts.rte.verbalizer": {"x": "y"}}),
    ],
)  # fmt: skip
def test_an_assignment_is_read_as_yaml(assignment: str, values: dict[str, Any]) -> None:
    assert {".".join(path): value for path, value in read_assignments([assignment])} == values


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("seed", "no value; write a.b.c=VALUE"),
        ("=3", "unknown key"),
        ("sede=3", "sede: unknown key; did you mean 'seed'?"),
        ("lama.trianing.manual.epochs=3", "lama.trianing: unknown key; did you mean 'training'?"),
        ("lama.training.ptuning.epochs=3", "did you mean 'p-tuning'?"),
        ("lama.training={p-tuning: {epoch: 3}}",
         "lama.training.p-tuning.epoch: unknown key; did you mean 'epochs'?"),
        ("model.zzz=1", "model.zzz: unknown key; known keys: name, dtype"),
        ("seed.x=1", "seed is set as a whole; write seed=VALUE"),
        ("lama.templates.P17=x", "lama.templates is set as a whole; write lama.templates=VALUE"),
        ("seed=[1", "not YAML"),
        ("seed=*x", "not YAML"),
        ("lama.training.p-tuning.batch=3", "batch: this key is now 'batch_size'"),
        ("seed=1\n---\n2", "not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_assignment_is_named(assignment: str, said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        read_assignments([assignment])
    assert str(caught.value).startswith(f"--set {assignment}: ")
    assert said in str(caught.value)


def test_of_two_assignments_the_later_wins(params: Path) -> None:
    values = read_assignments(["seed=1", "lama.splits.dev_facts=2", "seed=3", "lama.splits=null"])
    after = load(edit_params(params, values)[0])
    assert (after["seed"], after["lama"]["splits"]) == (3, None)


def test_a_methods_section_is_replaced_and_then_changed_in_parts(params: Path) -> None:
    values = read_assignments(
        ["lama.training.prompt-tuning={tune: [prompt], prompt: {encoder: mlp}}",
         "lama.training.prompt-tuning.epochs=9"]
    )  # fmt: skip
    edited, changes = edit_params(params, values)
    assert load(edited)["lama"]["training"]["prompt-tuning"] == {
        "tune": ["prompt"], "prompt": {"encoder": "mlp"}, "epochs": 9,
    }  # fmt: skip
    path = "lama.training.prompt-tuning"
    assert changes[0] == Change(f"{path}.prompt.encoder", "embedding", "mlp")
    assert Change(f"{path}.epochs", None, "9") in changes
    assert Change(f"{path}.prompt.optimizer", "adamw", None) in changes


def test_a_file_keeps_its_line_ends(params: Path) -> None:
    params.write_bytes(params.read_bytes().replace(b"\n", b"\r\n"))
    before = params.read_bytes()
    apply_values(params, read_assignments(["seed=7"]))
    assert params.read_bytes() == before.replace(b"seed: 34", b"seed: 7 ", 1)


def test_a_file_with_anchors_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("data: &x {mirror: a}\nmodel: *x\n")
    with pytest.raises(ParamsError, match="anchors"):
        edit_params(path, read_assignments(["data.mirror=b"]))


# --- the folder of presets


def test_presets_are_listed_with_the_first_line_of_their_comment(presets: Path) -> None:
    assert list_presets(presets) == {"other": "", "small": "Few facts."}


def test_a_preset_is_read(presets: Path) -> None:
    preset = read_preset(presets, "small")
    assert preset.values == [(("seed",), 7), (("lama", "methods"), [])]
    assert preset.text == (presets / "small.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("smal", "no preset 'smal'; did you mean small?"),
        ("xyz", "no preset 'xyz'; it has other, small"),
        ("README", "no preset 'README'"),
        ("../small", "no preset '../small'"),
        ("", "no preset ''"),
    ],
)
def test_an_unknown_preset_lists_the_known_ones(presets: Path, name: str, said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        read_preset(presets, name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lama:\n  trianing: {}\n", "lama.trianing: unknown key; did you mean 'training'?"),
        ("lama:\n  training:\n    ptuning: {}\n", "lama.training.ptuning: unknown key"),
        ("3: 4\n", "3: unknown key; known keys: seed, model, data"),
        ("seed: [\n", "not YAML"),
        ("seed: 1\nseed: 2\n", "duplicate key"),
        ("# nothing\n", "holds no keys"),
        ("- seed\n", "holds no keys"),
    ],
)
def test_a_wrong_preset_is_named(presets: Path, text: str, said: str) -> None:
    path = presets / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ParamsError) as caught:
        read_preset(presets, "mine")
    assert str(caught.value).startswith(f"{path}: ")
    assert said in str(caught.value)


def test_an_empty_section_of_a_preset_changes_nothing(presets: Path, params: Path) -> None:
    (presets / "mine.yaml").write_text("lama: {}\nmodel:\n  {}\n")
    assert edit_params(params, read_preset(presets, "mine").values)[1] == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the root of the project"):
        list_presets(tmp_path / "none")


# --- applying


def test_changes_are_reported(params: Path) -> None:
    seed = load(params.read_text())["seed"]
    values = read_assignments(["seed=7", "superglue.tasks=[]", "report.facts_shown=5"])
    assert apply_values(params, values) == [
        Change("seed", str(seed), "7"),
        Change("superglue.tasks", "[rte]", "[]"),
        Change("report.facts_shown", "8", "5"),
    ]


def test_what_changes_nothing_does_not_write(params: Path) -> None:
    params.chmod(0o444)
    before = params.stat()
    seed = load(params.read_text())["seed"]
    assert apply_values(params, read_assignments([f"seed={seed}"])) == []
    assert params.stat().st_ino == before.st_ino


@pytest.mark.parametrize(
    ("assignments", "said"),
    [
        (["seed=x"], ["seed: ", "valid integer", "'x'"]),
        (["seed=[1]"], ["seed: ", "valid integer", "list"]),
        (["lama=3"], ["lama: ", "found 3"]),
        (["lama="], ["lama: ", "None"]),
        (["lama.relations=[P17, P1]"], ["lama.relations", "'P1' is not a relation of geonames"]),
        (["lama.methods=[ptuning]"], ["lama.methods.0", "'ptuning' is not one of"]),
        (["model.name=no such"], ["model.name", "'no such'"]),
        (["data.mirror=/no/such"], ["data.mirror", "/no/such is not a folder"]),
        (["lama.training.p-tuning.prompt=null"], ["lama.training.p-tuning", "is required when"]),
        (["lama.prompts.p-tuning=paper"], ["lama.prompts.p-tuning", "unknown layout 'paper'"]),
    ],
)
def test_what_is_not_valid_is_not_written(
    params: Path, assignments: list[str], said: list[str]
) -> None:
    before = params.read_bytes()
    with pytest.raises(ParamsError) as caught:
        apply_values(params, read_assignments(assignments))
    for words in said:
        assert words in str(caught.value)
    assert str(caught.value).endswith(f"Nothing was written: {params} is unchanged")
    assert params.read_bytes() == before
    assert list(params.parent.iterdir()) == [params]


@pytest.mark.parametrize("text", [b"seed: [\n", b"- 1\n", b"", b"seed: \xff\n"])
def test_a_file_that_is_no_mapping_is_refused(params: Path, text: bytes) -> None:
    params.write_bytes(text)
    with pytest.raises(ParamsError) as caught:
        apply_values(params, read_assignments(["seed=1"]))
    assert str(caught.value).startswith(f"{params}: ")
    assert params.read_bytes() == text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file; run from the root of the project"):
        apply_values(tmp_path / "params.yaml", read_assignments(["seed=1"]))


def test_a_link_stays_a_link(params: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(params)
    apply_values(link, read_assignments(["seed=7"]))
    assert link.is_symlink()
    assert load(params.read_text())["seed"] == 7


@pytest.mark.parametrize("mode", [0o600, 0o664])
def test_the_permissions_of_the_file_are_kept(params: Path, mode: int) -> None:
    params.chmod(mode)
    apply_values(params, read_assignments(["seed=7"]))
    assert load(params.read_text())["seed"] == 7
    assert params.stat().st_mode & 0o777 == mode


def test_a_read_only_file_is_refused(params: Path) -> None:
    params.chmod(0o444)
    before = params.read_bytes()
    with pytest.raises(ParamsError, match=r"params.yaml: is read-only; .*chmod u\+w"):
        apply_values(params, read_assignments(["seed=7"]))
    assert params.read_bytes() == before
