"""Checks of `params.yaml` that need more than its own types: names, templates, folders."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pipeline.data.gazetteer.facts import GAZETTEER_RELATIONS
from pipeline.errors import ParamsError, PipelineError
from pipeline.models.catalogue import check_model_name
from pipeline.params import Params
from pipeline.prompts.template import parse_template
from pipeline.tasks import TASKS
from pipeline.tasks.lama import manual_template


def check_params(params: Params) -> None:
    """Check model, mirror, relations, templates and verbalizers.

    Raises:
        ParamsError: with one line for each mistake.
    """
    mistakes: list[str] = []

    @contextmanager
    def at(path: str) -> Iterator[None]:
        try:
            yield
        except PipelineError as error:
            mistakes.append(f"params.yaml: {path}: {error}")

    with at("model.name"):
        check_model_name(params.model.name)
    with at("data.mirror"):
        _check_mirror(params.data.mirror)
    for place, names in (
        ("lama.relations", params.lama.relations),
        ("lama.templates", params.lama.templates),
    ):
        for relation in names:
            with at(place):
                _check_relation(relation)
    with at("lama.prompt_tokens"):
        if "p-tuning" in params.lama.methods:
            _check_prompt_tokens(sum(params.lama.prompt_tokens.model_dump().values()), tuned=True)
    for name, settings in params.lama.training.items():
        with at(f"lama.training.{name}.tune"):
            _check_lama_tune(name, settings.tune)
    for relation, template in params.lama.templates.items():
        with at(f"lama.templates.{relation}"):
            manual_template(template)
    for task, prompts in params.superglue.prompts.items():
        with at(f"superglue.prompts.{task}.verbalizer"):
            _check_labels(prompts.verbalizer, TASKS[task].labels)
        for method, template in prompts.templates.items():
            with at(f"superglue.prompts.{task}.templates.{method}"):
                parsed = parse_template(template, TASKS[task].fields)
                training = params.superglue.training.get(method)
                if training is not None:
                    _check_prompt_tokens(parsed.prompt_tokens, tuned="prompt" in training.tune)
    if mistakes:
        raise ParamsError("\n".join(dict.fromkeys(mistakes)))


def _check_mirror(mirror: str | None) -> None:
    if mirror is not None and not Path(mirror).is_dir():
        raise ParamsError(f"{mirror} is not a folder; write its path, or null to fetch")


def _check_relation(relation: str) -> None:
    if relation not in GAZETTEER_RELATIONS:
        choices = ", ".join(GAZETTEER_RELATIONS)
        raise ParamsError(f"'{relation}' is not a relation of gazetteer; choose from {choices}")


def _check_lama_tune(method: str, tune: Sequence[str]) -> None:
    wanted = {"manual": [], "p-tuning": ["prompt"]}[method]
    if list(tune) != wanted:
        raise ParamsError(f"{list(tune)}, but on LAMA {method} tunes {wanted}; the model is frozen")


def _check_labels(verbalizer: dict[str, str], labels: tuple[str, ...]) -> None:
    if set(verbalizer) != set(labels):
        raise ParamsError(
            f"labels are {', '.join(verbalizer)}; the task's are {', '.join(labels)}, and each "
            "needs a word"
        )


def _check_prompt_tokens(count: int, *, tuned: bool) -> None:
    if tuned and not count:
        raise ParamsError("no [P] in the template, but this method trains prompt tokens")
    if count and not tuned:
        raise ParamsError("[P] in the template, but tune of this method does not name prompt")
