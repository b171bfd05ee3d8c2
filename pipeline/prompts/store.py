"""Trained prompts on disk, with all that is needed to use them.

A folder holds `prompts.json` (method, templates, words), `prompts.safetensors` (the vectors, by
prompt name) and, where the language model was tuned, its weights in `weights/<name>.safetensors`.
`prompts.json` has the SHA-256 of the other files, so that none is missing or replaced unnoticed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import NoneType
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import DataError
from pipeline.files import read_object, sha256, write_json, written_durably

_RESTORE = "restore it with `dvc checkout` or `dvc pull`, or train again with `dvc repro`"


@dataclass(frozen=True)
class StoredFile:
    """A file that `prompts.json` names.

    Attributes:
        sha256: None if an earlier version wrote the record, which has no digests.
    """

    path: Path
    sha256: str | None

    @cached_property
    def checked_path(self) -> Path:
        """The path, after the content was compared with the digest: once, as files are large.

        Raises:
            DataError: the file is missing or has another content.
        """
        self.check_exists()
        if self.sha256 is not None and self.sha256 != (found := sha256(self.path)):
            raise DataError(
                f"{self.path}: replaced or altered: its SHA-256 is {found}, but prompts.json "
                f"records {self.sha256}; {_RESTORE}"
            )
        return self.path

    def check_exists(self) -> None:
        """Check, without reading it, that the file exists.

        Raises:
            DataError: it does not.
        """
        if not self.path.is_file():
            raise DataError(f"{self.path}: missing; the prompts were trained with it; {_RESTORE}")


@dataclass(frozen=True)
class StoredPrompt:
    """One trained prompt.

    Attributes:
        template: in the template language.
        vectors: (prompt tokens, embedding size) float32; None where the template has none.
        best_epoch: the epoch that dev chose; 0 is before training.
        dev_score: of that epoch, by the task's metric.
        verbalizer: label -> word; None where the allowed words come with the data.
        max_length: maximum number of positions of a row; None: the model's.
        words: of a discrete prompt, those whose embeddings the vectors are.
        weights: of the tuned language model; None where it is frozen, and before saving.
    """

    template: str
    vectors: Tensor | None
    best_epoch: int
    dev_score: float
    verbalizer: dict[str, str] | None = None
    max_length: int | None = None
    words: list[str] | None = None
    weights: StoredFile | None = None

    def check(self) -> None:
        """Check the types of what was read from a file.

        Raises:
            TypeError: one is wrong.
        """
        expected: dict[str, tuple[type, ...]] = {
            "template": (str,), "best_epoch": (int,), "dev_score": (float, int),
            "verbalizer": (dict, NoneType), "max_length": (int, NoneType),
            "words": (list, NoneType),
        }  # fmt: skip
        for name, types in expected.items():
            if not isinstance(value := getattr(self, name), types):
                raise TypeError(f"{name} is {value!r}")

    @property
    def weights_path(self) -> Path | None:
        """The file of the tuned model's weights, checked; None where the model is frozen."""
        return None if self.weights is None else self.weights.checked_path


def weights_file(folder: Path, name: str) -> Path:
    """Path of the tuned model's weights of one prompt; it exists if the model was tuned."""
    return folder / "weights" / f"{name.replace('/', '-')}.safetensors"


def save_prompts(folder: Path, method: str, prompts: Mapping[str, StoredPrompt]) -> None:
    """Write the prompts of one method, by name of the trial; tuned weights are there already.

    Raises:
        DataError: the vectors of a prompt are not finite.
    """
    vectors = {
        name: prompt.vectors.float().cpu().contiguous()
        for name, prompt in prompts.items()
        if prompt.vectors is not None
    }
    _check_finite(folder, vectors)
    path = folder / "prompts.safetensors"
    if vectors:
        folder.mkdir(parents=True, exist_ok=True)
        with written_durably(path) as partial:
            save_file(vectors, partial)
    described: dict[str, Any] = {
        name: {
            "template": prompt.template,
            "prompt_tokens": 0 if prompt.vectors is None else len(prompt.vectors),
            "best_epoch": prompt.best_epoch,
            "dev_score": prompt.dev_score,
            "verbalizer": prompt.verbalizer,
            "max_length": prompt.max_length,
            "words": prompt.words,
            "weights": _describe(weights_file(folder, name), folder),
        }
        for name, prompt in prompts.items()
    }
    record = {"method": method, "vectors": _describe(path, folder), "prompts": described}
    write_json(folder / "prompts.json", record)


def _describe(path: Path, folder: Path) -> dict[str, str] | None:
    if not path.exists():
        return None
    return {"file": path.relative_to(folder).as_posix(), "sha256": sha256(path)}


def load_prompts(folder: Path, *, tuned: bool = False) -> dict[str, StoredPrompt]:
    """Read what `save_prompts` wrote. Weights are only looked for: `weights_path` reads them.

    Records of earlier versions name no files. Of these, weights are used if they are there;
    `tuned` says that they must be.

    Raises:
        DataError: a file is missing, they do not belong together, or vectors are not finite.
    """
    file = folder / "prompts.json"
    record = read_object(file, "prompts")
    try:
        return _read_prompts(folder, record, tuned=tuned)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise DataError(f"{file}: not what training writes ({reason}); {_RESTORE}") from error


def _read_prompts(
    folder: Path, record: Mapping[str, Any], *, tuned: bool
) -> dict[str, StoredPrompt]:
    path = folder / "prompts.safetensors"
    if record.get("vectors") is not None:
        _stored(folder, record["vectors"]).checked_path  # noqa: B018
    try:
        vectors = load_file(path) if path.exists() else {}
    except SafetensorError as error:
        raise DataError(f"{path}: cut or altered ({error}); {_RESTORE}") from error
    _check_finite(folder, vectors)
    prompts = {}
    for name, entry in record["prompts"].items():
        count = entry.pop("prompt_tokens")
        found = vectors.get(name) if count else None
        if (0 if found is None else len(found)) != count:
            raise DataError(f"{path}: no {count} vectors for {name}; {_RESTORE}")
        if "weights" not in entry:
            weights = StoredFile(weights_file(folder, name), None)
            entry["weights"] = weights if tuned or weights.path.exists() else None
        elif entry["weights"] is not None:
            entry["weights"] = _stored(folder, entry["weights"])
        if entry["weights"] is not None:
            entry["weights"].check_exists()
        prompts[name] = prompt = StoredPrompt(vectors=found, **entry)
        prompt.check()
    return prompts


def _stored(folder: Path, described: Mapping[str, str]) -> StoredFile:
    file = Path(described["file"])
    if file.is_absolute() or ".." in file.parts:
        raise ValueError(f"{file} is outside of the folder")
    return StoredFile(folder / file, described["sha256"])


def _check_finite(folder: Path, vectors: Mapping[str, Tensor]) -> None:
    for name, own in vectors.items():
        if not own.isfinite().all():
            raise DataError(
                f"{folder}: the prompt vectors of {name} contain NaN or infinity; train again with "
                "a lower learning_rate"
            )
