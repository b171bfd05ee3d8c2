"""The settings of a method on a task: one, or those that dev chooses from.

A setting is a method's section of `params.yaml` with the values that the benchmark's `grid` gives
the method and its `overrides` the task. A list of values is an axis of the grid.
"""

import copy
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from pydantic import ValidationError

from pipeline.config.schema import (
    LENGTHS,
    Grid,
    LamaMethod,
    LamaParams,
    MethodParams,
    Params,
    SuperGlueMethod,
    SuperGlueParams,
    TaskPrompts,
)
from pipeline.errors import ParamsError, PipelineError
from pipeline.prompts.template import Template
from pipeline.tasks import Task, get_task, task_template, task_verbalizer
from pipeline.tasks.lama import apply_layout

# Each setting is at least one training.
_MOST_SETTINGS = 1000

# White space that is not within a slot.
_GAP = re.compile(r"\s+(?=\S)(?![^{]*\})")


@dataclass(frozen=True)
class TrialConfig:
    """How one method is trained on one task: the setting of a trial.

    Attributes:
        number: position in the grid, from 1.
        tried: path -> value, of what differs between the settings; empty if there is only one.
        template: for LAMA, the layout applied to the relation's manual template.
        verbalizer: label -> word; None for LAMA, for a classifier, and where examples have their
            own answers.
        max_length: largest number of tokens of a prompt; None for LAMA.
        training: the method's section, with the values of this setting.
        by_split: split -> template, where each split has its own; `template` is the first.
    """

    number: int
    tried: dict[str, Any]
    template: Template
    verbalizer: dict[str, str] | None
    max_length: int | None
    training: MethodParams
    by_split: Mapping[int, Template] = field(default_factory=dict)

    def for_split(self, split: int) -> "TrialConfig":
        """The setting with the template of a split.

        Raises:
            ParamsError: the others have their own templates, this one has none.
        """
        if not self.by_split:
            return self
        if split not in self.by_split:
            known = ", ".join(f"split-{number}" for number in self.by_split)
            raise ParamsError(
                f"template: none for split-{split}, but for {known}; write one for each split"
            )
        return replace(self, template=self.by_split[split], by_split={})


# Part of a prompt -> its value, the key of `params.yaml` that gives it, and a reader: a
# value of `params.yaml` -> the values of the axis that it describes.
_Prompt = dict[str, tuple[Any, str, Callable[[Any], list[Any]]]]


def lama_configs(
    params: LamaParams,
    relation: str,
    method: LamaMethod,
    manual: Template,
    *,
    masked: bool,
    grid: bool = True,
) -> list[TrialConfig]:
    """Settings of a method on a relation of LAMA, in the order of the grid.

    Layouts are applied to the relation's manual template. `masked`: the language model is masked,
    not causal. Without `grid`, neither `grid` nor `overrides` is read, and there is one setting.

    Raises:
        ParamsError: an unknown path, or an invalid value or layout; the text begins with its key.
    """
    parse = partial(apply_layout, manual=manual, masked=masked)
    trained = "prompt" in params.training[method].tune or method == "discrete"
    templates = partial(_read_templates, parse=parse, trained=trained, masked=masked)
    layout = params.prompts[method], f"lama.prompts.{method}", templates
    tried: dict[str, Grid] = {}
    if grid:  # else neither is read, so that a stage need not depend on them
        overrides = params.overrides.get(relation, {}).get(method, {})
        tried[f"lama.grid.{method}"] = params.grid.get(method, {})
        tried[f"lama.overrides.{relation}.{method}"] = overrides
    place = f"lama.training.{method}"
    return _configs(params.training[method], place, {"template": layout}, tried)


def superglue_configs(
    params: SuperGlueParams, task: str, method: SuperGlueMethod, *, masked: bool, grid: bool = True
) -> list[TrialConfig]:
    """Settings of a method on a task of SuperGLUE, in the order of the grid.

    `masked`: the language model is masked; in a causal one no prompt token follows the mask.
    Without `grid`, it is not read: it need not fit a task that is not run.

    Raises:
        ParamsError: an unknown path, or an invalid value, template or verbalizer; the text begins
            with its key.
    """
    overrides = params.overrides.get(task, {})
    places = f"superglue.prompts.{task}", f"superglue.overrides.{task}"
    sections = params.prompts[task], overrides
    tried = params.grid.get(method, {}) if grid else {}
    return _task_configs(params, get_task(task), method, sections, places, tried, masked=masked)


