"""The typed, strict mirror of `params.yaml`: every key, its type, its range.

No value has a default here: `params.yaml` is the only place that defines values. Sections that
apply to some methods only (`prompt`, `model`, `search`) are `None` for the others.
"""

import difflib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from pipeline.errors import ParamsError
from pipeline.tasks import check_task, task_names
from pipeline.tasks.own import RESERVED_FIELDS

LamaMethod = Literal[
    "manual", "fine-tuning", "manual-fine-tuning", "p-tuning", "prompt-tuning", "discrete"
]
SuperGlueMethod = Literal["manual", "classifier", "manual-fine-tuning", "p-tuning", "prompt-tuning"]
Tuned = Literal["prompt", "model"]

# Names of keys and values in earlier versions -> their names now.
RENAMED_KEYS = {
    "batch": "batch_size",
    "gradient_accumulation": "gradient_accumulation_steps",
    "rows_per_pass": "max_tokens_per_forward",
    "max_rows_per_forward": "max_tokens_per_forward",
}
_RENAMED_NOTES = {"max_tokens_per_forward": "; it counts tokens instead of rows"}
RENAMED_VALUES = {"gazetteer": "geonames"}
# Keys that earlier versions did not have -> what to write.
_ADDED_KEYS = {
    "model.start": "write `start: auto`, or `start: none` for the rows of earlier versions",
    "model.device_map": "write `device_map: null`",
    "model.quantization": "write `quantization: null`",
    "lama.seeds": "training on LAMA reads it in place of `seed`; write `seeds: [34]`",
    "lama.selection": "write `selection: dev`",
    "lama.grid": "write `{}` for each method",
    "lama.overrides": "write `overrides: {}`",
    "lama.training.defaults.prompts_per_unit": "write `prompts_per_unit: null`",
    "superglue.training.defaults.prompts_per_unit": "write `prompts_per_unit: null`",
    "superglue.splits.per_class": "write `per_class: 16`",
    "superglue.splits.seeds": "write `seeds: [13, 21, 42, 87, 100]`",
    "tasks": "write `tasks: {}`",
    "runtime.engine": "write `engine: serial`",
}


def _known_task(name: str) -> str:
    try:
        return check_task(name)
    except ParamsError as error:
        raise ValueError(str(error)) from None


SuperGlueTask = Annotated[str, AfterValidator(_known_task)]

# Names that commands, outputs or stages use for something else.
_TAKEN = ("lama", "stability", "superglue", "tasks", "splits")


def _own_task_name(name: str) -> str:
    if name in (*task_names(), *_TAKEN):
        raise ValueError(f"'{name}' is the name of a task or benchmark already; choose another")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]{0,39}", name):
        raise ValueError(
            f"'{name}' is not a name of at most 40 letters, digits, _ and -, the first a letter"
        )
    return name


def _field_name(name: str) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name in RESERVED_FIELDS:
        raise ValueError(
            f"'{name}' is not a name of lower-case letters, digits and _, the first a letter, or "
            f"is one of {', '.join(RESERVED_FIELDS)}; the column may have any name"
        )
    return name


OwnTaskName = Annotated[str, AfterValidator(_own_task_name)]
FieldName = Annotated[str, AfterValidator(_field_name)]
OwnMetric = Literal["accuracy", "f1", "f1_positive", "matthews", "em"]

# Bounds far above anything that makes sense, so that a slip of the finger is a message and not a
# run without end.
LENGTHS = range(8, 100_001)  # of max_length
_MOST_SEEDS = 1000
_MOST_FILE_BYTES = 1_000_000
_MOST_VALUES = 50_000
_MOST_NESTING = 50
_MOST_LINES = 30  # of one error

Count = Annotated[int, Field(ge=1, le=10**9)]
Seed = Annotated[int, Field(ge=0, lt=2**63)]
Size = Count | Annotated[float, Field(gt=0, lt=1)] | None
Rate = Annotated[float, Field(gt=0, lt=1)]
Share = Annotated[float, Field(ge=0, lt=1)]
Seeds = Annotated[list[Seed], Field(min_length=1, max_length=_MOST_SEEDS)]
# Path in a method's section -> values to try.
Grid = dict[str, list[Any]]
# Task or relation -> method -> path -> value, or values to try. The keys are plain text, so that a
# preset replaces what a task overrides as a whole.
Overrides = dict[str, dict[str, dict[str, Any]]]


