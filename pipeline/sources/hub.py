"""Fetch files of models and datasets from the Hugging Face hub."""

import contextlib
import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import ChecksumError, DownloadError
from pipeline.files import sha256, write_text
from pipeline.sources.base import SET_MIRROR

# The hub's rule for names, to check one without the hub.
_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_PART}/{_PART}(?<!\.git)(?:@(?!.*\.\.)\w[\w./-]*)?", re.ASCII)

# The hub's first names have no organization. There are no new ones, so any other is a typing error.
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

RepoType = Literal["model", "dataset"]
Row = dict[str, Any]

# Error of the hub's client -> the reason, and what to do.
_REASONS = {
    "GatedRepoError": (
        "the hub gives access to this {type} only after you accept its terms",
        "Accept them on its page and set HF_TOKEN to your token",
    ),
    "RepositoryNotFoundError": (
        "the hub has no {type} {repository!r}, or it is private; no local folder of that name "
        "exists either",
        "Check the name; if it is private, set HF_TOKEN to your token",
    ),
    "RevisionNotFoundError": (
        "the {type} has no revision {revision!r}",
        "Name one of its branches, tags or commits",
    ),
}


def is_hub_name(name: str) -> bool:
    """Whether a name has the form `organization/name`, with or without `@revision`.

    Of names without an organization, only the hub's first ones do.
    """
    return _NAME.fullmatch(name) is not None or name.partition("@")[0] in _LEGACY


def fetch_from_hub(
    name: str,
    files: Sequence[str],
    *,
    repo_type: RepoType,
    cache: Path,
    instead: str,
    endpoint: str | None = None,
) -> Path:
    """Fetch files of one repository and return the folder that contains them.

    A token, a proxy and `HF_HUB_OFFLINE` are those of the environment, as `huggingface_hub` reads
    it. Files in the cache are not fetched again, and are used unchecked if there is no network.

    The name may have `@revision`; `files` are names, or patterns of names. `cache` has the layout
    of the hub's own cache. `instead` is what to do if the hub does not have it, a sentence without
    its period.

    Returns:
        A folder of links into the cache, not to be changed. Files that the repository does not have
        are missing in it.

    Raises:
        DownloadError: the hub does not have the repository or revision, access is denied, or the
            files could not be downloaded.
        ChecksumError: a file has another digest than the hub says; it is deleted.
    """
    # An import of half a second, which checking a name must not cost.
    from huggingface_hub import snapshot_download

    repository, _, revision = name.partition("@")
    with _clear_errors(name, repo_type, cache, instead):
        folder = snapshot_download(
            repository,
            repo_type=repo_type,
            revision=revision or None,
            cache_dir=cache,
            allow_patterns=list(files),
            endpoint=endpoint,
        )
    for file, digest in _altered(Path(folder)):
        file.resolve().unlink()
        file.unlink()
        raise ChecksumError(
            f"{name}: {file.relative_to(folder)} has another sha256 than the hub says, "
            f"{digest}.\nThe file was altered on the way and is deleted: run again"
        )
    return Path(folder)


def fetch_tables(
    name: str,
    tables: Mapping[str, str],
    lines: Callable[[Iterable[Row]], list[str]],
    target: Path,
    *,
    what: str,
    cache: Path,
    instead: str,
) -> None:
    """Fetch tables of examples and write them as text files into a folder.

    Args:
        name: of the data set's repository, with its revision.
        tables: name of the file to write -> path of the table (Parquet).
        lines: rows of a table, labels by name -> lines of the file.
        target: an existing folder.
        what: name of the task, for messages.
        cache: see `fetch_from_hub`.
        instead: see `fetch_from_hub`.

    Raises:
        DownloadError: see `fetch_from_hub`.
        ChecksumError: a file is missing or altered, or not a table of this task's examples.
    """
    files = list(tables.values())
    folder = fetch_from_hub(name, files, repo_type="dataset", cache=cache, instead=instead)
    for file, table in tables.items():
        try:
            text = "".join(f"{line}\n" for line in lines(_read_table(folder / table)))
        except Exception as error:  # pyarrow and datasets raise many kinds
            reason = str(error).strip().partition("\n")[0] or type(error).__name__
            raise ChecksumError(
                f"{name}: {table} is not a table of examples of {what} ({reason}).\n{instead}"
            ) from error
        write_text(target / file, text)


