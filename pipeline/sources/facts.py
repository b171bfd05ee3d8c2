"""Relations of the user, from a file or folder that `lama.facts` names."""

from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.data.lama import FACTS
from pipeline.data.own_facts import read_own_facts
from pipeline.files import write_jsonl


@dataclass(frozen=True)
class OwnFacts:
    """Facts of the user, checked and in LAMA's format; see `Source`.

    Attributes:
        path: the file or folder.
    """

    path: Path
    name: str = "facts"
    license: str = ""

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:  # noqa: ARG002
        """Write `relations.jsonl` and, for each relation, `<relation>/facts.jsonl`.

        Raises:
            DataError: the file or folder is missing, or a row is invalid.
        """
        relations = read_own_facts(self.path)
        write_jsonl(
            target / "relations.jsonl", [asdict(own.relation) for own in relations.values()]
        )
        for name, own in relations.items():
            records = [
                {key: value for key, value in asdict(fact).items() if value is not None}
                for fact in own.facts
            ]
            write_jsonl(target / name / FACTS, records)

    def probe(self, *, cache: Path, mirror: Path | None, seconds: float) -> str:  # noqa: ARG002
        """Count the relations and facts."""
        relations = read_own_facts(self.path)
        count = sum(len(own.facts) for own in relations.values())
        return f"{self.path}: {len(relations)} relations, {count} facts"
