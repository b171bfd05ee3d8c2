"""Fetch files of the Hugging Face hub: models and datasets."""

import re
from collections.abc import Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Literal

from pipeline.errors import ChecksumError, DownloadError
from pipeline.files import sha256


def fetch_from_hub(
    name: str,
    files: Sequence[str],
    *,
    kind: Literal["model", "dataset"],
    cache: Path,
    instead: str,
    endpoint: str | None = None,
) -> Path:
    """Fetch files of one repository and return the folder that they are in.

    A token, a proxy and `HF_HUB_OFFLINE` are those of the environment, as `huggingface_hub` reads
    it. What is in the cache is not fetched again, and is taken as it is without a network.

    Args:
        name: `organization/name` or `organization/name@revision`.
        files: names of files, or patterns of names.
        kind: of the repository.
        cache: the folder where files are kept, in the layout of the hub's own cache.
        instead: what a person can do who cannot have it from the hub; a sentence, without its end.
        endpoint: the hub's address; None for the usual one.

    Returns:
        A folder of links into the cache, not to be changed. It lacks the files that the repository
        lacks.

    Raises:
        DownloadError: the hub has no such repository or revision, asks who wants it, or the files
            could not be had.
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

    repository, _, revision = name.partition("@")
    again = "Run again: what came is kept."
    try:
        folder = snapshot_download(
            repository,
            repo_type=kind,
            revision=revision or None,
            cache_dir=cache,
            allow_patterns=list(files),
            endpoint=endpoint,
        )
    except GatedRepoError as error:
        raise DownloadError(
            f"{name}: the hub gives this {kind} only to those who accepted its terms. Accept them "
            f"on its page and set HF_TOKEN to a token of yours. {instead}"
        ) from error
    except RepositoryNotFoundError as error:
        raise DownloadError(
            f"{name}: the hub has no {kind} {repository!r}, or hides it from who is not named; nor "
            "is there a folder of this name. Check the name; if it is private, set HF_TOKEN to a "
            f"token of yours. {instead}"
        ) from error
    except RevisionNotFoundError as error:
        raise DownloadError(
            f"{name}: the {kind} has no revision {revision!r}; name a branch, tag or commit of it"
        ) from error
    except LocalEntryNotFoundError as error:
        raise DownloadError(
            f"{name}: the hub cannot be reached, and the {kind} is not in {cache} yet: "
            f"{_first_line(error.__cause__ or error)}. Check the network, its proxy settings and "
            f"HF_HUB_OFFLINE. {instead}"
        ) from error
    except HfHubHTTPError as error:
        if error.response.status_code == HTTPStatus.UNAUTHORIZED:
            raise DownloadError(
                f"{name}: the hub does not take your token; set HF_TOKEN to a valid one, or, for "
                f"what is public, unset it. {instead}"
            ) from error
        raise DownloadError(f"{name}: {_first_line(error)}. {again} {instead}") from error
    # Those of its HTTP library come through as they are.
    except Exception as error:
        raise DownloadError(f"{name}: {_first_line(error)}. {again} {instead}") from error
    _check_files(name, Path(folder))
    return Path(folder)


def _check_files(name: str, folder: Path) -> None:
    """Check the large files, which the hub's cache names by their digest."""
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        digest = file.resolve().name
        if re.fullmatch("[0-9a-f]{64}", digest) and sha256(file) != digest:
            file.resolve().unlink()
            file.unlink()
            raise ChecksumError(
                f"{name}: {file.relative_to(folder)} has another sha256 than the hub says, "
                f"{digest}; the file was altered on the way. It is deleted: run again"
            )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")