def _read_table(path: Path) -> list[Row]:
    """The rows of a table, with labels by name."""
    from datasets import Dataset, disable_progress_bars  # takes seconds to import

    if not path.is_file():
        raise FileNotFoundError("the hub has no such file")
    disable_progress_bars()
    with tempfile.TemporaryDirectory() as cache:
        table = Dataset.from_parquet(str(path), cache_dir=cache, keep_in_memory=True)
        label = table.features["label"]
        return [{**row, "label": label.int2str(row["label"])} for row in table]


def find_in_user_cache(name: str) -> Path | None:
    """Folder of a model in the user's own cache (`HF_HOME`, `HF_HUB_CACHE`); None if not there.

    Without `@revision` it is that of the branch `main` when it was fetched. No network is used.
    """
    from huggingface_hub import constants, errors, snapshot_download

    repository, _, revision = name.partition("@")
    try:
        folder = snapshot_download(
            repository,
            revision=revision or None,
            cache_dir=constants.HF_HUB_CACHE,
            local_files_only=True,
        )
    except errors.LocalEntryNotFoundError:
        return None
    return Path(folder)


def check_user_cache(name: str, files: Sequence[Path]) -> None:
    """Check the digests of files in the user's cache, which are not deleted.

    Raises:
        ChecksumError: a file was altered.
    """
    for file, digest in _altered(*files):
        raise ChecksumError(
            f"{name}: {file} has another sha256 than its name in the cache says, {digest}.\n"
            "The file was altered: delete it from the cache of the Hugging Face hub, and run again"
        )


def _altered(*paths: Path) -> Iterator[tuple[Path, str]]:
    """Yield files, of folders too, whose digest is not the one that the hub's cache names."""
    files = [file for path in paths for file in (path.rglob("*") if path.is_dir() else [path])]
    for file in sorted(path for path in files if path.is_file()):
        digest = file.resolve().name
        if re.fullmatch("[0-9a-f]{64}", digest) and sha256(file) != digest:
            yield file, digest


def probe_hub(name: str, repo_type: RepoType, seconds: float) -> None:
    """Check that the hub has a repository (see `fetch_from_hub`), and that it may be fetched.

    Raises:
        DownloadError: it does not, or has not answered within `seconds`.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"{name} would be fetched from the Hugging Face hub, but HF_HUB_OFFLINE is set\n"
            f"Unset it, or {SET_MIRROR}"
        )
    repository, _, revision = name.partition("@")
    with _clear_errors(name, repo_type, None, f"Or {SET_MIRROR}"):
        api = HfApi()
        info = api.repo_info(
            repository, repo_type=repo_type, revision=revision or "main", timeout=seconds
        )
        if info.gated:
            api.auth_check(repository, repo_type=repo_type)


def is_cached(name: str, cache: Path) -> bool:
    """Whether an earlier download has put a model into the cache."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    path = try_to_load_from_cache(
        repository, "config.json", cache_dir=cache, revision=revision or None
    )
    return isinstance(path, str)


@contextlib.contextmanager
def _clear_errors(name: str, repo_type: str, cache: Path | None, instead: str) -> Iterator[None]:
    """Turn every error of the hub's client into a DownloadError with the next step."""
    try:
        yield
    except Exception as error:  # errors of its HTTP library reach us unchanged
        reason, advice = _explain(error, name, repo_type, cache)
        raise DownloadError(f"{name}: {reason}.\n{advice}. {instead}") from error


def _explain(error: Exception, name: str, repo_type: str, cache: Path | None) -> tuple[str, str]:
    from huggingface_hub import constants, errors

    repository, _, revision = name.partition("@")
    if type(error).__name__ in _REASONS:
        reason, advice = _REASONS[type(error).__name__]
        return reason.format(type=repo_type, repository=repository, revision=revision), advice
    reason = _first_line(error)
    if isinstance(error, errors.LocalEntryNotFoundError):
        reason = _first_line(error.__cause__ or error)
        return (
            f"the hub cannot be reached, and the {repo_type} is not in {cache} yet: {reason}",
            "Check the network, its proxy settings and HF_HUB_OFFLINE",
        )
    if isinstance(error, errors.HfHubHTTPError):
        if error.response.status_code == HTTPStatus.UNAUTHORIZED:
            return (
                "the hub does not accept your token",
                "Set HF_TOKEN to a valid one, or unset it for public repositories",
            )
    elif cache is None:
        return (
            f"the hub ({constants.ENDPOINT}) does not answer: {reason}",
            "Check the network and its proxy settings",
        )
    return reason, "Run again: what was downloaded is kept"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__).rstrip(".")
