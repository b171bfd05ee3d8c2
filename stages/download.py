"""Download a model or raw data: complete and checked, or not at all."""

from collections.abc import Callable
from pathlib import Path

import typer

from pipeline.config.schema import Params, load_params
from pipeline.files import atomic_dir
from pipeline.sources.base import Source
from pipeline.sources.lama import lama_source
from pipeline.sources.models import ModelSource
from pipeline.sources.superglue import superglue_source
from stages.runtime import (
    Out,
    ParamsFile,
    RunningStage,
    TaskName,
    downloads_folder,
    echo,
    stage,
)

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)


@app.command()
def model(out: Out, params_file: ParamsFile = Path("params.yaml")) -> None:
    """Download the language model as a plain transformers folder."""
    from pipeline.models.loading import check_folder  # torch takes seconds to import

    with stage("download", "model") as ctx:
        params = load_params(params_file)
        ctx.run.set_tags({"model": params.model.name})
        _fetch(ctx, ModelSource(params.model.name), params, out, check=check_folder)
        ctx.run.log_file(out / "config.json")


@app.command()
def lama(out: Out, params_file: ParamsFile = Path("params.yaml")) -> None:
    """Download the raw data of knowledge probing."""
    with stage("download", "lama") as ctx:
        params = load_params(params_file)
        _fetch(ctx, lama_source(params.lama.source, params.lama.facts), params, out)


@app.command()
def superglue(task: TaskName, out: Out, params_file: ParamsFile = Path("params.yaml")) -> None:
    """Download the raw data of one SuperGLUE task."""
    with stage("download", "superglue", task) as ctx:
        params = load_params(params_file)
        source = superglue_source(task, params.superglue.source, params.data.superglue_from)
        _fetch(ctx, source, params, out)


def _fetch(
    ctx: RunningStage,
    source: Source,
    params: Params,
    out: Path,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Fetch a source into a folder, which appears if it passes a check."""
    echo(f"fetching {source.name}" + (f" ({source.license})" if source.license else ""))
    mirror = None if params.data.mirror is None else Path(params.data.mirror)
    with atomic_dir(out) as folder:
        source.fetch(folder, cache=downloads_folder(), mirror=mirror)
        check(folder)
    sizes = [path.stat().st_size for path in out.rglob("*") if path.is_file()]
    ctx.run.log_metrics({"files": len(sizes), "megabytes": sum(sizes) / 1e6})


if __name__ == "__main__":
    app()
