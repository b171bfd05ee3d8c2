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
    Overlay,
    Setting,
    apply_overlay,
    edit_params,
    list_presets,
    merge_overlays,
    read_assignments,
    read_preset,
)
from pipeline.errors import ParamsError

PROJECT = Path(__file__).parents[3]


def load(text: str) -> Any:
    return YAML(typ="safe", pure=True).load(text)


def edited(tmp_path: Path, text: str, overlay: Overlay) -> str:
    """Return a file's text under an overlay; once more must change nothing."""
    path = tmp_path / "params.yaml"
    path.write_bytes(text.encode())
    result = edit_params(path, overlay)
    path.write_bytes(result.text.encode())
    assert edit_params(path, overlay).changes == []
    assert edit_params(path, overlay).text == result.text
    return result.text


def as_json(value: Any) -> str:
    """Return text that YAML reads as the same value."""
    return json.dumps(value, ensure_ascii=False)


def setting(text: str) -> Setting:
    return Setting(load(text), text)


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


# --- the text of a file


@pytest.mark.parametrize(
    ("before", "new", "after"),
    [
        # An end comment keeps its column, in both directions, until there is no room.
        ("a: 10   # why\n", "2", "a: 2    # why\n"),
        ("a: 10   # why\n", "200", "a: 200  # why\n"),
        ("a: 10   # why\n", "20000", "a: 20000  # why\n"),
        ("a: 10 # why\n", "20", "a: 20 # why\n"),
        ("a: 10 # why\n", "2", "a: 2  # why\n"),
        ("a: 10   # why\n", "[x, y]", "a: [x, y]  # why\n"),
        # No value is null.
        ("a:      # why\n", "2", "a: 2    # why\n"),
        ("a:\nb: 1\n", "2", "a: 2\nb: 1\n"),
        ("b: 1\na:", "2", "b: 1\na: 2"),
        ("a: 1  # why\n", "null", "a: null  # why\n"),
        # Quotes, and what looks like a comment or a key.
        ('a: "x # y"  # why\nb: "a: 1"\n', "'z'", "a: 'z'      # why\nb: \"a: 1\"\n"),
        ('"a" : 1\n', "2", '"a" : 2\n'),
        # Lists: of one line, of several, in lines of their own.
        ("a: [1, 2]  # why\n\n# of b\nb: 1\n", "[]", "a: []      # why\n\n# of b\nb: 1\n"),
        ("a: [1,\n    2]  # why\nb: 1\n", "[3]", "a: [3]  # why\nb: 1\n"),
        ("a:\n- 1\n- 2\n\n# of b\nb: 1\n", "[3]", "a: [3]\n\n# of b\nb: 1\n"),
        ("a:     # why\n  # more\n  - 1\nb: 1\n", "[3]", "a: [3]  # why\n  # more\nb: 1\n"),
        ("b: 1\na:\n- 1\n- 2", "[3]", "b: 1\na: [3]"),
        # Mappings and texts of several lines.
        ("a:  # why\n  c: 1\n  d: 2  # no more\n\nb: 1\n", "null", "a: null  # why\n\nb: 1\n"),
        ("a: {c: 1}  # why\n", "{d: 2}", "a: {d: 2}  # why\n"),
        ("a: |\n  x\n  y\n\n# of b\nb: 1\n", "z", "a: z\n\n# of b\nb: 1\n"),
        ("a: >-\n  x\n  y\n", "z", "a: z\n"),
        # Ends of lines, and a mark of the encoding.
        ("a: 1\r\nb: 2\r\n", "3", "a: 3\r\nb: 2\r\n"),
        ("a:  # why\r\n  - 1\r\nb: 2\r\n", "[3]", "a: [3]  # why\r\nb: 2\r\n"),
        ("\ufeffa: 1\nb: 2\n", "3", "\ufeffa: 3\nb: 2\n"),
        # A new key.
        ("b: 1\n\n# end\n", "2", "b: 1\na: 2\n\n# end\n"),
        ("b: 1  # why\n", "2", "b: 1  # why\na: 2\n"),
        ("b: 1\r\n", "2", "b: 1\r\na: 2\r\n"),
        ("b:\n- 1\n\n# end", "2", "b:\n- 1\na: 2\n\n# end"),
        ("b:\nc:\n", "2", "b:\nc:\na: 2\n"),
        ("{b: 1}\n", "2", "{b: 1, a: 2}\n"),
        ("{}\n", "2", "{a: 2}\n"),
    ],
)
def test_only_the_value_changes(tmp_path: Path, before: str, new: str, after: str) -> None:
    assert edited(tmp_path, before, {"a": setting(new)}) == after


