"""Presets: values for `params.yaml`, and the edit that writes them into the file.

A preset is merged into the file's sections: keys that it does not name are kept. Lists, single
values, dictionaries with keys of the user's choice (such as `lama.templates`) and each method's
section of `training` are replaced as a whole.
"""

import difflib
import stat
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config import yaml_edit
from pipeline.config.checks import check_params
from pipeline.config.schema import (
    MethodParams,
    Params,
    explain_unknown_key,
    load_params,
    parse_yaml,
    read_yaml,
    section_keys,
)
from pipeline.errors import ParamsError
from pipeline.files import write_text

# Path and value, to be assigned in this order.
Assignments = list[tuple[tuple[str, ...], Any]]


@dataclass(frozen=True)
class Preset:
    """The whole text of a file of the presets folder, and the values that it sets."""

    text: str
    values: Assignments


@dataclass(frozen=True)
class Change:
    """One value that differs, as the file has it and as it will be written; None for no key."""

    path: str
    old: str | None
    new: str | None


def list_presets(folder: Path) -> dict[str, str]:
    """Name -> first line of the file's comment, sorted by name.

    Raises:
        ParamsError: there is no such folder.
    """
    if not folder.is_dir():
        raise ParamsError(f"{folder}: no such folder; run from the root of the project")
    lines = {p.stem: read_yaml(p).partition("\n")[0] for p in sorted(folder.glob("*.yaml"))}
    return {name: line.strip("# ") if line[:1] == "#" else "" for name, line in lines.items()}


def read_preset(folder: Path, name: str) -> Preset:
    """Read a preset by its name.

    Raises:
        ParamsError: there is none of this name, or it is not YAML, or it has an unknown key.
    """
    names = list(list_presets(folder))
    if name not in names:
        close = difflib.get_close_matches(name, names, n=3)
        hint = f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(names)}"
        raise ParamsError(f"{folder} has no preset '{name}'; {hint}")
    path = folder / f"{name}.yaml"
    text = read_yaml(path)
    values = _parse(text, str(path))
    return Preset(text, _flatten(values, Params, str(path), ()))


def read_assignments(assignments: Iterable[str]) -> Assignments:
    """Read assignments of the form `a.b.c=VALUE`, each value in YAML.

    Raises:
        ParamsError: one has another form, or its value is not YAML, or its key is unknown.
    """
    pairs: Assignments = []
    for assignment in assignments:
        where = f"--set {assignment}"
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ParamsError(f"{where}: no value; write a.b.c=VALUE")
        names = tuple(path.strip().split("."))
        annotation: Any = Params
        for place, name in enumerate(names):
            above = ".".join(names[:place])
            keys = section_keys(annotation)
            if keys is None:
                raise ParamsError(f"{where}: {above} is set as a whole; write {above}=VALUE")
            annotation = _known(keys, name, where, names[:place])
        value = _parse(f"value: {text}", where)["value"]
        pairs += _flatten(value, annotation, where, names)
    return pairs


def edit_params(path: Path, values: Assignments) -> tuple[str, list[Change]]:
    """The new text of a parameters file, and what differs; nothing is checked or written.

    Raises:
        ParamsError: the file is missing or not YAML, or it has anchors, so that a value cannot be
            changed without another.
    """
    text = read_yaml(path)
    lines = text.replace("\r\n", "\n")
    before, document = _parse(lines, str(path)), _parse(lines, str(path))
    if yaml_edit.has_anchors(lines):
        raise ParamsError(f"{path} has anchors; write each value out, or edit it by hand")
    for names, value in values:
        yaml_edit.assign(document, names, value)
    changes = list(_changes(before, document, ""))
    edited = yaml_edit.write(document) if changes else lines
    return edited.replace("\n", "\r\n") if "\r\n" in text else edited, changes


def apply_values(path: Path, values: Assignments) -> list[Change]:
    """Edit a parameters file if the result is valid, and return what changed.

    The file is written at once and whole, and only if a value changes; its permissions are kept.

    Raises:
        ParamsError: as `edit_params`, or as `load_params` and `check_params` of the result, or the
            file is read-only; it is unchanged.
    """
    text, changes = edit_params(path, values)
    mode = stat.S_IMODE(path.stat().st_mode)
    if changes and not mode & stat.S_IWUSR:
        raise ParamsError(f"{path}: is read-only; allow writing first: chmod u+w {path}")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        write_text(copy, text)
        try:
            check_params(load_params(copy))
        except ParamsError as error:
            lines = str(error).replace(str(copy), str(path))
            raise ParamsError(f"{lines}\nNothing was written: {path} is unchanged") from error
    if changes:
        write_text(path.resolve(), text, mode=mode)
    return changes


def _flatten(values: Any, annotation: Any, where: str, path: tuple[str, ...]) -> Assignments:
    """Return the assignments of a value, after a check of its keys."""
    keys = section_keys(annotation)
    if keys is None or not isinstance(values, dict):
        return [(path, values)]
    nested: Assignments = []
    for name, value in values.items():
        known = _known(keys, str(name), where, path)
        nested += _flatten(value, known, where, (*path, str(name)))
    return [(path, values)] if annotation is MethodParams else nested


def _known(keys: dict[str, Any], name: str, where: str, path: tuple[str, ...]) -> Any:
    if name not in keys:
        dotted = ".".join((*path, name))
        raise ParamsError(f"{where}: {dotted}: {explain_unknown_key(name, keys)}")
    return keys[name]


def _parse(text: str, where: str) -> Any:
    values = parse_yaml(text, yaml_edit.parse, where)
    if not isinstance(values, dict):
        raise ParamsError(f"{where}: holds no keys; write `key: value` lines as in params.yaml")
    return values


def _changes(old: Any, new: Any, prefix: str) -> Iterator[Change]:
    """Yield the differences between two mappings, in the order of the second."""
    for name in {**new, **old}:
        path, before, after = f"{prefix}{name}", old.get(name), new.get(name)
        if isinstance(before, dict) and isinstance(after, dict) and before and after:
            yield from _changes(before, after, f"{path}.")
        elif (name in old) != (name in new) or not yaml_edit.same(before, after):
            shown = [yaml_edit.one_line(v[name]) if name in v else None for v in (old, new)]
            yield Change(path, *shown)
