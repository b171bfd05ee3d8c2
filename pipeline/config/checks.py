"""Checks of `params.yaml` that need more than its own types: names, templates, folders."""

from collections.abc import Callable, Collection
from pathlib import Path

from pipeline.config.grid import lama_configs, own_configs, superglue_configs
from pipeline.config.schema import (
    LamaMethod,
    LamaParams,
    Params,
    SearchParams,
    SuperGlueMethod,
    SuperGlueParams,
)
from pipeline.data.geonames.facts import GEONAMES_RELATIONS
from pipeline.data.glue import GLUE
from pipeline.data.lama import ALL, GRADIENT, PAPER_PROMPTS, PROMPT_COLLECTIONS, TEST_FACTS
from pipeline.data.own_facts import read_own_facts
from pipeline.data.tables import split_files
from pipeline.errors import ParamsError, PipelineError
from pipeline.sources.models import check_model_name
from pipeline.tasks import get_task, task_template, task_verbalizer
from pipeline.tasks.lama import manual_template
from pipeline.tasks.own import Definition


def check_params(params: Params) -> None:
    """Check model, mirror, relations, templates, verbalizers and files.

    Raises:
        ParamsError: with one line for each mistake.
    """
    mistakes: list[str] = []

    def check(place: str, function: Callable[..., object], *values: object, **more: bool) -> None:
        try:
            function(*values, **more)
        except (PipelineError, OSError) as error:
            mistakes.append(": ".join(filter(None, ("params.yaml", place, str(error)))))

    lama, superglue = params.lama, params.superglue
    check("model.name", check_model_name, params.model.name)
    check("model.dtype", _check_dtype, params)
    for key in ("quantization", "device_map"):
        check(f"model.{key}", _check_frozen, params, getattr(params.model, key))
        check(f"model.{key}", _check_whole, params, getattr(params.model, key))
    check("data.mirror", _check_mirror, params.data.mirror)
    known: Collection[str] = GEONAMES_RELATIONS if lama.source == "geonames" else TEST_FACTS
    if lama.source == "facts":
        try:
            own_facts = read_own_facts(Path(lama.facts))
        except PipelineError as error:
            raise ParamsError(f"params.yaml: lama.facts: {error}") from error
        known = own_facts
        for of in own_facts.values():
            check(f"lama.facts: {of.file}: {of.name}", manual_template, of.template)
    for place, names in (
        ("lama.relations", [] if lama.relations == ALL else lama.relations),
        ("lama.templates", lama.templates),
        ("lama.overrides", lama.overrides),
    ):
        for relation in names:
            check(place, _check_relation, relation, lama.source, known)
    for benchmark, section in (("lama", lama), ("superglue", superglue)):
        for method, settings in section.training.items():
            place = f"{benchmark}.training.{method}"
            check(f"{place}.tune", _check_tune, benchmark, method, list(settings.tune))
            check(f"{place}.search", _check_search, method, settings.search, lama.source)
    for method in (method for method in lama.training if method in lama.prompts):
        # None for the settings of a relation that overrides nothing.
        for overriding in (None, *lama.overrides):
            check("", _check_lama_configs, lama, overriding, method)
    for relation in lama.stability.relations if lama.stability.methods else ():
        check("lama.stability", _check_stability, relation, lama, known)
    for relation, template in lama.templates.items():
        check(f"lama.templates.{relation}", manual_template, template)
    for name in superglue.tasks:
        check("superglue.tasks", _check_task_source, name, superglue.source)
    for name, prompts in superglue.prompts.items():
        place, task = f"superglue.prompts.{name}", get_task(name)
        check(f"{place}.verbalizer", task_verbalizer, task, prompts.verbalizer)
        for method, template in prompts.templates.items():
            if method in superglue.training:
                check("", _check_task_configs, superglue, name, method)
            else:
                classifier, where = method == "classifier", f"{place}.templates.{method}"
                check(where, task_template, task, template, classifier=classifier)
    for name, own in params.tasks.items():
        task, place = Definition.from_params(name, own).task, f"tasks.{name}"
        check(f"{place}.data.file", split_files, Path(own.data.file))
        check(f"{place}.prompts.verbalizer", task_verbalizer, task, own.prompts.verbalizer)
        for method in own.prompts.templates:
            if method in superglue.training:
                check("", own_configs, params, task, method, masked=True)
    if mistakes:
        raise ParamsError("\n".join(dict.fromkeys(mistakes)))


def _tuning(params: Params) -> str:
    """The keys by which methods that are run tune the model; empty if none does."""
    lama, superglue = params.lama, params.superglue
    run = {f"lama.training.{m}": lama.training[m] for m in lama.methods if lama.relations}
    stability = lama.stability.methods if lama.stability.relations else ()
    run |= {f"lama.training.{m}": lama.training[m] for m in stability}
    methods = superglue.methods if superglue.tasks or params.tasks else ()
    run |= {f"superglue.training.{m}": superglue.training[m] for m in methods}
    return ", ".join(f"{place}.tune" for place, own in run.items() if "model" in own.tune)


