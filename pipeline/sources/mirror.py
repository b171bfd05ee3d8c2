"""Take files from a mirror: a local folder with copies of what is fetched otherwise."""

import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from pipeline import files
from pipeline.errors import ChecksumError, DownloadError

SUMS = "SHA256SUMS"


def copy_from_mirror(
    mirror: Path, part: str, names: Iterable[str], target: Path, *, layout: str
) -> None:
    """Copy files of one of the mirror's folders, each checked if the mirror lists its digest.

    Args:
        mirror: the mirror's folder; its `SHA256SUMS`, if there is one, is what sha256sum writes.
        part: the folder in it.
        names: paths in that folder, and in `target`.
        target: an existing folder.
        layout: what the folder has to hold, in words.

    Raises:
        DownloadError: a file is missing.
        ChecksumError: a file has another digest than the one listed.
    """
    names = list(names)
    missing = [name for name in names if not (mirror / part / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DownloadError(
            f"{mirror / part / missing[0]}{more}: not in the mirror. Its folder {part}/ has to "
            f"hold {layout}; add what is missing, or set data.mirror to null to fetch it"
        )
    digests = _read_digests(mirror / SUMS)
    for name in names:
        source = mirror / part / name
        expected = digests.get(f"{part}/{name}")
        if expected is not None and (found := files.sha256(source)) != expected:
            raise ChecksumError(
                f"{source}: sha256 is {found}, but {mirror / SUMS} says {expected}; copy the file "
                "into the mirror again"
            )
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)


def _read_digests(path: Path) -> dict[str, str]:
    """Return path -> digest."""
    if not path.is_file():
        return {}
    digests = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        found = re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(.+)", line)
        if found is None:
            raise ChecksumError(f"{path}:{number}: not a line of sha256sum; write the file anew")
        digests[found[2]] = found[1]
    return digests
