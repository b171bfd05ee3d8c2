"""Copy files from a mirror: a local folder with copies of what is otherwise fetched."""

import re
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from pipeline.errors import ChecksumError, DownloadError
from pipeline.files import read_lines
from pipeline.sources.base import Source, check_sha256

SUMS = "SHA256SUMS"


def copy_from_mirror(
    mirror: Path,
    part: str,
    names: Mapping[str, str] | Iterable[str],
    target: Path,
    layout: str = "",
) -> None:
    """Copy files of one of the mirror's folders, each checked if its digest is known.

    Args:
        mirror: the mirror's folder; its `SHA256SUMS`, if there is one, is what sha256sum writes.
        part: the folder in it.
        names: paths in that folder, and in `target`; or path -> digest, for files whose digest does
            not depend on the mirror.
        target: an existing folder.
        layout: files that the folder has to contain, for the message; by default `names`.

    Raises:
        DownloadError: a file is missing.
        ChecksumError: a file has another digest than the expected one.
    """
    expected = dict(names) if isinstance(names, Mapping) else dict.fromkeys(names, "")
    missing = [name for name in expected if not (mirror / part / name).is_file()]
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DownloadError(
            f"{mirror / part / missing[0]}{more}: not in the mirror.\nIts folder {part}/ has to "
            f"contain {layout or ' and '.join(expected)}; add what is missing, or set data.mirror "
            "to null to fetch it"
        )
    listed = read_digests(mirror / SUMS) if (mirror / SUMS).is_file() else {}
    for name, digest in expected.items():
        source, what = mirror / part / name, f"{mirror / part / name}"
        if not digest:
            digest, what = listed.get(f"{part}/{name}", ""), f"{what}, listed in {mirror / SUMS}"
        if digest:
            check_sha256(source, digest, what, "Copy the file into the mirror again")
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, target / name)


def probe_mirror(source: Source, mirror: Path) -> str:
    """Check that a mirror has all of a source, by fetching it; see `Source.probe`."""
    with tempfile.TemporaryDirectory() as folder:
        source.fetch(Path(folder), cache=Path(folder), mirror=mirror)
    return f"complete in the mirror, {mirror}"


def read_digests(path: Path) -> dict[str, str]:
    """Path -> digest, as listed in a file of sha256sum.

    Raises:
        ChecksumError: a line has another form.
        DataError: the file is not UTF-8 text.
    """
    digests = {}
    for number, line in enumerate(read_lines(path), 1):
        if not line:
            continue
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](?:\./)?(.+)", line.rstrip("\r"))
        if match is None:
            raise ChecksumError(f"{path}:{number}: not a line of sha256sum; write the file again")
        digests[match[2]] = match[1]
    return digests