@pytest.mark.parametrize(
    ("before", "overlay", "after"),
    [
        ("m:\n  a: 1\n  b: 2\n", {"a": "3"}, "m:\n  a: 3\n  b: 2\n"),
        ("m: {a: 1, b: 2}\n", {"a": "3", "b": "4"}, "m: {a: 3, b: 4}\n"),
        ("m:\n  b: 2  # x\nn: 1\n", {"a": "3"}, "m:\n  b: 2  # x\n  a: 3\nn: 1\n"),
        ("m: null  # why\n", {"a": "3", "c": "4"}, "m: {a: 3, c: 4}  # why\n"),
        ("n: 1\n", {"a": "3"}, "n: 1\nm: {a: 3}\n"),
        ("m: [1]\n", {"a": "3"}, "m: {a: 3}\n"),
        ('{"m": {"a": 1}}', {"a": "3"}, '{"m": {"a": 3}}'),
        ("m:\n  a: 1\n", {}, "m:\n  a: 1\n"),
    ],
)  # fmt: skip
def test_a_section_is_merged_or_made(
    tmp_path: Path, before: str, overlay: dict[str, str], after: str
) -> None:
    new = {name: setting(text) for name, text in overlay.items()}
    assert edited(tmp_path, before, {"m": new}) == after


def test_keys_are_added_to_nested_sections_in_the_right_one(tmp_path: Path) -> None:
    overlay: Overlay = {"m": {"n": {"b": setting("2")}, "c": setting("3")}, "d": setting("4")}
    after = "m:\n  n:\n    a: 1\n    b: 2\n  c: 3\nd: 4\n"
    assert edited(tmp_path, "m:\n  n:\n    a: 1\n", overlay) == after


@pytest.mark.parametrize("same", ["1.0e-4", "1e-4", "0.0001"])
def test_an_equal_value_keeps_its_spelling(tmp_path: Path, same: str) -> None:
    text = f"a: {same}\n"
    assert edited(tmp_path, text, {"a": setting("1.00e-4")}) == text


@pytest.mark.parametrize(("old", "new"), [("1", "true"), ("1", "1.0"), ("[1]", "[true]")])
def test_what_python_calls_equal_is_told_apart(tmp_path: Path, old: str, new: str) -> None:
    assert edited(tmp_path, f"a: {old}\n", {"a": setting(new)}) == f"a: {new}\n"


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("a: &x 1\nb: *x\n", "a"),
        ("b: &x {a: 1}\nm: *x\n", "m.k"),
        ("b: &x {k: 1}\nm:\n  <<: *x\n", "m.k"),
        ("{a, b: 1}\n", "a"),
        ("? a\nb: 1\n", "a"),
    ],
)
def test_a_form_that_cannot_be_edited_is_refused(tmp_path: Path, text: str, path: str) -> None:
    file = tmp_path / "params.yaml"
    file.write_text(text)
    overlay: Overlay = {"a": setting("2")} if path == "a" else {"m": {"k": setting("3")}}
    with pytest.raises(ParamsError) as caught:
        edit_params(file, overlay)
    assert f"cannot be changed one by one: {path}. " in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("b: &x {a: 1}\nm: *x\na: 1\n", "b: &x {a: 1}\nm: *x\na: 2\n"),
        ("? a\n: 1\n", "? a\n: 2\n"),
        ("a: {? b}\n", "a: 2\n"),
        ("a: !!str 5  # why\n", "a: 2        # why\n"),
    ],
)
def test_rare_forms_may_stand_beside_what_changes(tmp_path: Path, before: str, after: str) -> None:
    assert edited(tmp_path, before, {"a": setting("2")}) == after


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]) | st.just(" ")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abcd"), inner),
    max_leaves=6,
)


@given(
    st.dictionaries(st.sampled_from("abcdm"), VALUES, min_size=1),
    st.dictionaries(st.sampled_from("abcde"), VALUES),
    st.sampled_from([None, True, False]),
    st.sampled_from([0, 2]),
)
@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_any_file_in_any_style_comes_to_hold_the_new_values(
    tmp_path: Path,
    values: dict[str, Any],
    changes: dict[str, Any],
    flow: bool | None,
    offset: int,
) -> None:
    path = tmp_path / "file.yaml"
    yaml = YAML(typ="rt")
    yaml.default_flow_style = flow
    yaml.indent(mapping=2, sequence=2 + offset, offset=offset)
    with path.open("w", encoding="utf-8") as file:
        yaml.dump(values, file)
    overlay: Overlay = {name: Setting(new, as_json(new)) for name, new in changes.items()}
    overlay = {name: new for name, new in overlay.items() if load(new.text) == new.value}
    expected = {**load(path.read_text()), **{name: new.value for name, new in overlay.items()}}
    assert load(edited(tmp_path, path.read_text(), overlay)) == expected


