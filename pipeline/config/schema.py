"""The typed, strict mirror of `params.yaml`: every key, its type, its range.

There are no defaults here: `params.yaml` is the one place where a value stands. A value that
applies to some methods only (`prompt`, `model`) is `None` where it does not.
"""

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import ParamsError
from pipeline.tasks import check_task

LamaMethod = Literal[
    "manual", "fine-tuning", "manual-fine-tuning", "p-tuning", "prompt-tuning", "discrete"
]
SuperGlueMethod = Literal["manual", "classifier", "manual-fine-tuning", "p-tuning", "prompt-tuning"]
Tuned = Literal["prompt", "model"]


def _known_task(name: str) -> str:
    try:
        return check_task(name)
    except ParamsError as error:
        raise PydanticCustomError("task", "{error}", {"error": str(error)}) from None


SuperGlueTask = Annotated[str, AfterValidator(_known_task)]

Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seeds = Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
# Path in a method's section -> values to try.
Grid = dict[str, list[Any]]
# Task or relation -> method -> path -> value, or values to try. The keys are plain text, so that a
# preset replaces what a task overrides as a whole.
Overrides = dict[str, dict[str, dict[str, Any]]]


class Section(BaseModel):
    """A group of keys: unknown keys and values of another type are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ModelParams(Section):
    """The language model."""

    name: Annotated[str, Field(min_length=1)]
    dtype: Literal["auto", "float32", "bfloat16", "mixed"]


class DataParams(Section):
    """Where data comes from."""

    mirror: str | None
    superglue_from: Literal["archive", "hub"]


class OptimizerConfig(Section):
    """How one group of parameters is optimized.

    Attributes:
        optimizer: `adam` (weight decay as L2, as in the released LAMA code) or `adamw`.
        learning_rate: its highest value.
        weight_decay: not applied to biases and norms.
        schedule: `constant`, `linear` (to 0 at the last step) or `exponential` (a factor per
            epoch).
        warmup_ratio: share of all steps in which the learning rate rises from 0.
        decay_per_epoch: the factor of `exponential`.
        max_grad_norm: the gradient is clipped at this norm; None: not clipped.
    """

    optimizer: Literal["adam", "adamw"]
    learning_rate: Rate
    weight_decay: Share
    schedule: Literal["constant", "linear", "exponential"]
    warmup_ratio: Share
    decay_per_epoch: Annotated[float, Field(gt=0, le=1)]
    max_grad_norm: Annotated[float, Field(gt=0)] | None


class PromptParams(OptimizerConfig):
    """The prompt tokens: what makes their vectors, and how it is optimized."""

    encoder: Literal["lstm", "mlp", "embedding"]
    dropout: Share


class TunedModelParams(OptimizerConfig):
    """The language model where it is trained."""

    gradient_accumulation_steps: Count


class SearchParams(Section):
    """Where the words of a discrete prompt come from."""

    prompts: Annotated[str, Field(min_length=1)]
    iterations: Count
    candidates: Count
    batch_size: Count


class MethodParams(Section):
    """How one method is trained; `prompt` and `model` stand where `tune` names them.

    `search` belongs to the method `discrete` alone.
    """

    tune: list[Tuned]
    epochs: Annotated[int, Field(ge=0)]
    batch_size: Count
    patience: Count
    prompt: PromptParams | None = None
    model: TunedModelParams | None = None
    search: SearchParams | None = None

    @model_validator(mode="after")
    def _has_what_it_tunes(self) -> Self:
        for name, section in (("prompt", self.prompt), ("model", self.model)):
            if (name in self.tune) != (section is not None):
                raise PydanticCustomError(
                    "tune",
                    "{state}: a section '{name}' belongs to a method whose tune names it",
                    {"state": "missing" if section is None else "not used", "name": name},
                )
        if self.model is not None and self.model.gradient_accumulation_steps > self.batch_size:
            raise PydanticCustomError(
                "accumulation",
                "model.gradient_accumulation_steps is {passes}, more than batch_size {batch}",
                {"passes": self.model.gradient_accumulation_steps, "batch": self.batch_size},
            )
        if bool(self.tune) != bool(self.epochs):
            raise PydanticCustomError(
                "epochs", "epochs must be 0 where nothing is tuned, and 1 or more where it is"
            )
        return self


class LamaSplits(Section):
    """At most so many facts of each relation; None: all there are."""

    train_facts: Count | None
    dev_facts: Count | None
    test_facts: Count | None


class StabilityParams(Section):
    """The same relations under several manual templates."""

    methods: list[LamaMethod]
    relations: list[str]
    templates: str | dict[str, list[str]]
    templates_per_relation: Annotated[int, Field(ge=2)] | None


class LamaParams(Section):
    """Knowledge probing."""

    source: Literal["geonames", "lama"]
    subset: Literal["34k", "29k"]
    relations: list[str] | Literal["all"]
    methods: list[LamaMethod]
    seeds: Seeds
    selection: Literal["dev", "none"]
    splits: LamaSplits
    templates: dict[str, str]
    prompts: dict[LamaMethod, str]
    training: dict[LamaMethod, MethodParams]
    grid: dict[LamaMethod, Grid]
    overrides: Overrides
    stability: StabilityParams


class SuperGlueSplits(Section):
    """At most so many records of each task; None: all there are."""

    train_examples: Count | None
    dev_examples: Count | None
    test_examples: Count | None
    held_out: Annotated[float, Field(gt=0, lt=1)]
    count: Count
    train_share: Annotated[float, Field(gt=0, lt=1)]


class TaskPrompts(Section):
    """How a task is put into words."""

    max_length: Annotated[int, Field(ge=8)]
    verbalizer: str | dict[str, Annotated[str, Field(min_length=1)]] | None
    templates: dict[SuperGlueMethod, str]


class SuperGlueParams(Section):
    """Language understanding."""

    source: Literal["geonames", "superglue"]
    protocol: Literal["few-shot-32", "multi-split", "full-held-out", "full-paper"]
    tasks: list[SuperGlueTask]
    methods: list[SuperGlueMethod]
    seeds: Seeds
    selection: Literal["dev", "none"]
    splits: SuperGlueSplits
    prompts: dict[SuperGlueTask, TaskPrompts]
    training: dict[SuperGlueMethod, MethodParams]
    grid: dict[SuperGlueMethod, Grid]
    overrides: dict[SuperGlueTask, dict[str, dict[str, Any]]]


class ReportParams(Section):
    """What the report shows."""

    title: Annotated[str, Field(min_length=1)]
    facts_shown: Annotated[int, Field(ge=0)]


class RuntimeParams(Section):
    """Settings that change no result; no stage depends on them."""

    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$")]
    threads: Count | None
    max_rows_per_forward: Count | Literal["auto"]
    checkpoint_seconds: Annotated[float, Field(ge=0)]


class Params(Section):
    """The whole of `params.yaml`."""

    seed: Annotated[int, Field(ge=0)]
    model: ModelParams
    data: DataParams
    lama: LamaParams
    superglue: SuperGlueParams
    report: ReportParams
    runtime: RuntimeParams

    @model_validator(mode="after")
    def _lists_are_covered(self) -> Self:
        lama = self.lama
        if lama.relations != "all":
            _check_list("lama.relations", lama.relations)
        _check_list("lama.stability.relations", lama.stability.relations)
        for name, methods in (
            ("lama.methods", lama.methods),
            ("lama.stability.methods", lama.stability.methods),
        ):
            _check_list(name, methods, lama.training, "lama.training")
            _check_list(name, methods, lama.prompts, "lama.prompts")
        _check_list("lama.methods", lama.methods, lama.grid, "lama.grid")
        _check_list("lama.seeds", lama.seeds)
        for relation, by_method in lama.overrides.items():
            _check_list(
                f"lama.overrides.{relation}", list(by_method), lama.training, "lama.training"
            )
        _check_list(
            "superglue.tasks", self.superglue.tasks, self.superglue.prompts, "superglue.prompts"
        )
        _check_list(
            "superglue.tasks", self.superglue.tasks, self.superglue.overrides, "superglue.overrides"
        )
        _check_list(
            "superglue.methods",
            self.superglue.methods,
            self.superglue.training,
            "superglue.training",
        )
        _check_list("superglue.seeds", self.superglue.seeds)
        _check_list(
            "superglue.methods", self.superglue.methods, self.superglue.grid, "superglue.grid"
        )
        for task, overrides in self.superglue.overrides.items():
            _check_list(
                f"superglue.overrides.{task}",
                list(overrides),
                self.superglue.training,
                "superglue.training",
            )
        for task in self.superglue.tasks:
            _check_list(
                "superglue.methods",
                self.superglue.methods,
                self.superglue.prompts[task].templates,
                f"superglue.prompts.{task}.templates",
            )
        return self


def load_params(path: Path) -> Params:
    """Read and check `params.yaml`.

    Raises:
        ParamsError: the file is missing, is not YAML, or has a wrong key or value; the text names
            every one of them with what is allowed.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ParamsError(f"{path}: no such file; run from the root of the project") from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    try:
        # DVC reads the file with the same library, so `1e-4` is a number to both.
        values = YAML(typ="safe", pure=True).load(text)
    except YAMLError as error:
        raise ParamsError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = [_explain(details) for details in error.errors()]
        raise ParamsError("\n".join(f"{path}: {line}" for line in lines)) from None


