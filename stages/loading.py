"""From `params.yaml` to a loaded language model: what training and evaluation share."""

from pathlib import Path

from pipeline.config.schema import Params
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from stages.runtime import RunningStage


def load_network(
    this: RunningStage,
    params: Params,
    folder: Path,
    *,
    tuned: bool = False,
    weights: Path | None = None,
    labels: int | None = None,
    seed: int = 0,
) -> PromptedModel:
    """Load the language model as `params` say; the rest is as in `load_model`."""
    this.run.set_tags({"model": params.model.name})
    return load_model(
        folder,
        device=params.runtime.device,
        dtype=params.model.dtype,
        threads=params.runtime.threads,
        tuned=tuned,
        weights=weights,
        labels=labels,
        seed=seed,
    )