def _check_dtype(params: Params) -> None:
    """Check that no method that is run tunes bfloat16 weights, which round small steps away."""
    tuning = _tuning(params)
    if params.model.dtype == "bfloat16" and tuning:
        raise ParamsError(
            f"bfloat16 rounds most steps of a tuned model away, and model is in {tuning}; write "
            "mixed or auto"
        )


def _check_frozen(params: Params, value: str | None) -> None:
    """Check that no method that is run tunes a model that is loaded as only frozen ones are."""
    tuning = _tuning(params)
    if value is not None and tuning:
        raise ParamsError(
            f"{value} is for frozen models only, and model is in {tuning}; write null, or choose "
            "other methods"
        )


def _check_whole(params: Params, value: str | None) -> None:
    """Check that the processes that share a training each load a model on their own GPU."""
    count = params.runtime.gpus_per_training
    if value is not None and count > 1:
        raise ParamsError(
            f"{value} does not go with runtime.gpus_per_training: {count}; write null, or "
            "gpus_per_training: 1"
        )


def _check_mirror(mirror: str | None) -> None:
    if mirror is not None and not Path(mirror).is_dir():
        raise ParamsError(f"{mirror} is not a folder; write its path, or null to fetch")


def _check_relation(relation: str, source: str, known: Collection[str]) -> None:
    if relation not in known:
        choices = ", ".join(known)
        raise ParamsError(f"'{relation}' is not a relation of {source}; choose from {choices}")


def _check_task_configs(superglue: SuperGlueParams, task: str, method: SuperGlueMethod) -> None:
    runs = task in superglue.tasks
    for config in superglue_configs(superglue, task, method, masked=True, grid=runs):
        for number in superglue.split_numbers if runs else ():
            try:
                config.for_split(number)
            except ParamsError as error:
                raise ParamsError(f"superglue.overrides.{task}.{method}.{error}") from None


def _check_task_source(task: str, source: str) -> None:
    if (task in GLUE) != (source == "glue"):
        known = f"; it has {', '.join(GLUE)}" if source == "glue" else ", but glue has"
        raise ParamsError(
            f"superglue.source {source} has no {task}{known}. Change superglue.source or "
            "take the task out"
        )


# What each method may tune; the first is the paper's on LAMA.
_TUNES: dict[str, list[list[str]]] = {
    "manual": [[]],
    "classifier": [["model"]],
    "fine-tuning": [["model"]],
    "manual-fine-tuning": [["model"]],
    "p-tuning": [["prompt"], ["prompt", "model"]],
    "prompt-tuning": [["prompt"], ["prompt", "model"]],
    "discrete": [[]],
}


def _check_tune(benchmark: str, method: str, tune: list[str]) -> None:
    allowed = _TUNES[method]
    if (benchmark, method) == ("superglue", "prompt-tuning"):
        allowed = [["prompt"]]
    if tune not in allowed:
        choices = " or ".join(map(str, allowed))
        raise ParamsError(f"{tune}, but {method} tunes {choices}; choose another method")


def _check_search(method: str, search: SearchParams | None, source: str) -> None:
    if search is not None and search.prompts != GRADIENT:
        _check_collection(search.prompts, source)
    if (method == "discrete") != (search is not None):
        state = "required" if search is None else "only used"
        raise ParamsError(f"section 'search' is {state} by the method discrete")


def _check_collection(name: str, source: str) -> None:
    known = [*PAPER_PROMPTS, *(PROMPT_COLLECTIONS if source == "lama" else ())]
    if name not in known:
        raise ParamsError(
            f"unknown collection of templates '{name}'; {source} has {', '.join(known)}"
        )


def _check_lama_configs(lama: LamaParams, relation: str | None, method: LamaMethod) -> None:
    # Templates of a source's relations are not known before it is downloaded.
    manual = manual_template("{subject} {mask}")
    for config in lama_configs(lama, relation or "", method, manual, masked=True):
        search = config.training.search
        if search is None or method not in lama.methods:
            continue
        if lama.objects == ALL and search.prompts == GRADIENT:
            raise ParamsError(
                "lama.objects: all, but the search of discrete prompts reads objects of one token; "
                "write one-token, take discrete out of lama.methods, or let search.prompts name a "
                "collection"
            )
        if "search.prompts" in config.tried and search.prompts != GRADIENT:
            place = f"overrides.{relation}" if relation else "grid"
            try:
                _check_collection(search.prompts, lama.source)
            except ParamsError as error:
                raise ParamsError(f"lama.{place}.{method}.search.prompts: {error}") from error


def _check_stability(relation: str, lama: LamaParams, known: Collection[str]) -> None:
    if lama.relations == ALL:
        _check_relation(relation, lama.source, known)
    elif relation not in lama.relations:
        raise ParamsError(f"'{relation}' is not in lama.relations; add it there")
    if "discrete" in lama.stability.methods:
        raise ParamsError("discrete has no manual template to vary; take it out of the methods")
    templates = lama.stability.templates
    if isinstance(templates, str):
        _check_collection(templates, lama.source)
        if templates in PAPER_PROMPTS and relation not in PAPER_PROMPTS[templates]:
            raise ParamsError(f"templates: {templates} has none for {relation}; leave it out")
        return
    if len(templates.get(relation, [])) < 2:
        raise ParamsError(f"templates: two or more are needed for {relation}")
    for text in templates[relation]:
        manual_template(text)
