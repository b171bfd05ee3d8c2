"""Fetch a model or raw data: whole and checked, or nothing."""

from pathlib import Path

import typer

from pipeline.config.schema import Params, load_params
from pipeline.files import atomic_dir
from pipeline.sources.models import fetch_model
from pipeline.sources.registry import SOURCES, fetch_source
from stages.runtime import Out, ParamsFile, TaskName, downloads_folder, echo, stage

app = typer.Typer(help=__doc__, add_completion=False, no_args_is_help=True)

# Source of a benchmark in params.yaml -> name in the table of sources, where it is another one.
_RAW = {"geonames": "geonames"}


@app.command()
def model(out: Out, params_file: ParamsFile = Path("params.yaml")) -> None:
    """Fetch the language model as a plain transformers folder."""
    with stage("download", "model") as this:
        params = load_params(params_file)
        this.run.set_tags({"model": params.model.name})
        echo(f"fetching {params.model.name}")
        with atomic_dir(out) as folder:
            fetch_model(params.model.name, folder, cache=downloads_folder(), mirror=_mirror(params))
        this.run.log_file(out / "config.json")
        this.run.log_metrics(_sizes(out))


@app.command()
def lama(out: Out, params_file: ParamsFile = Path("params.yaml")) -> None:
    """Fetch the raw data of knowledge probing."""
    with stage("download", "lama") as this:
        params = load_params(params_file)
        _fetch(params, params.lama.source, out)
        this.run.log_metrics(_sizes(out))


@app.command()
def superglue(task: TaskName, out: Out, params_file: ParamsFile = Path("params.yaml")) -> None:
    """Fetch the raw data of one SuperGLUE task."""
    with stage("download", "superglue", task) as this:
        params = load_params(params_file)
        source: str = params.superglue.source
        if source == "superglue":
            hub = "-hub" if params.data.superglue_from == "hub" else ""
            source = f"superglue{hub}/{task}"
        _fetch(params, source, out)
        this.run.log_metrics(_sizes(out))


def _fetch(params: Params, source: str, out: Path) -> None:
    name = _RAW.get(source, source)
    echo(f"fetching {name} ({SOURCES[name].license})")
    with atomic_dir(out) as folder:
        fetch_source(name, folder, cache=downloads_folder(), mirror=_mirror(params))


def _mirror(params: Params) -> Path | None:
    return None if params.data.mirror is None else Path(params.data.mirror)


def _sizes(folder: Path) -> dict[str, float]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {"files": len(files), "megabytes": sum(path.stat().st_size for path in files) / 1e6}


if __name__ == "__main__":
    app()