# --- overlays of the parameters


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
    overlay = read_assignments(f"{path}={as_json(new)}" for path, new in changes.items())
    result = edit_params(params, overlay)
    assert load(result.text) == expected
    lines, before = result.text.split("\n"), text.split("\n")
    assert len(lines) == len(before)
    different = sum(line != old for line, old in zip(lines, before, strict=True))
    assert different == len(result.changes) <= len(changes)
    comments = [line for line in before if line.lstrip().startswith("#")]
    assert [line for line in lines if line.lstrip().startswith("#")] == comments


@pytest.mark.parametrize(
    ("assignment", "overlay"),
    [
        ("seed=3", {"seed": Setting(3, "3")}),
        ("seed=1e-4", {"seed": Setting(1e-4, "1e-4")}),
        ("seed=", {"seed": Setting(None, "null")}),
        ("seed= 3  # three", {"seed": Setting(3, "3")}),
        ("model.name=a=b", {"model": {"name": Setting("a=b", "a=b")}}),
        ("model.name='3'", {"model": {"name": Setting("3", "'3'")}}),
        ("model.name=a, b", {"model": {"name": Setting("a, b", '"a, b"')}}),
        ("lama.methods=[manual,  p-tuning]",
         {"lama": {"methods": Setting(["manual", "p-tuning"], "[manual, p-tuning]")}}),
        ("lama.methods=\n- manual\n", {"lama": {"methods": Setting(["manual"], "[manual]")}}),
        # Sections are merged, dictionaries of the user's own replaced.
        ("lama.splits={dev_facts: 3}", {"lama": {"splits": {"dev_facts": Setting(3, "3")}}}),
        ("lama.prompts={p-tuning: paper-v1}",
         {"lama": {"prompts": {"p-tuning": Setting("paper-v1", "paper-v1")}}}),
        ("lama.training.p-tuning.prompt={dropout: 0.1}",
         {"lama": {"training": {"p-tuning": {"prompt": {"dropout": Setting(0.1, "0.1")}}}}}),
        ("lama.training.p-tuning.prompt=null",
         {"lama": {"training": {"p-tuning": {"prompt": Setting(None, "null")}}}}),
        ("lama.templates={P17: a}", {"lama": {"templates": Setting({"P17": "a"}, "{P17: a}")}}),
        ("lama.templates={}", {"lama": {"templates": Setting({}, "{}")}}),
        ("lama.stability.templates={P17: [a]}",
         {"lama": {"stability": {"templates": Setting({"P17": ["a"]}, "{P17: [a]}")}}}),
        ("superglue.prompts.rte.verbalizer={x: y}",
         {"superglue": {"prompts": {"rte": {"verbalizer": Setting({"x": "y"}, "{x: y}")}}}}),
    ],
)  # fmt: skip
def test_an_assignment_is_read_as_yaml(assignment: str, overlay: Overlay) -> None:
    assert read_assignments([assignment]) == overlay


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("seed", "no value; write a.b.c=VALUE"),
        ("=3", "unknown key"),
        ("sede=3", "sede: unknown key; did you mean seed?"),
        ("lama.trianing.manual.epochs=3", "lama.trianing: unknown key; did you mean training?"),
        ("lama.training.ptuning.epochs=3", "did you mean p-tuning"),
        ("lama.training={p-tuning: {epoch: 3}}",
         "lama.training.p-tuning.epoch: unknown key; did you mean epochs?"),
        ("model.zzz=1", "model.zzz: unknown key; known keys: name, dtype"),
        ("seed.x=1", "seed is set as a whole; write seed=VALUE"),
        ("lama.templates.P17=x", "lama.templates is set as a whole; write lama.templates=VALUE"),
        ("seed=[1", "not YAML"),
        ("seed=*x", "not YAML"),
        ("seed=!!python/name:os.system", "not YAML"),
        ("seed=1\n---\n2", "not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_assignment_is_named(assignment: str, said: str) -> None:
    with pytest.raises(ParamsError) as caught:
        read_assignments([assignment])
    assert str(caught.value).startswith(f"--set {assignment}: ")
    assert said in str(caught.value)


def test_of_two_assignments_the_later_wins() -> None:
    overlay = read_assignments(["seed=1", "lama.splits.dev_facts=2", "seed=3", "lama.splits=null"])
    assert overlay == {"seed": Setting(3, "3"), "lama": {"splits": Setting(None, "null")}}


def test_merging_leaves_both_overlays_as_they_were() -> None:
    base = read_assignments(["lama.splits.dev_facts=1"])
    over = read_assignments(["lama.splits.test_facts=2"])
    assert merge_overlays(base, over)["lama"] == {
        "splits": {"dev_facts": Setting(1, "1"), "test_facts": Setting(2, "2")}
    }
    assert base == read_assignments(["lama.splits.dev_facts=1"])
    assert over == read_assignments(["lama.splits.test_facts=2"])


# --- the folder of presets


def test_presets_are_listed_with_the_first_line_of_their_comment(presets: Path) -> None:
    assert list_presets(presets) == {"other": "", "small": "Few facts."}


def test_a_preset_is_read(presets: Path) -> None:
    preset = read_preset(presets, "small")
    assert preset.overlay == {"seed": Setting(7, "7"), "lama": {"methods": Setting([], "[]")}}
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
def test_an_unknown_preset_is_answered_with_the_known_ones(
    presets: Path, name: str, said: str
) -> None:
    with pytest.raises(ParamsError) as caught:
        read_preset(presets, name)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lama:\n  trianing: {}\n", "lama.trianing: unknown key; did you mean training?"),
        ("lama:\n  training:\n    ptuning: {}\n", "lama.training.ptuning: unknown key"),
        ("3: 4\n", "3: unknown key; known keys: seed, model, data"),
        ("<<: {seed: 1}\n", "<<: unknown key"),
        ("[a]: 1\n", "unknown key"),
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
    assert edit_params(params, read_preset(presets, "mine").overlay).changes == []


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="run from the root of the project"):
        list_presets(tmp_path / "none")


