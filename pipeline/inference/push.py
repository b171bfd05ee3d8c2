"""Push an exported folder to the Hugging Face hub."""

from http import HTTPStatus
from pathlib import Path

from pipeline.errors import PipelineError
from pipeline.sources.hub import is_hub_name

_LOGIN = "run `hf auth login`, or set HF_TOKEN to a token with write access"


class PushError(PipelineError):
    """The hub does not take the folder."""


def check_access(repository: str) -> None:
    """Check, without the hub, a repository's name and that there is a token.

    Raises:
        PushError: one of them is missing or invalid, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants, get_token

    if "@" in repository or "/" not in repository or not is_hub_name(repository):
        raise PushError(
            f"{repository!r} is not the name of a repository; write user/name or organization/name"
        )
    if constants.HF_HUB_OFFLINE:
        raise PushError(f"{repository}: HF_HUB_OFFLINE is set; unset it to push")
    if get_token() is None:
        raise PushError(f"{repository}: no token of the Hugging Face hub; {_LOGIN}")


def push_folder(folder: Path, repository: str, *, private: bool, add: bool) -> str:
    """Create a model repository and upload a folder into it; return its address.

    Token, proxy and `HF_ENDPOINT` are those of the user, as `huggingface_hub` reads them.

    Args:
        folder: that `export` wrote.
        repository: `user/name` or `organization/name`.
        private: whether a new repository is visible to its owner only.
        add: whether files may be added to a repository that exists; those of the same name are
            replaced, in a new commit.

    Raises:
        PushError: as `check_access`; no access, the repository exists, or the hub failed.
    """
    from huggingface_hub import HfApi, constants, errors

    check_access(repository)
    api = HfApi(library_name="p-tuning-pipeline")
    created = False
    try:
        url = api.create_repo(repository, private=private, exist_ok=add)
        created = True
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Push with ptune")
    except errors.HfHubHTTPError as error:
        raise PushError(f"{repository}: {_explain(error, created=created)}") from error
    except Exception as error:  # errors of its HTTP library reach us unchanged
        again = "; run again with --add, which resumes" if created else ""
        raise PushError(
            f"{repository}: the connection to {constants.ENDPOINT} failed: {_line(error)}; check "
            f"the network and its proxy settings{again}"
        ) from error
    return str(url)


def _explain(error: Exception, *, created: bool) -> str:
    """What an answer of the hub means, and what to do."""
    status = error.response.status_code  # type: ignore[attr-defined]
    if status == HTTPStatus.UNAUTHORIZED:
        return f"the hub does not accept your token; {_LOGIN}"
    if status == HTTPStatus.FORBIDDEN:
        return f"your token may not write there; check the owner's name, or {_LOGIN}"
    if status == HTTPStatus.CONFLICT and not created:
        return "the repository exists; name another, or add a commit to it with --add"
    again = " with --add, as the repository exists now" if created else ""
    return f"the hub failed ({_line(error)}); run again later{again}"


def _line(error: BaseException) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return (lines[0].strip() if lines else type(error).__name__).rstrip(".")
