"""The language models that can be had by name, and how a name becomes a model folder."""

import shutil
import tempfile
from pathlib import Path

from pipeline.errors import DownloadError, ModelError
from pipeline.sources.hub import fetch_from_hub
from pipeline.sources.mirror import copy_from_mirror
from pipeline.sources.model_hub import MODEL_FILES, is_hub_name
from pipeline.sources.registry import fetch_source

# Name in params.yaml -> name in the table of sources. Each is a package that carries a GGUF file.
PACKAGED_MODELS = {"smollm2-135m-instruct": "smollm2-135m-instruct"}

_NEEDED = ("config.json", "tokenizer.json")


def check_model_name(name: str) -> None:
    """Check that a name can be had; of a model of the hub, only the name's form.

    Raises:
        ModelError: it is neither in the catalog, nor a name of the hub, nor a folder with a
            transformers model.
    """
    if name in PACKAGED_MODELS:
        return
    folder = Path(name).expanduser()
    if folder.is_dir():
        missing = _missing_files(folder)
        if missing:
            raise ModelError(
                f"folder {name} has no {missing}; save the model there with "
                "save_pretrained, and its fast tokenizer too"
            )
    elif not is_hub_name(name):
        raise ModelError(
            f"{name!r} is neither a model of the catalog "
            f"({', '.join(PACKAGED_MODELS)}), nor of the Hugging Face hub (organization/name, "
            "organization/name@revision), nor a folder"
        )


def fetch_model(name: str, target: Path, *, cache: Path, mirror: Path | None) -> None:
    """Put a model into a folder, as plain transformers files.

    Args:
        name: a name of the catalog, a folder with a transformers model, or a name of the Hugging
            Face hub, `organization/name` or `organization/name@revision`.
        target: an existing empty folder.
        cache: see `fetch_source`.
        mirror: see `fetch_source`. A model of the hub is its folder `models/<name>`, or the same
            without the organization.

    Raises:
        ModelError: the name is unknown (see `check_model_name`), or the hub's model has no weights
            or tokenizer of the kind that is read here.
        DownloadError: the package or model could not be fetched, or the hub does not have it.
    """
    check_model_name(name)
    if name in PACKAGED_MODELS:
        # Checking a name must not cost the import of torch.
        from pipeline.sources.gguf import convert_gguf

        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as folder:
            fetch_source(PACKAGED_MODELS[name], Path(folder), cache=cache, mirror=mirror)
            convert_gguf(Path(folder, "model.gguf"), target)
        return
    source = Path(name).expanduser()
    if source.is_dir():
        _copy_model(source, target)
    elif mirror is None:
        source = fetch_from_hub(
            name,
            MODEL_FILES,
            kind="model",
            cache=cache / "hub",
            instead=f"Or set data.mirror in params.yaml to a folder with models/{name}, or "
            "model.name to a folder with the model",
        )
        _check_fetched(name, source)
        _copy_model(source, target)
    else:
        source = _find_in_mirror(name, mirror / "models")
        _check_fetched(name, source)
        part = source.relative_to(mirror).as_posix()
        copy_from_mirror(mirror, part, _model_files(source), target, layout="the model")


def _copy_model(source: Path, target: Path) -> None:
    for file in _model_files(source):
        # Never a hard link: DVC makes what it caches read-only, and the user's file with it.
        shutil.copyfile(source / file, target / file)


def _model_files(folder: Path) -> list[str]:
    suffixes = (".safetensors", ".json", ".txt", ".jinja", ".model")
    return sorted(file.name for file in folder.iterdir() if file.suffix in suffixes)


def _find_in_mirror(name: str, models: Path) -> Path:
    folders = [models / name, models / name.rpartition("/")[2]]
    found = next((folder for folder in folders if folder.is_dir()), None)
    if found is None:
        raise DownloadError(
            f"{folders[0]}: not in the mirror; put the model's files there, or set data.mirror to "
            "null to fetch them"
        )
    return found


def _check_fetched(name: str, folder: Path) -> None:
    missing = _missing_files(folder)
    if missing:
        raise ModelError(
            f"{name} has no {missing} (looked in {folder}); choose a model with safetensors "
            "weights and a fast tokenizer, or load it once with transformers, save both with "
            "save_pretrained and set model.name to that folder"
        )


def _missing_files(folder: Path) -> str:
    missing = [file for file in _NEEDED if not (folder / file).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    return ", ".join(missing)
