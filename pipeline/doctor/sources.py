"""Checks of data and model: already fetched, or available where they would be fetched from."""

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from pipeline.config.schema import Params
from pipeline.doctor.checks import Check, Problem
from pipeline.errors import PipelineError
from pipeline.sources.base import Source
from pipeline.sources.lama import lama_source
from pipeline.sources.models import ModelSource, check_model_name
from pipeline.sources.superglue import superglue_source

MODEL_STAGE = "download-model"


def needed_sources(params: Params) -> dict[str, Source]:
    """Stage of `dvc.yaml` -> the source that it fetches."""
    needed: dict[str, Source] = {
        MODEL_STAGE: ModelSource(params.model.name),
        "download-lama": lama_source(params.lama.source, params.lama.facts),
    }
    for task in params.superglue.tasks:
        source = superglue_source(task, params.superglue.source, params.data.superglue_from)
        needed[f"download-superglue@{task}"] = source
    return needed


def source_checks(
    params: Params, outputs: Mapping[str, Path], cache: Path, seconds: float
) -> dict[str, Check]:
    """Name -> check, of the model and of each source that `params.yaml` needs.

    `outputs` is stage -> its output folder, for stages that are up to date with `params.yaml`.
    """
    mirror = None if params.data.mirror is None else Path(params.data.mirror)

    def check(source: Source, stages: list[str]) -> str | Problem:
        from pipeline.models.loading import check_folder  # torch takes seconds to import

        try:
            if all(stage in outputs for stage in stages):
                if MODEL_STAGE in stages:
                    check_model_name(str(outputs[MODEL_STAGE]))
                    check_folder(outputs[MODEL_STAGE])
                text = f"already fetched: {', '.join(str(outputs[stage]) for stage in stages)}"
            else:
                text = source.probe(cache=cache, mirror=mirror, seconds=seconds)
                if MODEL_STAGE in stages and (folder := Path(params.model.name)).is_dir():
                    check_folder(folder)
        except PipelineError as error:
            reason, _, advice = str(error).partition("\n")
            return Problem("failed", reason, advice)
        return f"{source.name}, {text}" if MODEL_STAGE in stages else text

    stages_of: dict[str, tuple[Source, list[str]]] = {}
    for stage, source in needed_sources(params).items():
        name = "model" if stage == MODEL_STAGE else f"data {source.name}"
        stages_of.setdefault(name, (source, []))[1].append(stage)
    return {name: partial(check, *item) for name, item in stages_of.items()}