class Section(BaseModel):
    """A group of keys; unknown keys and values of another type are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ModelParams(Section):
    """The language model."""

    name: Annotated[str, Field(min_length=1)]
    dtype: Literal["auto", "float32", "bfloat16", "mixed"]
    start: Annotated[str, Field(min_length=1)]
    device_map: Literal["auto"] | None
    quantization: Literal["8bit", "4bit"] | None


class DataParams(Section):
    """Where data comes from."""

    mirror: Annotated[str, Field(min_length=1)] | None
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
    """The prompt encoder, and how it is optimized."""

    encoder: Literal["lstm", "mlp", "embedding"]
    start: Literal["random", "words", "manual"]
    dropout: Share


class TunedModelParams(OptimizerConfig):
    """How the language model is optimized, if it is trained."""

    gradient_accumulation_steps: Count


class SearchParams(Section):
    """Where the words of a discrete prompt come from."""

    prompts: Annotated[str, Field(min_length=1)]
    iterations: Count
    candidates: Count
    batch_size: Count


class MethodParams(Section):
    """How one method is trained, merged over `defaults`; see `_merge_defaults`.

    `prompt` and `model` are set if `tune` contains them, `search` for the method `discrete`.
    `steps_per_epoch` is how many steps an epoch has, after which dev is scored; None: one pass over
    the train set.

    Attributes:
        prompts_per_unit: how many prompts of a frozen model train together at most; None: all with
            these settings and a seed. Prompts that train together change each other's last bits.
    """

    tune: list[Tuned]
    epochs: Annotated[int, Field(ge=0, le=1_000_000)]
    batch_size: Count
    patience: Count
    prompts_per_unit: Count | None
    prompt: PromptParams | None = None
    model: TunedModelParams | None = None
    search: SearchParams | None = None
    steps_per_epoch: Count | None = None

    @model_validator(mode="after")
    def _has_what_it_tunes(self) -> Self:
        for name, section in (("prompt", self.prompt), ("model", self.model)):
            if (name in self.tune) != (section is not None):
                state = "required" if section is None else "only used"
                raise ValueError(f"section '{name}' is {state} when tune contains '{name}'")
        if self.model is not None and self.model.gradient_accumulation_steps > self.batch_size:
            raise ValueError(
                f"model.gradient_accumulation_steps is {self.model.gradient_accumulation_steps}, "
                f"more than batch_size {self.batch_size}"
            )
        if bool(self.tune) != bool(self.epochs):
            raise ValueError("epochs must be 0 if nothing is tuned, and 1 or more otherwise")
        return self


class TrainingDefaults(MethodParams):
    """What all methods share, unless their section has the key; `section_keys` uses it only."""


def _merge_defaults(training: Any) -> Any:
    """Each method's section merged over `defaults`; `prompt` and `model` only if it tunes them."""
    if not isinstance(training, dict):
        return training
    defaults = training.get("defaults")
    if not isinstance(defaults, dict):
        raise ValueError("section 'defaults' is required; it may be {}")
    return {
        method: _merged(section, defaults) if isinstance(section, dict) else section
        for method, section in training.items()
        if method != "defaults"
    }


