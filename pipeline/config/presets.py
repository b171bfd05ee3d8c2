"""Presets: overlays of `params.yaml`, and the edit that puts their values into the file.

Where the file has a section, whose keys the types of `pipeline.config.schema` name, an overlay's
mapping is merged into it. Any other value is replaced: lists, single values, and dictionaries with
keys of the user's own, such as `lama.templates`.

The file is edited in place: only the text of changed values is exchanged. Loading and dumping it
would lose the comments behind a list that is replaced, and change the style of the rest.
"""

import difflib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeAlias, Union, get_args, get_origin

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from ruamel.yaml.nodes import MappingNode, ScalarNode, SequenceNode

from pipeline.config.checks import check_params
from pipeline.config.schema import Params, Section, load_params
from pipeline.errors import ParamsError
from pipeline.files import write_text


@dataclass(frozen=True)
class Setting:
    """A value that replaces another: as it is loaded, and as it is written in one line."""

    value: Any
    text: str


# Sections within sections, down to settings.
Overlay: TypeAlias = dict[str, "Overlay | Setting"]


@dataclass(frozen=True)
class Preset:
    """A file of the presets folder.

    Attributes:
        name: the file's, without its suffix.
        text: all of the file.
        overlay: what it sets.
    """

    name: str
    text: str
    overlay: Overlay


@dataclass(frozen=True)
class Change:
    """One value that an overlay changes.

    Attributes:
        path: dotted.
        old: as the file has it; None where it has no such key.
        new: as it will be written.
    """

    path: str
    old: str | None
    new: str


@dataclass(frozen=True)
class Edited:
    """What a parameters file becomes, and where that differs."""

    text: str
    changes: list[Change]


@dataclass(frozen=True)
class _Edit:
    """A piece of the text, from start to end, and what takes its place."""

    start: int
    end: int
    text: str
    changes: list[Change]


def list_presets(folder: Path) -> dict[str, str]:
    """Return name -> first line of the file's comment, by name.

    Raises:
        ParamsError: there is no such folder.
    """
    if not folder.is_dir():
        raise ParamsError(f"{folder}: no such folder; run from the root of the project")
    first = {path.stem: _read(path).partition("\n")[0] for path in sorted(folder.glob("*.yaml"))}
    return {
        name: line.removeprefix("#").strip() if line.startswith("#") else ""
        for name, line in first.items()
    }


def read_preset(folder: Path, name: str) -> Preset:
    """Read a preset by its name.

    Raises:
        ParamsError: there is none of this name, or it is not YAML, or it has an unknown key.
    """
    known = list_presets(folder)
    if name not in known:
        raise ParamsError(f"{folder} has no preset '{name}'; {_hint(name, known, 'it has')}")
    path = folder / f"{name}.yaml"
    text = _read(path)
    node, _ = _parse(text, str(path))
    return Preset(name, text, _overlay(text, node, Params, str(path), ""))


def read_assignments(assignments: Iterable[str]) -> Overlay:
    """Read assignments of the form `a.b.c=VALUE`, each value in YAML; later ones win.

    Raises:
        ParamsError: one has another form, or its value is not YAML, or its key is unknown.
    """
    overlay: Overlay = {}
    for assignment in assignments:
        overlay = merge_overlays(overlay, _read_assignment(assignment))
    return overlay


def merge_overlays(base: Overlay, over: Overlay) -> Overlay:
    """Return what both set; where they differ, what the second sets."""
    merged = dict(base)
    for name, new in over.items():
        old = merged.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            new = merge_overlays(old, new)
        merged[name] = new
    return merged


def edit_params(path: Path, overlay: Overlay) -> Edited:
    """Return what a parameters file becomes under an overlay; nothing is checked or written.

    Raises:
        ParamsError: the file is missing or not YAML, or its values stand in a form in which they
            cannot be changed one by one.
    """
    text = _read(path)
    node, values = _parse(text, str(path))
    edits = sorted(_edits(text, node, overlay, ""), key=lambda edit: edit.start)
    edited = ""
    end = 0
    for edit in edits:
        edited += text[end : edit.start] + edit.text
        end = max(end, edit.end)
    edited += text[end:]
    if not _holds(edited, _merged(values, overlay)):
        paths = ", ".join(change.path for edit in edits for change in edit.changes)
        raise ParamsError(
            f"{path} is written in a form, such as with anchors, in which these values cannot be "
            f"changed one by one: {paths}. Write each value out, or change them by hand"
        )
    return Edited(edited, [change for edit in edits for change in edit.changes])


