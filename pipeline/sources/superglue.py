"""SuperGLUE's tasks and their few-shot examples: the same bytes from wherever they come."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.errors import ChecksumError
from pipeline.files import sha256
from pipeline.sources.archives import extract_members
from pipeline.sources.http import PATIENCE, RetryPolicy, download_kept
from pipeline.sources.mirror import copy_from_mirror
from pipeline.sources.superglue_hub import REPOSITORY, fetch_official

# Part -> folder with an archive, or with a folder, of each task.
URLS: dict[str, str] = {
    "superglue": "https://dl.fbaipublicfiles.com/glue/superglue/data/v2",
    "fewglue": (
        "https://raw.githubusercontent.com/THUDM/P-tuning/"
        "f4225d4d8003868b31ed659dfe9732a351ad42d9/FewGLUE_32dev"
    ),
}

_FEWGLUE = "fewglue/"

# Task -> file in the target folder -> sha256. The digests of the archives are not known.
_DIGESTS: dict[str, dict[str, str]] = {
    "BoolQ": {
        "train.jsonl": "5a0cc1d6cb971a7a177b74bde27b8355de4b0f0e4d86d0a8435ec92cfeb63ba6",
        "val.jsonl": "0c86a5045886e5795fe9052003873f7d94b88ed3028a33007c51d99e44fd66d9",
        "fewglue/train.jsonl": "317245ba0842129234a368274701dfc196139aa627eff44aefc827c6888935e1",
        "fewglue/dev32.jsonl": "0af324b658a72fdd7767aa3c27c1dfafbc03e8e987a148b29e42a72d84b9f9e3",
    },
    "CB": {
        "train.jsonl": "32017480d3a10508646e3efd64502c639f13d4d15077f278d2fd0992c33a3126",
        "val.jsonl": "c6125587e9601560cb16ea223c33964c5a915568d2af68a81f651b6ef25395ec",
        "fewglue/train.jsonl": "e6f446e5f117cbfbcd156d8221d163cc370924fa594a1d67f44a151ce5c171b2",
        "fewglue/dev32.jsonl": "ec7e1bfe37a7ea4514fc2335bfa3b35be77bfe084aae2e7ca55f765aaee41337",
    },
    "COPA": {
        "train.jsonl": "e74ed25f36119fff954d90900ebbaae277e2cc4864be4b961e7a46c8f67d11a9",
        "val.jsonl": "fa61467cc251010178ed72f8ca82a0fceefc4ca9a85f87ec3b6102955e1a1f1a",
        "fewglue/train.jsonl": "9955ae6e0ee109c96c00c0957d5873c0cb4ea9aced83b6a15b15258bb64b7dd5",
        "fewglue/dev32.jsonl": "eb43b015d061738467f284c60049ef0afcaf707ec8e528ab3c5c4285a5f5618a",
    },
    "MultiRC": {
        "train.jsonl": "bb73d0838618f8269190a2533fead3140607558975ea0df6511fa534e8d3535c",
        "val.jsonl": "d2b480195b15574ac00d52c4479f630bc161a7ab2de77e970fd00652846953ee",
        "fewglue/train.jsonl": "e584db1b55f7da7c1e6a2d0a6b56eb6edcaff26e69393d628390e70c39ccb561",
        "fewglue/dev32.jsonl": "3734d2cac8d1e8d13e2f5e13bec727be7576b45453e9fd765e2075e163f9653d",
    },
    "RTE": {
        "train.jsonl": "fdfb03443abe3ec0424b7fc5d1a8863361719bc061338b7a63e56b94d615f201",
        "val.jsonl": "ab990507bf5f35dc176cba7770a72bfa2c50a88ed72b8cc95cfbf9db95ab1af1",
        "fewglue/train.jsonl": "91a83197e3a286a8bf102e483646f87cd8b1e4c9c5ccd893bc0b9dba0643d580",
        "fewglue/dev32.jsonl": "a3ba6200d2f27691d927ab97d387292b045316956f877fbfccc9a4658af2b351",
    },
    "WiC": {
        "train.jsonl": "ce301970aaf361ade6c1d218fe15c50b185b14a4bcb618c5785a8484a46f9943",
        "val.jsonl": "9f7207c88beba42cbc139de4c62ce05b23bffc189b3d561594b160e0c3920c0b",
        "fewglue/train.jsonl": "b82c0c3f79d2f19bdd3c894f90f9deff0ebff787822a99ff6420db733c2a88f0",
        "fewglue/dev32.jsonl": "3df4ca565f109be9476caa51884ba13c5f2a33c939898cf80bb53e09fdc73062",
    },
    "WSC": {
        "train.jsonl": "0ffaa3fd8d21e58a0805962565d1619aa4819bc3d034255777f606f801ae5a42",
        "val.jsonl": "e5c685ea4bdc347354036a28176459f6feeb0b6870375ecfb3d6ddb1f0e28bef",
        "fewglue/train.jsonl": "e814e1a9a781c1e4b1ad98151f09f2e9326a3db51f9c52639cb0f8b1f428ad47",
        "fewglue/dev32.jsonl": "2bbaca5c995778e7e14f389f1fe9a4be9a58d99e66db0d73d868ab66564b9da7",
    },
}


@dataclass(frozen=True)
class SuperGlueSource:
    """A task's official examples, and those of FewGLUE_32dev, in P-tuning's release.

    Attributes:
        license: of the content.
        task: its name, spelt as upstream.
        digests: file in the target folder -> sha256; those in `fewglue/` are of FewGLUE_32dev, the
            others of SuperGLUE.
        urls: part -> address; the keys of `URLS`.
        from_hub: whether the official examples come from the Hugging Face hub, not the archive.
        patience: with the servers.
    """

    license: str
    task: str
    digests: Mapping[str, str]
    urls: Mapping[str, str]
    from_hub: bool = False
    patience: RetryPolicy = PATIENCE

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Write the files that `digests` names; see `fetch_source`."""
        (target / _FEWGLUE).mkdir(exist_ok=True)
        if mirror is not None:
            self._copy("superglue", self._official(), mirror, target)
            self._copy("fewglue", self._few(), mirror, target / _FEWGLUE)
            return
        few = {
            name: download_kept(
                f"{self.urls['fewglue']}/{self.task}/{name}",
                cache / "fewglue",
                sha256=digest,
                patience=self.patience,
            )
            for name, digest in self._few().items()
        }
        if self.from_hub:
            self._take_from_hub(target, cache)
        else:
            self._take_from_archive(target, cache)
        for name, path in few.items():
            shutil.copyfile(path, target / _FEWGLUE / name)

    def _take_from_hub(self, target: Path, cache: Path) -> None:
        instead = (
            f"Or set data.superglue_from in params.yaml to archive, or {self._mirror_that_serves()}"
        )
        fetch_official(self.task.lower(), target, cache=cache / "hub", instead=instead)
        for name, digest in self._official().items():
            what = f"{REPOSITORY}: its {self.task} is not the official one ({name}). {instead}"
            _check(target / name, digest, what)

    def _take_from_archive(self, target: Path, cache: Path) -> None:
        url = f"{self.urls['superglue']}/{self.task}.zip"
        archive = download_kept(url, cache / "superglue", patience=self.patience)
        try:
            self._unpack(archive, target)
        except ChecksumError as error:
            archive.unlink(missing_ok=True)
            raise ChecksumError(
                f"{error}\nIt came from {url} and is deleted. Run again, and if it repeats, "
                f"{self._mirror_that_serves()}"
            ) from error

    def _mirror_that_serves(self) -> str:
        return (
            f"set data.mirror in params.yaml to a folder with superglue/{self.task}/: "
            f"{_listed(self._official())}, and fewglue/{self.task}/: {_listed(self._few())}"
        )

    def _official(self) -> dict[str, str]:
        return {n: digest for n, digest in self.digests.items() if not n.startswith(_FEWGLUE)}

    def _few(self) -> dict[str, str]:
        return {
            name.removeprefix(_FEWGLUE): digest
            for name, digest in self.digests.items()
            if name.startswith(_FEWGLUE)
        }

    def _copy(self, part: str, digests: Mapping[str, str], mirror: Path, target: Path) -> None:
        folder = f"{part}/{self.task}"
        copy_from_mirror(mirror, folder, digests, target, layout=_listed(digests))
        for name, digest in digests.items():
            what = f"{mirror / folder / name}: not the file of {part}, copy it there again"
            _check(target / name, digest, what)

    def _unpack(self, archive: Path, target: Path) -> None:
        members = {f"{self.task}/{name}": name for name in self._official()}
        found = extract_members(archive, target, members.get)
        for member, name in members.items():
            if name not in found:
                raise ChecksumError(f"{archive}: no {member} in it")
            _check(target / name, self.digests[name], f"{archive}: another {member} than expected")


def _check(path: Path, digest: str, what: str) -> None:
    found = sha256(path)
    if found != digest:
        raise ChecksumError(f"{what}; sha256 is {found}, expected {digest}")


def _listed(names: Mapping[str, object]) -> str:
    return " and ".join(names)


SUPERGLUE: dict[str, SuperGlueSource] = {
    f"superglue/{task.lower()}": SuperGlueSource(
        license="its authors' own, as of each SuperGLUE task; FewGLUE_32dev: MIT, P-tuning",
        task=task,
        digests=digests,
        urls=URLS,
    )
    for task, digests in _DIGESTS.items()
}

# The same by way of the hub.
SUPERGLUE_HUB: dict[str, SuperGlueSource] = {
    name.replace("superglue/", "superglue-hub/"): replace(source, from_hub=True)
    for name, source in SUPERGLUE.items()
}
