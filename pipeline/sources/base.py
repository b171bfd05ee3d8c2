"""The interface of every source of data and models."""

from pathlib import Path
from typing import Protocol

from pipeline.errors import ChecksumError
from pipeline.files import sha256

SET_MIRROR = "set data.mirror in params.yaml to a folder with a local copy"


class Source(Protocol):
    """Files of known content that can be fetched into a folder.

    Attributes:
        name: as shown to the user.
        license: of the content; empty if unknown.
    """

    @property
    def name(self) -> str: ...

    @property
    def license(self) -> str: ...

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Write the source's files into an existing folder, each of them checked.

        Complete downloads are kept in the folder `cache`, so that another stage, or a run after a
        kill, reuses them. With a mirror, everything is taken from there, not from the network.

        Raises:
            DownloadError: the network or the mirror does not have it.
            ChecksumError: a file does not have the expected content.
        """
        ...

    def probe(self, *, cache: Path, mirror: Path | None, seconds: float) -> str:
        """Describe where `fetch` would find the files, without fetching them.

        `seconds` is the timeout for each host.

        Raises:
            PipelineError: they are not available; the first line says why, the others what to do.
        """
        ...


def check_sha256(path: Path, expected: str, what: str, advice: str) -> None:
    """Check a file's digest.

    Raises:
        ChecksumError: it is another one; the text names `what` and both digests, then `advice`.
    """
    digest = sha256(path)
    if digest != expected:
        raise ChecksumError(f"{what}: sha256 is {digest}, expected {expected}.\n{advice}")