def apply_overlay(path: Path, overlay: Overlay) -> list[Change]:
    """Edit a parameters file if the result is valid, and return what was changed.

    The file is written at once and whole, and only if a value changes.

    Raises:
        ParamsError: as `edit_params`, or as `load_params` and `check_params` of the result; the
            file is as it was.
    """
    edited = edit_params(path, overlay)
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        write_text(copy, edited.text)
        try:
            check_params(load_params(copy))
        except ParamsError as error:
            lines = str(error).replace(str(copy), str(path))
            raise ParamsError(f"{lines}\nNothing was written: {path} is as it was") from error
    if edited.changes:
        write_text(path.resolve(), edited.text)
    return edited.changes


def _read_assignment(assignment: str) -> Overlay:
    where = f"--set {assignment}"
    path, equals, text = assignment.partition("=")
    if not equals:
        raise ParamsError(f"{where}: no value; write a.b.c=VALUE")
    names = path.strip().split(".")
    annotation: Any = Params
    for at, name in enumerate(names):
        keys = _fixed_keys(annotation)
        above = ".".join(names[:at])
        if keys is None:
            raise ParamsError(f"{where}: {above} is set as a whole; write {above}=VALUE")
        if name not in keys:
            raise ParamsError(f"{where}: {_unknown(above, name, keys)}")
        annotation = keys[name]
    try:
        node = _yaml().compose(text)
        if node is None:
            text = "null"
            node = _yaml().compose(text)
        _value(node)
    except YAMLError as error:
        raise ParamsError(f"{where}: not YAML: {_in_one_line(error)}") from error
    new = _overlay_or_setting(text, node, annotation, where, ".".join(names))
    for name in reversed(names):
        new = {name: new}
    assert isinstance(new, dict)
    return new


def _overlay(text: str, node: Any, annotation: Any, where: str, path: str) -> Overlay:
    """Return what a mapping sets, after a look at its keys."""
    keys = _fixed_keys(annotation) or {}
    overlay: Overlay = {}
    for key, child in node.value:
        name = str(key.value)
        if name not in keys:
            raise ParamsError(f"{where}: {_unknown(path, name, keys)}")
        below = f"{path}.{name}".lstrip(".")
        overlay[name] = _overlay_or_setting(text, child, keys[name], where, below)
    return overlay


def _overlay_or_setting(
    text: str, node: Any, annotation: Any, where: str, path: str
) -> Overlay | Setting:
    if isinstance(node, MappingNode) and _fixed_keys(annotation) is not None:
        return _overlay(text, node, annotation, where, path)
    return Setting(_value(node), _written(text, node))