def own_configs(
    params: Params, task: Task, method: SuperGlueMethod, *, masked: bool
) -> list[TrialConfig]:
    """Settings of a method on a task of the user; see `superglue_configs`."""
    own, place = params.tasks[task.name], f"tasks.{task.name}"
    places = f"{place}.prompts", f"{place}.overrides"
    sections = own.prompts, own.overrides
    tried = params.superglue.grid.get(method, {})
    return _task_configs(params.superglue, task, method, sections, places, tried, masked=masked)


def _task_configs(
    params: SuperGlueParams,
    task: Task,
    method: SuperGlueMethod,
    sections: tuple[TaskPrompts, Mapping[str, dict[str, Any]]],
    places: tuple[str, str],
    grid: Grid,
    *,
    masked: bool,
) -> list[TrialConfig]:
    """Settings on a task with these prompts and overrides, which are at these places."""
    (prompts, all_overrides), (place, overrides_place) = sections, places
    overrides = all_overrides.get(method, {})
    classifier = method == "classifier"
    parse = partial(task_template, task, classifier=classifier)
    trained = "prompt" in params.training[method].tune
    templates = partial(_read_templates, parse=parse, trained=trained, masked=masked)
    verbalizers = partial(_read_verbalizer, task, classifier=classifier)
    prompt: _Prompt = {
        "template": (prompts.templates[method], f"{place}.templates.{method}", templates),
        "verbalizer": (prompts.verbalizer, f"{place}.verbalizer", verbalizers),
        "max_length": (prompts.max_length, f"{place}.max_length", _read_length),
    }
    for name in (grid.keys() & prompt.keys()) - overrides.keys():  # all tasks share this place
        value, where, read = prompt[name]
        prompt[name] = value, where, partial(_read_for, task.name, read)
    tried = {f"superglue.grid.{method}": grid, f"{overrides_place}.{method}": overrides}
    return _configs(params.training[method], f"superglue.training.{method}", prompt, tried)


def _read_for(task: str, read: Callable[[Any], list[Any]], value: Any) -> list[Any]:
    """Read a value; an error names the task."""
    try:
        return read(value)
    except PipelineError as error:
        raise ParamsError(f"{task}: {error}") from error


def insert_prompt_tokens(pattern: str, count: int, *, after_mask: bool) -> list[str]:
    """Copies of a pattern, each with all prompt tokens at one of its places, the first place first.

    The places are the start, the gaps between words and slots, and the end; not within a word, and
    not within a field, whose text differs from example to example. With `after_mask`, places after
    the mask count too; a causal model has none there.

    Source: P-tuning v2, Table 7 and its text: number and place of the prompt tokens are searched.
    """
    tokens = "[P]" if count == 1 else f"[P*{count}]"
    last = len(pattern) if after_mask or "{mask}" not in pattern else pattern.index("{mask}")
    places = [0, *(match.end() for match in _GAP.finditer(pattern) if match.end() <= last)]
    candidates = [f"{pattern[:place]}{tokens} {pattern[place:]}" for place in places]
    return candidates + ([f"{pattern} {tokens}"] if last == len(pattern) else [])


def _configs(
    training_params: MethodParams, place: str, prompt: _Prompt, tried: Mapping[str, Grid]
) -> list[TrialConfig]:
    """The product of all axes; those of the prompt come first.

    `place` is the key of the method's section, and `tried` is key -> path -> value, or values.
    """
    absent = [name for name in ("prompt", "model", "search") if not getattr(training_params, name)]
    training = training_params.model_dump(exclude=set(absent))
    # Path -> values to try, and the key of `params.yaml` that lists them.
    axes = {name: [value] for name, (value, _, _) in prompt.items()}
    places = {name: where for name, (_, where, _) in prompt.items()}
    known = [*prompt, *_leaves(training)]
    for section, values in tried.items():
        for path, value in values.items():
            where = places[path] = f"{section}.{path}"
            if value == []:
                raise ParamsError(f"{where}: empty list; write one or more values")
            values_tried = value if isinstance(value, list) else [value]
            if any(one in values_tried[:n] for n, one in enumerate(values_tried[:_MOST_SETTINGS])):
                raise ParamsError(f"{where}: a value appears twice")
            if path not in known:
                valid = ", ".join(known)
                raise ParamsError(f"{where}: unknown key for this method; valid keys: {valid}")
            axes[path] = values_tried
    for name, (_, _, read) in prompt.items():
        try:
            axes[name] = [item for value in axes[name] for item in read(value)]
        except PipelineError as error:
            raise ParamsError(f"{places[name]}: {error}") from error
    count = math.prod(map(len, axes.values()))
    if count > _MOST_SETTINGS:
        raise ParamsError(
            f"{' and '.join(where for where, values in tried.items() if values)}: {count} settings "
            f"of a method, more than {_MOST_SETTINGS}; try fewer values"
        )
    configs = []
    for number, point in enumerate(itertools.product(*axes.values()), 1):
        setting = dict(zip(axes, point, strict=True))
        differing = {
            path: value.source if isinstance(value, Template) else value
            for path, value in setting.items()
            if len(axes[path]) > 1 and not isinstance(value, _SplitTemplates)
        }
        template = setting["template"]
        by_split = template if isinstance(template, _SplitTemplates) else {}
        values = {path: value for path, value in setting.items() if path not in prompt}
        configs.append(
            TrialConfig(
                number=number,
                tried=differing,
                template=next(iter(by_split.values()), template),
                verbalizer=setting.get("verbalizer"),
                max_length=setting.get("max_length"),
                training=_replaced(training, values, places, place),
                by_split=by_split,
            )
        )
    return configs


