"""LAMA's data as one folder, the same from a mirror and from the projects that published it."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pipeline.data.lama import PROMPT_COLLECTIONS, SPLITS, read_facts
from pipeline.errors import ChecksumError, DataError
from pipeline.files import read_json, read_jsonl
from pipeline.sources.http import PATIENCE, RetryPolicy, download_kept
from pipeline.sources.lama_upstream import assemble_lama, read_lines
from pipeline.sources.mirror import copy_from_mirror

LAYOUT = (
    "relations.jsonl, common_vocab_cased.txt, 29k-vocab.json, removed_overlaps.jsonl, "
    "<relation>/{train,dev,test}.jsonl and prompts/*.jsonl"
)


@dataclass(frozen=True)
class LamaSource:
    """LAMA's T-REx facts with AutoPrompt's split, vocabularies, and prompts of other projects.

    Attributes:
        license: of the content.
        urls: part -> address; the keys of `lama_upstream.URLS`.
        test_facts: relation -> number of its test facts.
        patience: with the servers.
    """

    license: str
    urls: Mapping[str, str]
    test_facts: Mapping[str, int]
    patience: RetryPolicy = PATIENCE

    def fetch(self, target: Path, *, cache: Path, mirror: Path | None) -> None:
        """Write the folder that `LAYOUT` describes; see `fetch_source`."""
        if mirror is not None:
            copy_from_mirror(mirror, "lama", self._names(), target, layout=LAYOUT)
            with _adding(f"It comes from {mirror / 'lama'}: copy it there again"):
                check_lama(target, self.test_facts)
            return
        kept = {
            part: download_kept(url, cache / "lama", patience=self.patience)
            for part, url in self.urls.items()
        }
        try:
            with _adding(
                "What was fetched is deleted. Run again, and if it repeats, set data.mirror in "
                f"params.yaml to a folder with lama/: {LAYOUT}"
            ):
                assemble_lama(kept, target, self.test_facts)
                check_lama(target, self.test_facts)
        except DataError:
            # Which of them is wrong may not be known, and a kept one would be wrong for ever.
            for path in kept.values():
                path.unlink(missing_ok=True)
            raise

    def _names(self) -> list[str]:
        return [
            "relations.jsonl",
            "common_vocab_cased.txt",
            "29k-vocab.json",
            "removed_overlaps.jsonl",
            *(f"{relation}/{split}.jsonl" for relation in self.test_facts for split in SPLITS),
            *(f"prompts/{name}.jsonl" for name in PROMPT_COLLECTIONS),
        ]


def check_lama(folder: Path, test_facts: Mapping[str, int]) -> None:
    """Check what a folder like `LAYOUT` holds, wherever it came from.

    Args:
        folder: the folder.
        test_facts: relation -> number of its test facts.

    Raises:
        ChecksumError: relations or test facts are not LAMA's, or a file is of another kind.
        DataError: a line is cut, or lacks a key.
    """
    records = read_jsonl(folder / "relations.jsonl", ["relation", "template", "label"])
    if sorted(record["relation"] for record in records) != sorted(test_facts):
        raise ChecksumError(f"relations.jsonl: not the {len(test_facts)} relations of LAMA")
    for relation, expected in test_facts.items():
        for split in SPLITS:
            name = f"{relation}/{split}.jsonl"
            facts = read_facts(folder / name)
            if split == "test" and len(facts) != expected:
                raise ChecksumError(
                    f"{name}: {relation} has {len(facts)} test facts, expected {expected}"
                )
            if not facts or any(fact.predicate_id != relation for fact in facts):
                raise ChecksumError(f"{name}: not facts of {relation} alone")
    for prompts in PROMPT_COLLECTIONS:
        name = f"prompts/{prompts}.jsonl"
        for record in read_jsonl(folder / name, ["relation", "template"]):
            if not all(slot in str(record["template"]) for slot in ("[X]", "[Y]")):
                raise ChecksumError(f"{name}: template {record['template']!r} has no [X] or [Y]")
    _check_vocabularies(folder)


def _check_vocabularies(folder: Path) -> None:
    words = read_lines(folder / "common_vocab_cased.txt")
    # A page that a server sends in its place has lines with spaces.
    if not words or any(word.split() != [word] for word in words):
        raise ChecksumError("common_vocab_cased.txt: not a list of words, one a line")
    vocabularies = read_json(folder / "29k-vocab.json")
    if not isinstance(vocabularies, dict) or not all(
        isinstance(words, list) and words for words in vocabularies.values()
    ):
        raise ChecksumError("29k-vocab.json: not a list of words for each model")


@contextlib.contextmanager
def _adding(line: str) -> Iterator[None]:
    """Add a line to the text of a DataError."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{error}\n{line}") from error