def _fixed_keys(annotation: Any) -> Mapping[str, Any] | None:
    """Return key -> type where a mapping may have certain keys alone; None for all else."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    if origin is dict and get_origin(arguments[0]) is Literal:
        return dict.fromkeys(get_args(arguments[0]), arguments[1])
    if origin is Annotated:
        return _fixed_keys(arguments[0])
    if origin in (Union, UnionType):
        found = (_fixed_keys(a) for a in arguments if a is not NoneType)
        return next((keys for keys in found if keys is not None), None)
    return None


def _edits(text: str, node: Any, overlay: Overlay, prefix: str) -> Iterator[_Edit]:
    """Yield what changes in the text of a mapping."""
    own = {str(key.value): (key, child) for key, child in node.value}
    added: dict[str, str] = {}
    for name, new in overlay.items():
        key, child = own.get(name, (None, None))
        if isinstance(new, dict) and isinstance(child, MappingNode):
            yield from _edits(text, child, new, f"{prefix}{name}.")
        elif new == {}:
            continue
        elif child is None:
            added[name] = _one_line(new)
        elif isinstance(new, dict) or not _same(_value(child), new.value):
            change = Change(f"{prefix}{name}", _written(text, child), _one_line(new))
            yield _replacement(text, key, child, change)
    if added:
        changes = [Change(f"{prefix}{name}", None, new) for name, new in added.items()]
        yield _insertion(text, node, added, changes)


def _replacement(text: str, key: Any, child: Any, change: Change) -> _Edit:
    """Replace a value; an end comment keeps its column where there is room."""
    start, end, new = child.start_mark.index, _end(text, key, child), change.new
    if end <= _colon(text, key):
        # No value at all stands for null.
        start, new = end, f" {new}"
    elif not isinstance(child, ScalarNode) and not child.flow_style:
        # Lines of a block: the new value stands behind the key, the lines go.
        behind = _colon(text, key)
        spaces, comment = _padding(text, behind, behind, f" {new}")
        above = text[comment : text.rfind("\n", 0, start)].removesuffix("\r")
        rest = _line_end(text, end)
        return _Edit(behind, rest, f" {new}{spaces}{above}", [change])
    spaces, comment = _padding(text, start, end, new)
    return _Edit(start, comment, f"{new}{spaces}", [change])


def _padding(text: str, start: int, end: int, new: str) -> tuple[str, int]:
    """Return the spaces in front of an end comment, and where it begins; or none, and `end`.

    Args:
        text: the file.
        start: of the old value.
        end: of the old value.
        new: what takes its place.
    """
    found = re.compile(r"[ \t]+(?=#)").match(text, end)
    if found is None:
        return "", end
    # A value of several lines has its comment in the last of them.
    moved = len(new) - (end - start) if "\n" not in text[start:end] else 0
    room = len(found[0]) - moved
    return " " * (room if room >= min(2, len(found[0])) else 2), found.end()


def _insertion(text: str, node: Any, added: Mapping[str, str], changes: list[Change]) -> _Edit:
    """Put new keys behind the last one of a mapping."""
    entries = [f"{name}: {new}" for name, new in added.items()]
    if not node.value:
        start = node.start_mark.index + 1
        return _Edit(start, start, ", ".join(entries), changes)
    key, child = node.value[-1]
    end = _end(text, key, child)
    if node.flow_style:
        return _Edit(end, end, "".join(f", {entry}" for entry in entries), changes)
    end = _line_end(text, end)
    newline = "\r\n" if "\r\n" in text else "\n"
    indent = " " * node.value[0][0].start_mark.column
    return _Edit(end, end, "".join(f"{newline}{indent}{entry}" for entry in entries), changes)


def _end(text: str, key: Any, node: Any) -> int:
    """Return where the text of a value ends, without the comments and empty lines behind it."""
    start, end = int(node.start_mark.index), int(node.end_mark.index)
    if start == end:
        # The parser looks for a value as far as the next key.
        return _colon(text, key) if key is not None else start
    if isinstance(node, ScalarNode) or node.flow_style:
        return start + len(text[start:end].rstrip())
    last = (None, node.value[-1]) if isinstance(node, SequenceNode) else node.value[-1]
    return _end(text, *last)


def _colon(text: str, key: Any) -> int:
    """Return where the colon behind a key ends."""
    return text.find(":", key.end_mark.index) + 1


def _line_end(text: str, index: int) -> int:
    found = re.compile(r"[^\r\n]*").match(text, index)
    return found.end() if found else index


def _written(text: str, node: Any) -> str:
    """Return a value of a file in one line that means the same anywhere; in its own style."""
    if isinstance(node, SequenceNode):
        return f"[{', '.join(_written(text, item) for item in node.value)}]"
    if isinstance(node, MappingNode):
        items = (f"{_written(text, key)}: {_written(text, child)}" for key, child in node.value)
        return f"{{{', '.join(items)}}}"
    own = text[node.start_mark.index : node.end_mark.index]
    value = _value(node)
    if not own.startswith("&") and "\n" not in own and _holds(f"{{k: [{own}]}}", {"k": [value]}):
        return own
    return json.dumps(value, ensure_ascii=False, default=str)


def _one_line(new: Overlay | Setting) -> str:
    if isinstance(new, Setting):
        return new.text
    return f"{{{', '.join(f'{name}: {_one_line(value)}' for name, value in new.items())}}}"


def _merged(values: Any, overlay: Overlay) -> dict[Any, Any]:
    """Return loaded values under an overlay."""
    merged = dict(values) if isinstance(values, dict) else {}
    for name, new in overlay.items():
        if isinstance(new, Setting):
            merged[name] = new.value
        elif new:
            merged[name] = _merged(merged.get(name), new)
    return merged


def _holds(text: str, expected: Any) -> bool:
    try:
        return _same(_yaml().load(text), expected)
    except YAMLError:
        return False


def _same(one: Any, other: Any) -> bool:
    """Return whether two loaded values are the same, 1 and 1.0 and true told apart."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_same, one, other))
    return repr(one) == repr(other)


def _yaml() -> Any:
    # As in pipeline.config.schema, and in DVC.
    return YAML(typ="safe", pure=True)


def _value(node: Any) -> Any:
    return _yaml().constructor.construct_document(node)


def _read(path: Path) -> str:
    try:
        # As bytes, so that the ends of its lines stay.
        return path.read_bytes().decode("utf-8")
    except FileNotFoundError as error:
        raise ParamsError(f"{path}: no such file; run from the root of the project") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error


def _parse(text: str, where: str) -> tuple[Any, dict[Any, Any]]:
    """Return the root node of a mapping, and its values."""
    try:
        node, values = _yaml().compose(text), _yaml().load(text)
    except YAMLError as error:
        raise ParamsError(f"{where}: not YAML: {_in_one_line(error)}") from error
    if not isinstance(values, dict):
        raise ParamsError(f"{where}: holds no keys; write `key: value` lines as in params.yaml")
    return node, values


def _unknown(path: str, name: str, keys: Iterable[str]) -> str:
    return f"{path}.{name}".lstrip(".") + f": unknown key; {_hint(name, keys, 'known keys:')}"


def _hint(name: str, known: Iterable[str], all_of_them: str) -> str:
    names = list(known)
    close = difflib.get_close_matches(name, names, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"{all_of_them} {', '.join(names)}"


def _in_one_line(error: Exception) -> str:
    return " ".join(str(error).split())
