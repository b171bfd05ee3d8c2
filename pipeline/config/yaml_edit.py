"""Edit values of a YAML document and keep its comments, order, quotes and line ends."""

import io
import json
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import CommentMark
from ruamel.yaml.events import AliasEvent
from ruamel.yaml.representer import RoundTripRepresenter
from ruamel.yaml.scalarfloat import ScalarFloat
from ruamel.yaml.tokens import CommentToken


class Block(dict[str, Any]):
    """A mapping that is written with a key on each line, not in flow style."""


class _Representer(RoundTripRepresenter):
    """Writes null as `null`, and every digit of a float; ruamel.yaml omits both."""

    def represent_none(self, data: None) -> Any:  # noqa: ARG002
        return self.represent_scalar("tag:yaml.org,2002:null", "null")

    def represent_scalar_float(self, data: Any) -> Any:
        node = super().represent_scalar_float(data)
        exact = float(node.value.replace("_", "")) == float(data)
        return node if exact else self.represent_float(float(data))


_Representer.add_representer(type(None), _Representer.represent_none)
_Representer.add_representer(ScalarFloat, _Representer.represent_scalar_float)


def parse(text: str) -> Any:
    """The document, with its comments.

    Raises:
        YAMLError: it is not YAML.
    """
    return _yaml().load(text)


def has_anchors(text: str) -> bool:
    """Whether a change of one value would change another."""
    return any(isinstance(event, AliasEvent) for event in _yaml().parse(text))


def write(document: Any) -> str:
    """The text of a document; lines of unchanged values are as they were."""
    stream = io.StringIO()
    _yaml().dump(document, stream)
    return stream.getvalue()


def one_line(value: Any) -> str:
    """A value in one line, in flow style."""
    return write({"k": _flow(value)}).removeprefix("k: ").removesuffix("\n")


def assign(mapping: CommentedMap, path: tuple[str, ...], value: Any) -> None:
    """Set the value at a path; missing mappings on the way are added.

    A mapping or list is changed in place, so that comments on what stays are kept.
    """
    first, *rest = path
    section = mapping.get(first)
    if not rest:
        _set(mapping, first, value)
    elif isinstance(section, CommentedMap) and section:
        assign(section, tuple(rest), value)
    else:
        kind = Block if isinstance(value, Block) else dict
        for name in reversed(rest):
            value = kind({name: value})
        _set(mapping, first, value)


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal; 1, 1.0 and true are different, 1e-4 and 0.0001 are not."""
    first, second = (json.dumps(value, default=repr) for value in (one, other))
    return first == second


def _set(mapping: CommentedMap, key: str, value: Any) -> None:
    old = mapping.get(key)
    if key in mapping and same(old, value):
        return
    if isinstance(old, CommentedMap) and old and isinstance(value, dict) and value:
        for name in [name for name in old if name not in value]:
            _delete(old, name)
        for name, item in value.items():
            _set(old, name, item)
    elif isinstance(old, CommentedSeq) and old.fa.flow_style() and isinstance(value, list):
        old[:] = [_flow(item) for item in value]
    else:
        # A new key comes last, before the lines that follow the mapping.
        last = key if key in mapping else next(reversed(mapping), None)
        tail = _take_tail(mapping, last) if last is not None else ""
        mapping[key] = _flow(value)
        _give_tail(mapping, key, tail)


def _delete(mapping: CommentedMap, key: str) -> None:
    keys = list(mapping)
    place = keys.index(key)
    tail = _take_tail(mapping, key)
    del mapping[key]
    if place:
        _give_tail(mapping, keys[place - 1], tail)


def _flow(value: Any) -> Any:
    """A copy in flow style, but for `Block`, without comments."""
    copy: Any = value
    if isinstance(value, Block):
        return CommentedMap((key, _flow(item)) for key, item in value.items())
    if isinstance(value, dict):
        copy = CommentedMap((key, _flow(item)) for key, item in value.items())
    elif isinstance(value, list):
        copy = CommentedSeq(map(_flow, value))
    if copy is not value:
        copy.fa.set_flow_style()
    return copy


def _holder(container: Any, key: Any) -> tuple[Any, Any]:
    """The container and key of the last value within an entry: ruamel keeps its comment there."""
    value = container[key]
    while isinstance(value, CommentedMap | CommentedSeq) and value and not value.fa.flow_style():
        container = value
        key = next(reversed(value)) if isinstance(value, CommentedMap) else len(value) - 1
        value = container[key]
    return container, key


def _take_tail(container: Any, key: Any) -> str:
    """Remove the lines of comments and the empty lines after an entry, and return them."""
    container, key = _holder(container, key)
    slots = container.ca.items.get(key)
    index = 2 if isinstance(container, CommentedMap) else 0
    token = slots[index] if slots else None
    if token is None:
        return ""
    first, newline, rest = token.value.partition("\n")
    token.value = first + newline
    return str(rest)


def _give_tail(container: Any, key: Any, tail: str) -> None:
    if not tail:
        return
    container, key = _holder(container, key)
    index = 2 if isinstance(container, CommentedMap) else 0
    slots = container.ca.items.setdefault(key, [None, None, None, None][: index + 2])
    if slots[index] is None:
        slots[index] = CommentToken("\n", CommentMark(0), None)
    slots[index].value += tail


def _yaml() -> YAML:
    yaml = YAML()
    yaml.Representer = _Representer
    yaml.preserve_quotes = True
    yaml.width = 4096
    return yaml