def _leaves(training: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the paths of a method's section that a grid may name."""
    for key, value in training.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        elif key != "tune":
            yield f"{prefix}{key}"


class _SplitTemplates(dict[int, Template]):
    """Split -> template: one value of the axis `template`."""


_SPLIT = re.compile(r"split-(\d+)")


def _read_templates(
    value: Any, *, parse: Callable[[str], Template], trained: bool, masked: bool
) -> list[Any]:
    """The template of this name or text, all that a search makes, or those of the splits."""
    if isinstance(value, str):
        templates = [parse(value)]
    elif isinstance(value, Mapping) and value and all(_SPLIT.fullmatch(str(n)) for n in value):
        read = partial(_read_templates, parse=parse, trained=trained, masked=masked)
        return [_SplitTemplates({int(str(n)[6:]): read(str(t))[0] for n, t in value.items()})]
    elif isinstance(value, Mapping) and set(value) == {"insert_into", "tokens"}:
        pattern, tokens = value["insert_into"], value["tokens"]
        counts = tokens if isinstance(tokens, list) else [tokens]
        if not 0 < len(counts) <= _MOST_SETTINGS or not all(
            type(count) is int and count > 0 for count in counts
        ):
            shown = str(tokens) if len(str(tokens)) < 100 else f"{len(counts)} values"
            raise ParamsError(f"tokens: {shown}: write one or more numbers of prompt tokens")
        parsed = parse(str(pattern))
        if parsed.prompt_tokens:
            raise ParamsError(f"insert_into: '{pattern}' already has prompt tokens")
        templates = [
            parse(text)
            for count in counts
            for text in insert_prompt_tokens(parsed.source, count, after_mask=masked)
        ]
    else:
        raise ParamsError(
            f"{value!r}: write a name, a template, {{insert_into: name, tokens: [1, 2]}}, or "
            "{split-1: name, split-2: name}"
        )
    for template in templates:
        if bool(template.prompt_tokens) != trained:
            problem = (
                "no [P] in the template, but this method trains prompt tokens"
                if trained
                else "[P] in the template, but tune of this method does not name prompt"
            )
            raise ParamsError(f"{template.source}: {problem}")
    return templates


def _read_verbalizer(task: Task, value: Any, *, classifier: bool) -> list[dict[str, str] | None]:
    if classifier:
        return [None]
    if value is not None and not isinstance(value, str | Mapping):
        raise ParamsError(f"{value!r}: write a name or {{label: word}}")
    return [task_verbalizer(task, value)]


def _read_length(value: Any) -> list[int]:
    if type(value) is not int or value not in LENGTHS:
        raise ParamsError(
            f"{value!r}: write a whole number from {LENGTHS.start} to {LENGTHS.stop - 1}"
        )
    return [value]


def _replaced(
    training: Mapping[str, Any], values: Mapping[str, Any], places: Mapping[str, str], default: str
) -> MethodParams:
    """The method's section with the values of one setting."""
    replaced = copy.deepcopy(dict(training))
    for path, value in values.items():
        *sections, key = path.split(".")
        section = replaced
        for name in sections:
            section = section[name]
        section[key] = value
    try:
        return MethodParams.model_validate(replaced)
    except ValidationError as error:
        first = error.errors()[0]
        path = ".".join(map(str, first["loc"]))
        message = first["msg"].removeprefix("Value error, ")
        if not path:  # the values do not go together
            place = " and ".join(places[tried] for tried in values) or default
            raise ParamsError(f"{place}: {message}") from None
        raise ParamsError(
            f"{places.get(path, default)}: {message} (found {first['input']!r})"
        ) from None
