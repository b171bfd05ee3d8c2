"""Relations of the user: a file of facts, or a folder of such files."""

import re
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.data.lama import Fact, Relation
from pipeline.data.tables import SUFFIXES, Record, read_table
from pipeline.errors import DataError

# Far longer than any name or template; a cell of a damaged file may hold everything.
_MAX_CHARACTERS = 1000

_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,99}", flags=re.ASCII)


@dataclass
class OwnRelation:
    """A relation and its facts, in the order of the rows.

    Attributes:
        template: in LAMA's form or in the template language; not yet parsed.
        label: the relation's id where the file has none.
    """

    name: str
    file: Path
    template: str = ""
    label: str = ""
    facts: list[Fact] = field(default_factory=list)

    @property
    def relation(self) -> Relation:
        """The relation as LAMA has it."""
        return Relation(self.name, self.template, self.label or self.name)


def read_own_facts(path: Path) -> dict[str, OwnRelation]:
    """Read relations by id, in the order of the files' names and of their rows.

    Args:
        path: a file of `SUFFIXES`, or a folder with one or more of them. Their columns are
            `subject`, `object`, `template`, and optionally `relation` (else the file's name) and
            `label`.

    Raises:
        DataError: there is no file, or rows are invalid; each of them is named.
    """
    relations: dict[str, OwnRelation] = {}
    for file in _files(path):

        def read(row: Record, _: int, file: Path = file) -> list[Fact]:
            return [_add(relations, file, row)]

        read_table(file, ("subject", "object", "template"), read)
    lacking = [f"{own.file}: {name}" for name, own in relations.items() if not own.template]
    if lacking:
        raise DataError(
            f"{', '.join(lacking)}: no template; write one in a row of the relation, such as "
            "[X] is located in [Y] ."
        )
    return relations


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise DataError(f"{path}: no such file or folder; paths start at the checkout's root")
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise DataError(
            f"{path}: no {', '.join(SUFFIXES)} file; put tables of facts there (facts/README.md "
            "lists their columns), or name a file in lama.facts"
        )
    return files


def _add(relations: dict[str, OwnRelation], file: Path, row: Record) -> Fact:
    """Add a row to its relation."""
    name = _cell(row, "relation") if "relation" in row else file.stem
    if not _ID.fullmatch(name):
        raise DataError(
            f"relation {name!r} is not an id; use letters, digits, -, _ and . (at most 100)"
        )
    # Folders of two ids that differ in case only are one on some file systems.
    taken = next((key for key in relations if key.lower() == name.lower()), name)
    own = relations.setdefault(taken, OwnRelation(name, file))
    if (own.name, own.file) != (name, file):
        raise DataError(f"relation {name} is in {own.file} too, as {own.name}; rename one of them")
    fact = Fact(name, _cell(row, "subject"), _cell(row, "object"))
    for key in ("template", "label"):
        text, known = _cell(row, key, required=False), getattr(own, key)
        if text and known and text != known:
            raise DataError(f"{key} {text!r}, but relation {name} has {known!r} above; keep one")
        setattr(own, key, known or text)
    own.facts.append(fact)
    return fact


def _cell(row: Record, key: str, *, required: bool = True) -> str:
    value = row.get(key)
    text = "" if value is None else value
    if not isinstance(text, str):
        raise DataError(f"{key} is {value!r}, not text")
    if len(text) > _MAX_CHARACTERS:
        raise DataError(
            f"{key} has {len(text):,} characters, more than {_MAX_CHARACTERS:,}; is the file "
            "damaged?"
        )
    text = " ".join(text.split())
    if required and not text:
        raise DataError(f"no {key}")
    return text
