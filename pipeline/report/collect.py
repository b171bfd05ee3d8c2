"""Gather what one run of knowledge probing gave into one record, to be kept with the project."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.config.schema import LamaMethod, Params
from pipeline.data.lama import ALL
from pipeline.errors import DataError
from pipeline.files import read_json
from pipeline.report.results import Row, read_relations, read_templates
from pipeline.workflow.git import git_text

# Stage, benchmark, method, and task if any -> how long it took; None where nobody knows.
SecondsOf = Callable[..., float | None]

# What decides a result; a change elsewhere leaves the tree clean.
_SOURCES = ("dvc.yaml", "params.yaml", "pipeline", "stages", "requirements.lock")


@dataclass(frozen=True)
class About:
    """What a record says of itself.

    Attributes:
        name: of the record.
        note: of whoever keeps it; may be empty.
        date: when it was gathered, as YYYY-MM-DD.
        hardware: `processor`, `cores` and `gpu` (None where none was used).
    """

    name: str
    note: str
    date: str
    hardware: Row

    def head(self, root: Path) -> Row:
        """Return the first keys of the record, the state of git in the project's root included."""
        return {
            "name": self.name,
            "note": self.note,
            "date": self.date,
            "git": _git_state(root),
            "hardware": self.hardware,
        }


def gather(params: Params, root: Path, about: About, *, seconds_of: SecondsOf) -> Row:
    """Return a record of the methods that `params.yaml` lists, ready to be written as JSON.

    Args:
        params: of the project, unchanged since its last `dvc repro`.
        root: of the project.
        about: the record.
        seconds_of: how long a stage took.

    Raises:
        DataError: no method is listed, a file is missing, or the files are about other relations.
    """
    lama = params.lama
    methods = lama.methods if lama.relations else []
    if not methods and not lama.stability.methods:
        raise DataError("params.yaml lists no method of knowledge probing; nothing to collect")
    return {
        **about.head(root),
        "params": _params(params, [*methods, *lama.stability.methods]),
        "splits": read_json(root / "metrics" / "splits" / "lama.json"),
        "methods": {m: _method(params, root, m, seconds_of) for m in methods},
        "stability": {m: _stability(root, m, seconds_of) for m in lama.stability.methods},
    }


def _method(params: Params, root: Path, method: str, seconds_of: SecondsOf) -> Row:
    rows = read_relations(root / "evaluation" / "lama" / method)
    found = {row["relation"]: row for row in rows}
    if params.lama.relations != ALL and set(params.lama.relations) != set(found):
        raise DataError(
            f"evaluation/lama/{method} is about {', '.join(found)}, which is not lama.relations of "
            "params.yaml; run `dvc repro` first"
        )
    return {
        "metrics": read_json(root / "metrics" / "lama" / f"{method}.json"),
        "seconds": seconds_of_stages(seconds_of, "lama", method),
        "relations": rows,
    }


def _stability(root: Path, method: str, seconds_of: SecondsOf) -> Row:
    return {
        "metrics": read_json(root / "metrics" / "stability" / f"{method}.json"),
        "seconds": seconds_of_stages(seconds_of, "stability", method),
        "templates": read_templates(root / "evaluation" / "stability" / method),
    }


def seconds_of_stages(seconds_of: SecondsOf, *which: str) -> dict[str, float | None]:
    """Return how long training and evaluation took; `which`: benchmark, method, and task if any."""
    return {stage: seconds_of(stage, *which) for stage in ("train", "evaluate")}


def _params(params: Params, methods: list[LamaMethod]) -> Row:
    """Return what decided the results."""
    lama: dict[str, Any] = params.lama.model_dump(mode="json")
    for section in ("prompts", "training"):
        lama[section] = {method: lama[section][method] for method in dict.fromkeys(methods)}
    return {"seed": params.seed, "model": model_params(params), "lama": lama}


def model_params(params: Params) -> Row:
    """Return the section `model`; of a model in a folder the folder's name alone."""
    model = params.model.model_dump(mode="json")
    if Path(model["name"]).expanduser().is_dir():
        model["name"] = Path(model["name"]).name
    return model


def _git_state(root: Path) -> Row:
    """Return the commit, and whether code or parameters differ from it; None without git."""
    commit = git_text("rev-parse", "HEAD", root=root)
    changed = git_text("status", "--porcelain", "--", *_SOURCES, root=root)
    return {
        "commit": commit and commit.strip(),
        "dirty": None if changed is None else bool(changed),
    }
