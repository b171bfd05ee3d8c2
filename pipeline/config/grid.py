"""The settings under which a SuperGLUE method is trained on a task: one, or those to choose from.

A setting is a method's section of `params.yaml` with the values that `superglue.grid` gives the
method and `superglue.overrides` the task. A list of values is an axis of a grid.
"""

import copy
import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from pipeline.config.insertion import insert_prompt_tokens
from pipeline.config.schema import MethodParams, SuperGlueMethod, SuperGlueParams
from pipeline.errors import ParamsError, PipelineError
from pipeline.prompts.template import Template
from pipeline.tasks import Task, get_task, task_template, task_verbalizer

# Whatever else a grid may name is a key of the method's training.
_OF_THE_PROMPT = ("template", "verbalizer", "max_length")


@dataclass(frozen=True)
class Setting:
    """How one method is trained on one task.

    Attributes:
        number: its place in the grid, from 1.
        tried: path -> value, of what differs between the settings; empty where there is one.
        template: as parsed.
        verbalizer: label -> word; None for a classifier and where examples have their own answers.
        max_length: most positions of a row.
        training: the method's section, with the values of this setting.
    """

    number: int
    tried: dict[str, Any]
    template: Template
    verbalizer: dict[str, str] | None
    max_length: int
    training: MethodParams


def task_settings(
    params: SuperGlueParams, task: str, method: SuperGlueMethod, *, masked: bool
) -> list[Setting]:
    """Return the settings of a method on a task, in the order of the grid.

    Args:
        params: the section `superglue`; it has the method's training and the task's prompts.
        task: its name.
        method: its name.
        masked: whether the language model is; in a causal one no prompt token follows the mask.

    Raises:
        ParamsError: a path that the method has not, a value that does not suit it, a template or
            verbalizer that does not suit the task; the text begins with where that stands.
    """
    kind, prompts = get_task(task), params.prompts[task]
    training = {
        key: value
        for key, value in params.training[method].model_dump().items()
        if value is not None
    }
    grid, overrides = params.grid.get(method, {}), params.overrides.get(task, {}).get(method, {})
    axes: dict[str, list[Any]] = {
        "template": [prompts.templates[method]],
        "verbalizer": [prompts.verbalizer],
        "max_length": [prompts.max_length],
    }
    where = {
        "template": f"prompts.{task}.templates.{method}",
        "verbalizer": f"prompts.{task}.verbalizer",
        "max_length": f"prompts.{task}.max_length",
    }
    for given, place in ((grid, f"grid.{method}"), (overrides, f"overrides.{task}.{method}")):
        for path, value in given.items():
            where[path] = f"{place}.{path}"
            axes[path] = value if isinstance(value, list) else [value]
            with _at(where[path]):
                _check_axis(training, path, axes[path])
    with _at(where["template"]):
        axes["template"] = [
            template
            for wanted in axes["template"]
            for template in _templates(kind, wanted, method, masked=masked)
        ]
        for template in axes["template"]:
            try:
                check_prompt_tokens(template.prompt_tokens, tuned="prompt" in training["tune"])
            except ParamsError as error:
                raise ParamsError(f"{template.source}: {error}") from error
    with _at(where["verbalizer"]):
        axes["verbalizer"] = [_verbalizer(kind, wanted, method) for wanted in axes["verbalizer"]]
    with _at(where["max_length"]):
        for value in axes["max_length"]:
            _check_length(value)
    several = [path for path, values in axes.items() if len(values) > 1]
    settings = []
    for number, values in enumerate(itertools.product(*axes.values()), 1):
        chosen = dict(zip(axes, values, strict=True))
        own = {path: value for path, value in chosen.items() if path not in _OF_THE_PROMPT}
        settings.append(
            Setting(
                number=number,
                tried={path: _shown(chosen[path]) for path in several},
                template=chosen["template"],
                verbalizer=chosen["verbalizer"],
                max_length=chosen["max_length"],
                training=_training(training, own, where, f"training.{method}"),
            )
        )
    return settings


def check_prompt_tokens(count: int, *, tuned: bool) -> None:
    """Check that a template has prompt tokens where, and only where, they are trained.

    Raises:
        ParamsError: it has not.
    """
    if tuned and not count:
        raise ParamsError("no [P] in the template, but this method trains prompt tokens")
    if count and not tuned:
        raise ParamsError("[P] in the template, but tune of this method does not name prompt")


def _templates(task: Task, wanted: Any, method: str, *, masked: bool) -> list[Template]:
    """Return the template of this name or text, or all that a search makes of a pattern."""
    classifier = method == "classifier"
    if isinstance(wanted, str):
        return [task_template(task, wanted, classifier=classifier)]
    if not isinstance(wanted, Mapping) or set(wanted) != {"insert_into", "tokens"}:
        raise ParamsError(
            f"{wanted!r}: write a pattern's name, a template, or "
            "{insert_into: pattern, tokens: [1, 2]}"
        )
    pattern, tokens = wanted["insert_into"], wanted["tokens"]
    counts = tokens if isinstance(tokens, list) else [tokens]
    if not counts or not all(type(count) is int and count > 0 for count in counts):
        raise ParamsError(f"tokens: {tokens!r}: write one or more numbers of prompt tokens")
    parsed = task_template(task, str(pattern), classifier=classifier)
    if parsed.prompt_tokens:
        raise ParamsError(f"insert_into: '{pattern}' has prompt tokens already; name another")
    return [
        task_template(task, text, classifier=classifier)
        for count in counts
        for text in insert_prompt_tokens(parsed.source, count, behind_mask=masked)
    ]


def _verbalizer(task: Task, wanted: Any, method: str) -> dict[str, str] | None:
    if method == "classifier":
        return None
    if wanted is not None and not isinstance(wanted, str | Mapping):
        raise ParamsError(f"{wanted!r}: write a name or {{label: word}}")
    return task_verbalizer(task, wanted)


def _check_length(value: Any) -> None:
    if type(value) is not int or value < 8:
        raise ParamsError(f"{value!r}: write a whole number of 8 or more")


def _check_axis(training: Mapping[str, Any], path: str, values: list[Any]) -> None:
    """Refuse a path that names no single value of the method, and a path without values."""
    if not values:
        raise ParamsError("an empty list; write one or more values")
    if path in _OF_THE_PROMPT:
        return
    known = list(_leaves(training))
    if path not in known:
        raise ParamsError(f"no value of this method; choose from {', '.join(known)}")


def _leaves(training: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the paths that a grid may name."""
    yield from _OF_THE_PROMPT if not prefix else ()
    for key, value in training.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key != "tune":
            yield f"{prefix}{key}"


def _training(
    training: Mapping[str, Any], own: Mapping[str, Any], where: Mapping[str, str], method: str
) -> MethodParams:
    """Return the method's training with the values of one setting."""
    values = copy.deepcopy(dict(training))
    for path, value in own.items():
        *sections, key = path.split(".")
        section = values
        for name in sections:
            section = section[name]
        section[key] = value
    try:
        return MethodParams.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        with _at(where.get(path, method)):
            raise ParamsError(f"{first['msg']} (found {first['input']!r})") from None


def _shown(value: Any) -> Any:
    return value.source if isinstance(value, Template) else value


@contextmanager
def _at(place: str) -> Iterator[None]:
    """Put in front of an error the place in `params.yaml` that gave the value."""
    try:
        yield
    except PipelineError as error:
        raise ParamsError(f"superglue.{place}: {error}") from error
