"""Trained prompts on disk, with all that is needed to use them.

A folder holds `prompts.json` (method, templates, words), `prompts.safetensors` (the vectors, by
prompt name) and, where the language model was tuned, its weights in `weights/<name>.safetensors`.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from pipeline.errors import DataError
from pipeline.files import read_json, write_json


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
    """

    template: str
    vectors: Tensor | None
    best_epoch: int
    dev_score: float
    verbalizer: dict[str, str] | None = None
    max_length: int | None = None
    words: list[str] | None = None


def weights_file(folder: Path, name: str) -> Path:
    """Path of the tuned model's weights of one prompt; it exists if the model was tuned."""
    return folder / "weights" / f"{name.replace('/', '-')}.safetensors"


def save_prompts(folder: Path, method: str, prompts: Mapping[str, StoredPrompt]) -> None:
    """Write the prompts of one method, by name of the trial.

    Raises:
        DataError: the vectors of a prompt are not finite.
    """
    described: dict[str, Any] = {
        name: {
            "template": prompt.template,
            "prompt_tokens": 0 if prompt.vectors is None else len(prompt.vectors),
            "best_epoch": prompt.best_epoch,
            "dev_score": prompt.dev_score,
            "verbalizer": prompt.verbalizer,
            "max_length": prompt.max_length,
            "words": prompt.words,
        }
        for name, prompt in prompts.items()
    }
    vectors = {
        name: prompt.vectors.float().cpu().contiguous()
        for name, prompt in prompts.items()
        if prompt.vectors is not None
    }
    _check_finite(folder, vectors)
    write_json(folder / "prompts.json", {"method": method, "prompts": described})
    if vectors:
        save_file(vectors, folder / "prompts.safetensors")


def load_prompts(folder: Path) -> dict[str, StoredPrompt]:
    """Read what `save_prompts` wrote.

    Raises:
        DataError: a file is missing, the two do not belong together, or vectors are not finite.
    """
    described = read_json(folder / "prompts.json")["prompts"]
    path = folder / "prompts.safetensors"
    try:
        vectors = load_file(path) if path.exists() else {}
    except SafetensorError as error:
        raise DataError(f"{path}: cut or altered ({error}); train again") from error
    _check_finite(folder, vectors)
    prompts = {}
    for name, entry in described.items():
        count = entry.pop("prompt_tokens")
        found = vectors.get(name)
        if (0 if found is None else len(found)) != count:
            raise DataError(f"{path}: no {count} vectors for {name}; train again")
        prompts[name] = StoredPrompt(vectors=found, **entry)
    return prompts


def _check_finite(folder: Path, vectors: Mapping[str, Tensor]) -> None:
    for name, own in vectors.items():
        if not own.isfinite().all():
            raise DataError(
                f"{folder}: the prompt vectors of {name} contain NaN or infinity; train again with "
                "a lower learning_rate"
            )