def _merged(section: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    merged = {**defaults, **section}
    tune = section.get("tune")
    for name in get_args(Tuned):
        tuned = isinstance(tune, list) and name in tune
        if name not in section and not tuned:
            merged.pop(name, None)
        elif isinstance(merged.get(name), dict):
            merged[name] = {**defaults.get(name, {}), **merged[name]}
    return merged


class LamaSplits(Section):
    """Largest number of facts of each relation; None: all facts."""

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

    source: Literal["geonames", "lama", "facts"]
    facts: Annotated[str, Field(min_length=1)]
    subset: Literal["34k", "29k"]
    relations: list[str] | Literal["all"]
    objects: Literal["one-token", "all"]
    methods: list[LamaMethod]
    seeds: Seeds
    selection: Literal["dev", "none"]
    splits: LamaSplits
    templates: dict[str, str]
    prompts: dict[LamaMethod, str]
    training: Annotated[dict[LamaMethod, MethodParams], BeforeValidator(_merge_defaults)]
    grid: dict[LamaMethod, Grid]
    overrides: Overrides
    stability: StabilityParams


class SuperGlueSplits(Section):
    """Largest number of records of each task, None: all records; and what protocols draw."""

    train_examples: Count | None
    dev_examples: Count | None
    test_examples: Count | None
    held_out: Annotated[float, Field(gt=0, lt=1)]
    count: Annotated[int, Field(ge=1, le=1000)]
    train_share: Annotated[float, Field(gt=0, lt=1)]
    per_class: Count
    seeds: Seeds


class TaskPrompts(Section):
    """Templates and label words of a task."""

    max_length: Annotated[int, Field(ge=LENGTHS.start, lt=LENGTHS.stop)]
    verbalizer: str | dict[str, Annotated[str, Field(min_length=1)]] | None
    templates: dict[SuperGlueMethod, str]


class SuperGlueParams(Section):
    """Language understanding."""

    source: Literal["geonames", "superglue", "glue"]
    protocol: Literal["few-shot-32", "multi-split", "full-held-out", "full-paper", "lm-bff"]
    tasks: list[SuperGlueTask]
    methods: list[SuperGlueMethod]
    seeds: Seeds
    selection: Literal["dev", "dev-per-split", "none"]
    splits: SuperGlueSplits
    prompts: dict[SuperGlueTask, TaskPrompts]
    training: Annotated[dict[SuperGlueMethod, MethodParams], BeforeValidator(_merge_defaults)]
    grid: dict[SuperGlueMethod, Grid]
    overrides: dict[SuperGlueTask, dict[str, dict[str, Any]]]

    @property
    def split_numbers(self) -> list[int]:
        """The numbers of the train and dev sets; those of LM-BFF are their seeds."""
        if self.source == "glue" and self.protocol == "lm-bff":
            return list(self.splits.seeds)
        return list(range(1, self.splits.count + 1)) if self.protocol == "multi-split" else [1]

    @model_validator(mode="after")
    def _protocol_fits(self) -> Self:
        """Limits that are left over from few-shot runs would go unnoticed in the results."""
        _check_list("splits.seeds", self.splits.seeds)
        source, protocol = self.source, self.protocol
        if source == "geonames" or not self.tasks:
            return self
        few = {"superglue": ("lm-bff",), "glue": ("few-shot-32", "multi-split")}
        if protocol in few[source]:
            raise ValueError(
                f"protocol: {source} has no examples for {protocol}; "
                f"{'choose lm-bff or a full one' if source == 'glue' else 'it is one of glue'}"
            )
        names = {"full": ("train_examples", "dev_examples", "test_examples"),
                 "lm": ("train_examples", "dev_examples")}  # fmt: skip
        limits = {n: getattr(self.splits, n) for n in names.get(protocol.partition("-")[0], ())}
        given = [f"splits.{name} is {n}" for name, n in limits.items() if n is not None]
        if given:
            draws = "uses all examples" if "test_examples" in limits else "draws splits.per_class"
            raise ValueError(f"protocol {protocol} {draws}, but {', '.join(given)}; write null")
        return self


class OwnSplits(Section):
    """Rows of each split: a number, a share of the rows, or None.

    None is all rows of the split's own file; of train without one, what the others leave.
    """

    train: Size
    dev: Size
    test: Size


class OwnData(Section):
    """The file of a task of the user, and what its columns are.

    Attributes:
        file: a CSV, TSV, JSON Lines or Parquet file that is split; or a folder with a file for
            each split (`train`, `dev`, `test`), of which `dev` and `test` may be missing.
        fields: field of the templates -> column.
        label: column of the labels.
        labels: values of that column, in the order of the scores.
        choices: two of the fields, whose texts are the answers of the first and second label.
        group: column whose equal values stay in one split and are scored together by `em`.
    """

    file: Annotated[str, Field(min_length=1)]
    fields: Annotated[dict[FieldName, str], Field(min_length=1)]
    label: str
    labels: Annotated[list[str], Field(min_length=2)]
    choices: Annotated[list[str], Field(min_length=2, max_length=2)] | None
    group: str | None
    splits: OwnSplits

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _check_list("labels", self.labels)
        _check_list("choices", self.choices or [], self.fields, "fields")
        if self.choices is not None and len(self.labels) != 2:
            raise ValueError(f"labels: {len(self.labels)}, but the two choices need one each")
        columns = [*self.fields.values(), self.label]
        _check_list("columns of fields and label", columns)
        return self


class OwnTaskParams(Section):
    """A task of the user; methods, training and grid are those of `superglue`."""

    data: OwnData
    metrics: Annotated[list[OwnMetric], Field(min_length=1)]
    positive: str | None
    prompts: TaskPrompts
    seeds: Seeds
    selection: Literal["dev", "none"]
    overrides: dict[str, dict[str, Any]]

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        _check_list("metrics", self.metrics)
        _check_list("seeds", self.seeds)
        if ("f1_positive" in self.metrics) != (self.positive is not None):
            raise ValueError("positive: the label of the metric f1_positive, and null without it")
        if self.positive is not None:
            _check_list("positive", [self.positive], dict.fromkeys(self.data.labels), "data.labels")
        if "em" in self.metrics and self.data.group is None:
            raise ValueError("metrics: em is the share of groups that are right; set data.group")
        return self


class ReportParams(Section):
    """Contents of the report."""

    title: Annotated[str, Field(min_length=1)]
    facts_shown: Annotated[int, Field(ge=0)]


class RuntimeParams(Section):
    """Settings that do not change results; no stage depends on them."""

    engine: Literal["serial", "ray"]
    device: Annotated[str, Field(pattern=r"^(auto|cpu|mps|cuda(:[0-9]{1,2})?)$")]
    threads: Annotated[int, Field(ge=1, le=1024)] | None
    max_tokens_per_forward: Count | Literal["auto"]
    checkpoint_seconds: Annotated[float, Field(ge=0)]
    gpus_per_training: Annotated[int, Field(ge=1, le=64)] = 1
    shard_model: bool = False

    @model_validator(mode="after")
    def _has_a_gpu_for_each_process(self) -> Self:
        if self.gpus_per_training > 1 and (":" in self.device or self.device == "mps"):
            raise ValueError(
                f"device is {self.device}, which is one device, but gpus_per_training is "
                f"{self.gpus_per_training}; write cuda, auto or cpu, or gpus_per_training: 1"
            )
        if self.shard_model and self.gpus_per_training == 1:
            raise ValueError(
                "shard_model cuts a model over the GPUs of a training, but gpus_per_training is 1; "
                "write more, or shard_model: false"
            )
        return self

    @model_validator(mode="after")
    def _is_the_same_on_all_machines(self) -> Self:
        """Threads and tokens change the last bits of results, and machines differ in both."""
        if self.engine == "serial":
            return self
        open_ones = {"threads": self.threads is None}
        open_ones["max_tokens_per_forward"] = self.max_tokens_per_forward == "auto"
        if names := [name for name, is_open in open_ones.items() if is_open]:
            raise ValueError(
                f"engine ray needs a number for {' and '.join(names)}: what each machine would "
                "choose changes the last bits of results; write threads: 4, for example, and "
                "max_tokens_per_forward: 1024 on CPUs or 32768 on GPUs"
            )
        if ":" in self.device:
            raise ValueError(
                f"device is {self.device}, but with engine ray, Ray assigns the GPUs; "
                "write cuda, auto or cpu"
            )
        return self


class Params(Section):
    """The whole of `params.yaml`."""

    seed: Seed
    model: ModelParams
    data: DataParams
    lama: LamaParams
    superglue: SuperGlueParams
    tasks: dict[OwnTaskName, OwnTaskParams]
    report: ReportParams
    runtime: RuntimeParams

    @model_validator(mode="after")
    def _lists_are_covered(self) -> Self:
        lama, superglue = self.lama, self.superglue
        if lama.relations != "all":
            _check_list("lama.relations", lama.relations)
        _check_list("lama.stability.relations", lama.stability.relations)
        stability = lama.stability.methods
        for key, settings in (("training", lama.training), ("prompts", lama.prompts)):
            for name, chosen in (("methods", lama.methods), ("stability.methods", stability)):
                _check_list(f"lama.{name}", chosen, settings, f"lama.{key}")
        for key, by_task in (("prompts", superglue.prompts), ("overrides", superglue.overrides)):
            _check_list("superglue.tasks", superglue.tasks, by_task, f"superglue.{key}")
        for benchmark, section in (("lama", lama), ("superglue", superglue)):
            _check_list(f"{benchmark}.seeds", section.seeds)
            for key, by_method in (("training", section.training), ("grid", section.grid)):
                _check_list(
                    f"{benchmark}.methods", section.methods, by_method, f"{benchmark}.{key}"
                )
            for task, overrides in section.overrides.items():
                name = f"{benchmark}.overrides.{task}"
                _check_list(name, list(overrides), section.training, f"{benchmark}.training")
        for name, own in self.tasks.items():
            place, overridden = f"tasks.{name}.overrides", list(own.overrides)
            _check_list(place, overridden, superglue.training, "superglue.training")
            where = f"tasks.{name}.prompts.templates"
            _check_list("superglue.methods", superglue.methods, own.prompts.templates, where)
        for task in superglue.tasks:
            where = f"superglue.prompts.{task}.templates"
            templates = superglue.prompts[task].templates
            _check_list("superglue.methods", superglue.methods, templates, where)
        return self


def load_params(path: Path) -> Params:
    """Read and check `params.yaml`.

    Raises:
        ParamsError: the file is missing, is not YAML, or has a wrong key or value; the text lists
            every one of them with the allowed values.
    """
    # DVC reads the file with the same library, so `1e-4` is a number to both.
    values = parse_yaml(read_yaml(path), YAML(typ="safe", pure=True).load, str(path))
    try:
        return Params.model_validate(values)
    except ValidationError as error:
        lines = _explain(error.errors(), values)
        if len(lines) > _MOST_LINES:
            lines[_MOST_LINES:] = [f"and {len(lines) - _MOST_LINES} more mistakes"]
        raise ParamsError("\n".join(f"{path}: {line}" for line in lines)) from None


def read_yaml(path: Path) -> str:
    """Text of a parameters file or preset, its line ends as they are.

    Raises:
        ParamsError: the file is missing, is no file that can be read, is too large or not UTF-8.
    """
    try:
        if not path.exists():
            raise ParamsError(f"{path}: no such file; run from the root of the project")
        if not path.is_file() or path.stat().st_size > _MOST_FILE_BYTES:
            raise ParamsError(
                f"{path}: not a text file of at most {_MOST_FILE_BYTES // 1000} kB; restore it "
                "from git"
            )
        return path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ParamsError(
            f"{path}: {error.strerror}; check the path and its permissions"
        ) from error
    except UnicodeDecodeError as error:
        raise ParamsError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error


def parse_yaml(text: str, parse: Callable[[str], Any], where: str) -> Any:
    """The values of a YAML document, whose aliases may not expand to more than one can use.

    Raises:
        ParamsError: it is not YAML, or has too many values or too deep nesting; the text begins
            with `where`.
    """
    try:
        values = parse(text)
    except (YAMLError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise ParamsError(f"{where}: not YAML: {reason}") from error
    except RecursionError:
        raise ParamsError(f"{where}: nested too deeply; see params.yaml as cloned") from None
    level: list[tuple[str, Any]] = [("", values)]
    counts: Counter[str] = Counter()  # of the values in the sections and lists at each place
    for _ in range(_MOST_NESTING):
        inner: list[tuple[str, Any]] = []
        for place, value in level:
            if isinstance(value, dict):
                inner += [
                    (f"{place}.{str(key)[:50]}".lstrip("."), item) for key, item in value.items()
                ]
            elif isinstance(value, list):
                inner += [(place, item) for item in value]
            counts[place] += len(value) if isinstance(value, dict | list) else 0
        level = inner
        if not level:
            return values
        if counts.total() > _MOST_VALUES:
            ((largest, _),) = counts.most_common(1)
            raise ParamsError(
                f"{where}: more than {_MOST_VALUES} values, aliases written out, most of them in "
                f"{largest[:100] or 'the document itself'}; write fewer"
            )
    raise ParamsError(f"{where}: nested more than {_MOST_NESTING} levels deep")


def section_keys(annotation: Any) -> dict[str, Any] | None:
    """Key -> type of a mapping whose keys are fixed; None for everything else."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return {name: field.annotation for name, field in annotation.model_fields.items()}
    if origin is dict and arguments[0] not in (str, OwnTaskName, FieldName):
        names = task_names() if arguments[0] == SuperGlueTask else get_args(arguments[0])
        shared = {"defaults": TrainingDefaults} if arguments[1] is MethodParams else {}
        return {**shared, **dict.fromkeys(names, arguments[1])}
    if origin in (Annotated, Union, UnionType):
        candidates = arguments[:1] if origin is Annotated else arguments
        keys_of_each = (section_keys(a) for a in candidates if a is not NoneType)
        return next((keys for keys in keys_of_each if keys is not None), None)
    return None


def explain_unknown_key(key: str, known: Iterable[str]) -> str:
    """The rest of a message about an unknown key: its new name, a similar key, or all keys."""
    names = list(known)
    if RENAMED_KEYS.get(key) in names:
        new = RENAMED_KEYS[key]
        return f"this key is now '{new}'{_RENAMED_NOTES.get(new, '')}"
    close = difflib.get_close_matches(key, names, n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"known keys: {', '.join(names)}"
    return f"unknown key; {hint}"


def _check_list(
    name: str, chosen: list[Any], settings: Mapping[Any, Any] | None = None, where: str = ""
) -> None:
    duplicates = sorted(value for value, count in Counter(chosen).items() if count > 1)
    if duplicates:
        raise ValueError(f"{name}: duplicate value {', '.join(map(str, duplicates))}")
    missing = [value for value in chosen if settings is not None and value not in settings]
    if missing:
        raise ValueError(f"{where}: no entry for {', '.join(missing)}, which {name} lists")


# What pydantic puts into a path for a member of a union or a key of a dictionary.
_INTERNAL = re.compile(
    r"str|int|float|\[key\]|(?:list|dict|literal|function-\w+)\[.*|constrained-.*"
)


def _explain(errors: list[ErrorDetails], values: Any) -> list[str]:
    """One line for each place: the dotted path, what is wrong, the choices."""
    by_place: dict[tuple[str, ...], list[ErrorDetails]] = {}
    unknown_names = set()
    for details in errors:
        place = tuple(str(p) for p in details["loc"] if not _INTERNAL.fullmatch(str(p)))
        # A method's value may come from `defaults`.
        written = (*place[:2], "defaults", *place[3:])
        merged = place[1:2] == ("training",) and len(place) > 3
        shared = _has(values, written) or ".".join(written) in _ADDED_KEYS
        if merged and not _has(values, place) and shared:
            place = written
        by_place.setdefault(place, []).append(details)
        if "[key]" in details["loc"]:
            unknown_names.add(place)
    lines = []
    for place, members in by_place.items():
        # Of a union, the error of the member that matches furthest is the right one.
        within = [other for other in by_place if other[: len(place)] == place != other]
        below_unknown = any(place[:end] in unknown_names for end in range(len(place)))
        old_names = [old for old, new in RENAMED_KEYS.items() if place and new == place[-1]]
        renamed = any((*place[:-1], old) in by_place for old in old_names)
        if not (below_unknown or renamed or (within and place not in unknown_names)):
            lines.append(": ".join(filter(None, (".".join(place), _message(members, place)))))
    return lines


def _has(values: Any, path: tuple[str, ...]) -> bool:
    inner = values.get(path[0]) if path and isinstance(values, dict) else None
    return not path or (inner is not None and _has(inner, path[1:]))


def _message(members: list[ErrorDetails], place: tuple[str, ...]) -> str:
    details, value = members[0], members[0]["input"]
    match details["type"]:
        case "extra_forbidden":
            section: Any = Params
            for part in place[:-1]:
                keys = section_keys(section)
                section = get_args(section)[1] if keys is None else keys.get(part)
            return explain_unknown_key(place[-1], sorted(section_keys(section) or {}))
        case "missing":
            added = _ADDED_KEYS.get(".".join(place))
            return f"this key is missing; {added}" if added else "this key is missing"
        case "literal_error" if isinstance(value, str) and value in RENAMED_VALUES:
            return f"'{value}' is now '{RENAMED_VALUES[value]}'"
        case "literal_error":
            return f"{value!r} is not one of {details['ctx']['expected']}"
        case "value_error":
            return details["msg"].removeprefix("Value error, ")
    texts = [re.sub(" or instance of .*", "", m["msg"].removeprefix("Input ")) for m in members]
    first, *others = dict.fromkeys(texts)
    texts = [first, *(text.removeprefix("should be ") for text in others)]
    shown = repr(value) if not isinstance(value, dict | list) else type(value).__name__
    listed = isinstance(value, str | int | float) and any(m["type"] == "list_type" for m in members)
    hint = f"; write [{value}]" if listed else ""
    return f"{'value' if place else 'the file'} {' or '.join(texts)} (found {shown}){hint}"
