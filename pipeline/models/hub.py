"""Models of the Hugging Face hub: their names, and how their files are fetched."""

import re
from http import HTTPStatus
from pathlib import Path

from pipeline.errors import ChecksumError, DownloadError, ModelError
from pipeline.files import sha256

# The hub's own rule, so that a name is judged without the hub.
_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_PART}/{_PART}(?<!\.git)(?:@(?!.*\.\.)\w[\w./-]*)?", re.ASCII)

# Names from the hub's first days, without an organisation. No new ones are given, and one that is
# not among them is a slip of the pen.
_LEGACY = frozenset(
    {
        "albert-base-v1", "albert-base-v2", "albert-large-v1", "albert-large-v2",
        "albert-xlarge-v1", "albert-xlarge-v2", "albert-xxlarge-v1", "albert-xxlarge-v2",
        "bert-base-cased", "bert-base-chinese", "bert-base-german-cased",
        "bert-base-multilingual-cased", "bert-base-multilingual-uncased", "bert-base-uncased",
        "bert-large-cased", "bert-large-cased-whole-word-masking", "bert-large-uncased",
        "bert-large-uncased-whole-word-masking", "distilgpt2", "distilroberta-base", "gpt2",
        "gpt2-large", "gpt2-medium", "gpt2-xl", "roberta-base", "roberta-large",
    }
)  # fmt: skip

# What transformers loads by itself: no weights in other formats, no code.
_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
]


def is_hub_name(name: str) -> bool:
    """Tell whether a name has the form `organisation/name`, with or without `@revision`.

    Names without an organisation are only the ones that the hub knows from its first days.
    """
    return _NAME.fullmatch(name) is not None or name.partition("@")[0] in _LEGACY


def fetch_from_hub(name: str, *, cache: Path, endpoint: str | None = None) -> Path:
    """Fetch a model's files and return the folder that they are in.

    A token, a proxy and `HF_HUB_OFFLINE` are those of the environment, as `huggingface_hub` reads
    it. What is in the cache is not fetched again, and is taken as it is without a network.

    Args:
        name: `organisation/name` or `organisation/name@revision`.
        cache: the folder where files are kept, in the layout of the hub's own cache.
        endpoint: the hub's address; None for the usual one.

    Returns:
        A folder of links into the cache, not to be changed. It may lack files that the model lacks.

    Raises:
        ModelError: the hub has no such model or revision, or asks who wants it.
        DownloadError: the files could not be had.
        ChecksumError: a file is not what the hub says; it is deleted.
    """
    # An import of half a second, which checking a name must not cost.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    model, _, revision = name.partition("@")
    instead = (
        f"Or set data.mirror in params.yaml to a folder with models/{name}, or model.name to a "
        "folder with the model"
    )
    again = "Run again: what came is kept."
    try:
        folder = snapshot_download(
            model,
            revision=revision or None,
            cache_dir=cache,
            allow_patterns=_FILES,
            endpoint=endpoint,
        )
    except GatedRepoError as error:
        raise ModelError(
            f"{name}: the hub gives this model only to those who accepted its terms. Accept them "
            f"on its page and set HF_TOKEN to a token of yours. {instead}"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"{name}: the hub has no model {model!r}, or hides it from who is not named; nor is "
            "there a folder of this name. Check the name; for a private model set HF_TOKEN to a "
            f"token of yours. {instead}"
        ) from error
    except RevisionNotFoundError as error:
        raise ModelError(
            f"{name}: the model has no revision {revision!r}; name a branch, tag or commit of it"
        ) from error
    except LocalEntryNotFoundError as error:
        raise DownloadError(
            f"{name}: the hub cannot be reached, and the model is not in {cache} yet: "
            f"{_first_line(error.__cause__ or error)}. Check the network, its proxy settings and "
            f"HF_HUB_OFFLINE. {instead}"
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code == HTTPStatus.UNAUTHORIZED:
            raise ModelError(
                f"{name}: the hub does not take your token; set HF_TOKEN to a valid one, or, for a "
                f"public model, unset it. {instead}"
            ) from error
        raise DownloadError(f"{name}: {_first_line(error)}. {again} {instead}") from error
    # Those of its HTTP library come through as they are.
    except Exception as error:
        raise DownloadError(f"{name}: {_first_line(error)}. {again} {instead}") from error
    _check_files(name, Path(folder))
    return Path(folder)


def _check_files(name: str, folder: Path) -> None:
    """Check the large files, which the hub's cache names by their digest."""
    for file in sorted(folder.iterdir()):
        digest = file.resolve().name
        if re.fullmatch("[0-9a-f]{64}", digest) and sha256(file) != digest:
            file.resolve().unlink()
            file.unlink()
            raise ChecksumError(
                f"{name}: {file.name} has another sha256 than the hub says, {digest}; the file was "
                "altered on the way. It is deleted: run again"
            )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")