# --- applying


def test_what_was_changed_is_told(params: Path) -> None:
    seed = load(params.read_text())["seed"]
    overlay = read_assignments(["seed=7", "superglue.tasks=[]", "report.facts_shown=5"])
    assert apply_overlay(params, overlay) == [
        Change("seed", str(seed), "7"),
        Change("superglue.tasks", "[rte]", "[]"),
        Change("report.facts_shown", "8", "5"),
    ]


def test_what_changes_nothing_does_not_write(params: Path) -> None:
    params.chmod(0o444)
    before = params.stat()
    seed = load(params.read_text())["seed"]
    assert apply_overlay(params, read_assignments([f"seed={seed}"])) == []
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
        (["lama.training.p-tuning.prompt=null"], ["lama.training.p-tuning", "missing"]),
        (["lama.prompts.p-tuning=paper"], ["lama.prompts.p-tuning", "unknown layout 'paper'"]),
    ],
)
def test_what_is_not_valid_is_not_written(
    params: Path, assignments: list[str], said: list[str]
) -> None:
    before = params.read_bytes()
    with pytest.raises(ParamsError) as caught:
        apply_overlay(params, read_assignments(assignments))
    for words in said:
        assert words in str(caught.value)
    assert str(caught.value).endswith(f"Nothing was written: {params} is as it was")
    assert params.read_bytes() == before
    assert list(params.parent.iterdir()) == [params]


@pytest.mark.parametrize("text", [b"seed: [\n", b"- 1\n", b"", b"seed: \xff\n"])
def test_a_file_that_is_no_mapping_is_refused(params: Path, text: bytes) -> None:
    params.write_bytes(text)
    with pytest.raises(ParamsError) as caught:
        apply_overlay(params, read_assignments(["seed=1"]))
    assert str(caught.value).startswith(f"{params}: ")
    assert params.read_bytes() == text


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ParamsError, match="no such file; run from the root of the project"):
        apply_overlay(tmp_path / "params.yaml", read_assignments(["seed=1"]))


def test_a_write_that_is_cut_short_leaves_the_old_file(
    params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = params.read_bytes()
    whole = Path.write_text

    def cut(path: Path, text: str, **options: Any) -> int:
        if path.parent != params.parent:
            return whole(path, text, **options)
        whole(path, text[: len(text) // 2], **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "write_text", cut)
    with pytest.raises(KeyboardInterrupt):
        apply_overlay(params, read_assignments(["seed=7"]))
    assert params.read_bytes() == before


def test_the_new_file_takes_the_place_of_the_old_in_one_step(
    params: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = params.read_bytes()
    rename = Path.replace
    seen: list[tuple[bytes, Any]] = []

    def watched(source: Path, target: Path) -> Path:
        if target == params:
            seen.append((target.read_bytes(), load(source.read_text())))
        return rename(source, target)

    monkeypatch.setattr(Path, "replace", watched)
    apply_overlay(params, read_assignments(["seed=7"]))
    assert seen == [(before, load(params.read_text()))]


def test_a_link_stays_a_link(params: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.yaml"
    link.symlink_to(params)
    apply_overlay(link, read_assignments(["seed=7"]))
    assert link.is_symlink()
    assert load(params.read_text())["seed"] == 7
