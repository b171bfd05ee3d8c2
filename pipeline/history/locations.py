"""Locations of artifacts in the local store, which move with the checkout.

MLflow records absolute paths. In a checkout that was moved or copied, they still name the old
folder: new files would be written there, and files of earlier runs would not be found.
"""

import sqlite3
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import url2pathname

ARTIFACTS = "mlartifacts"

# Table -> column. A record of a moved experiment is moved if its files were.
_COLUMNS = {
    "runs": "artifact_uri",
    "logged_models": "artifact_location",
    "model_versions": "storage_location",
}


def find_moved(root: Path) -> list[str]:
    """Return the folders other than `root` in which experiments of its store keep artifacts."""
    with _opened(root) as store:
        return sorted({str(_path(old).parent.parent) for old, _ in _moved(store, root)})


def correct_moved(root: Path) -> int:
    """Make experiments, runs and models refer to `root`, and return how many were corrected.

    Only locations `.../mlartifacts/<name of the experiment>` are corrected. Those of a run or model
    are kept if its files are in the old folder only.
    """
    count = 0
    with _opened(root) as store:
        if not _moved(store, root):
            return 0
        store.execute("BEGIN IMMEDIATE")  # another stage may correct them at the same moment
        for old, new in _moved(store, root):
            changed = store.execute(
                "UPDATE experiments SET artifact_location = ? WHERE artifact_location = ?",
                (new, old),
            )
            count += changed.rowcount
            for table, column in _COLUMNS.items():
                rows = store.execute(
                    f"SELECT rowid, {column} FROM {table} WHERE instr({column}, ?) = 1",
                    (f"{old}/",),
                ).fetchall()
                for row, location in rows:
                    place = new + location.removeprefix(old)
                    if _path(place).exists() or not _path(location).exists():
                        store.execute(
                            f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (place, row)
                        )
                        count += 1
        store.commit()
    return count


def _opened(root: Path) -> closing[sqlite3.Connection]:
    return closing(sqlite3.connect(root / "mlflow.db", timeout=60))


def _moved(store: sqlite3.Connection, root: Path) -> list[tuple[str, str]]:
    """The location of each moved experiment, and where it belongs."""
    if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'experiments'").fetchone():
        return []  # MLflow creates the tables
    pairs = [
        (location, (root / ARTIFACTS / name).as_uri())
        for name, location in store.execute("SELECT name, artifact_location FROM experiments")
        if location and _path(location).parts[-2:] == (ARTIFACTS, name)
    ]
    return [(old, new) for old, new in pairs if _path(old) != _path(new)]


def _path(location: str) -> Path:
    """The path of a location: a file's address, or a path."""
    parts = urlsplit(location)
    return Path(url2pathname(parts.path)) if parts.scheme in ("", "file") else Path()