def _check_list(
    name: str, chosen: list[Any], settings: Mapping[Any, Any] | None = None, where: str = ""
) -> None:
    twice = sorted({value for value in chosen if chosen.count(value) > 1})
    if twice:
        raise PydanticCustomError(
            "twice",
            "{name}: {twice} stands twice",
            {"name": name, "twice": ", ".join(map(str, twice))},
        )
    missing = [value for value in chosen if settings is not None and value not in settings]
    if missing:
        raise PydanticCustomError(
            "uncovered",
            "{where}: no entry for {missing}, which {name} lists",
            {"where": where, "missing": ", ".join(missing), "name": name},
        )


def _explain(details: ErrorDetails) -> str:
    """Turn one of pydantic's errors into a line: the dotted path, what is wrong, the choices."""
    path = ".".join(str(part) for part in details["loc"] if part != "[key]")
    given = details["input"]
    match details["type"]:
        case "extra_forbidden":
            known = _known_keys(details["loc"])
            close = difflib.get_close_matches(str(details["loc"][-1]), known, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(known)}"
            return f"{path}: unknown key; {hint}"
        case "missing":
            return f"{path}: this key is missing"
        case "literal_error":
            return f"{path}: {given!r} is not one of {details['ctx']['expected']}"
        case "value_error" | "task" | "twice" | "uncovered" | "tune" | "accumulation" | "epochs":
            return f"{path}: {details['msg']}" if path else details["msg"]
        case _:
            shown = repr(given) if not isinstance(given, dict | list) else type(given).__name__
            return f"{path or 'the file'}: {_lower_first(details['msg'])} (found {shown})"


def _known_keys(location: tuple[int | str, ...]) -> list[str]:
    """Return the keys that are allowed beside the unknown one at `location`."""
    section: Any = Params
    for part in location[:-1]:
        fields = getattr(section, "model_fields", {})
        annotation = fields[part].annotation if part in fields else section
        section = _section_within(annotation)
    return sorted(getattr(section, "model_fields", {}))


def _section_within(annotation: Any) -> Any:
    """Return the `Section` class inside an annotation such as `dict[str, Section]`."""
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _section_within(argument)
        if found is not None:
            return found
    return None


def _lower_first(text: str) -> str:
    return text[:1].lower() + text[1:]
