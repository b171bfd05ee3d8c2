"""WSC: does a pronoun refer to a given noun phrase of the text?

The noun phrase is an answer of several tokens. It competes with the other runs of words of the text
that could replace the pronoun: the pronoun refers to it if it is the most probable one. PET
generates the words and compares them with the noun phrase; the competing answers used here need
one forward pass only, and give a score.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING

from pipeline.errors import DataError
from pipeline.tasks import base
from pipeline.tasks.base import Record

if TYPE_CHECKING:
    from pipeline.data.geonames.places import Places, Town


# First words of noun phrases.
_BEGIN = {
    "a", "an", "her", "his", "its", "my", "our", "that", "the", "their", "these", "this", "those",
    "your",
}  # fmt: skip
# Words that are not names, though capitalized at the start of a sentence.
_NO_NAMES = _BEGIN | {
    "after", "although", "always", "and", "as", "at", "because", "before", "but", "every", "for",
    "from", "he", "him", "how", "i", "if", "in", "it", "me", "no", "not", "of", "on", "or", "she",
    "since", "so", "still", "them", "then", "there", "they", "though", "to", "us", "we", "what",
    "when", "which", "while", "who", "you",
}  # fmt: skip


def _examples(record: Record) -> Iterator[base.Example]:
    words = base.text(record, "text").split()
    target = base.section(record, "target")
    span, pronoun = base.text(target, "span1_text"), base.text(target, "span2_text")
    at = base.number(target, "span2_index")
    for key, index in (("span1_index", base.number(target, "span1_index")), ("span2_index", at)):
        if not 0 <= index < len(words):
            raise DataError(f"{key} is {index}, outside the text of {len(words)} words")
    if not span.strip():
        raise DataError("span1_text is empty")
    # Marked with asterisks, as in PET: a text may have the same pronoun twice.
    length = len(pronoun.split())
    at = _check_index(words, pronoun, at)
    marked = [*words[:at], f"*{' '.join(words[at : at + length])}*", *words[at + length :]]
    yield base.Example(
        str(base.number(record, "idx")),
        {"text": " ".join(marked), "pronoun": pronoun, "span": span},
        base.label(record, base.BOOLEAN),
        (span, *_competitors(words, span, pronoun)),
    )


def _check_index(words: list[str], pronoun: str, index: int) -> int:
    """The index of the pronoun; in one official record, it is that of the word before."""
    occurrences = _occurrences(words, pronoun)
    for position in (index, index + 1, index - 1):
        if position in occurrences:
            return position
    raise DataError(f"span2_index is {index}, where the text has no {pronoun!r}")


def _occurrences(words: Sequence[str], phrase: str) -> list[int]:
    """Indices of the words at which a phrase begins, in any case and without punctuation."""
    bare = [_bare(word).lower() for word in phrase.split()]
    starts = range(len(words) - len(bare) + 1)
    return [i for i in starts if [_bare(w).lower() for w in words[i : i + len(bare)]] == bare]


def _competitors(words: list[str], span: str, pronoun: str) -> list[str]:
    """The runs of words that could replace the span, without duplicates.

    Such a run begins with an article or possessive and has two or three words, or consists of one
    or two capitalized words. Punctuation ends it, and it shares no word with the span. If there is
    none, all runs of the span's length count, and all single words.
    """
    taken = {_bare(word).lower() for word in span.split()} - _NO_NAMES | {pronoun.lower()}
    runs = [run for size in (1, 2, 3) for run in _runs(words, size, taken) if _is_phrase(run)]
    runs = runs or [run for size in (len(span.split()), 1) for run in _runs(words, size, taken)]
    if not runs:
        raise DataError(f"no words of the text could replace {span!r}")
    return list({" ".join(run).lower(): " ".join(run) for run in reversed(runs)}.values())[::-1]


def _runs(words: list[str], size: int, taken: set[str]) -> Iterator[list[str]]:
    for start in range(len(words) - size + 1):
        run = words[start : start + size]
        bare = [_bare(word) for word in run]
        unbroken = all(word[-1].isalnum() for word in run[:-1])
        if unbroken and all(bare) and not taken & {word.lower() for word in bare}:
            yield bare


def _is_phrase(run: list[str]) -> bool:
    if run[0].lower() in _BEGIN:
        return len(run) > 1 and run[-1].lower() not in _NO_NAMES
    return len(run) < 3 and all(word[0].isupper() and word.lower() not in _NO_NAMES for word in run)


def _bare(word: str) -> str:
    return re.sub(r"^\W+|\W+$", "", word)


def _record(fields: Record) -> Record:
    words, pronoun = base.text(fields, "text").split(), base.text(fields, "span2_text")
    target = {
        "span1_text": fields["span1_text"],
        "span1_index": 0,  # no template uses it
        "span2_text": pronoun,
        "span2_index": _pronoun_index(words, pronoun, fields),
    }
    return {"idx": fields["idx"], "text": fields["text"], "target": target, "label": True}


def _pronoun_index(words: Sequence[str], pronoun: str, fields: Record) -> int:
    """The index of the pronoun among the words: as given, or its only occurrence.

    Raises:
        DataError: it does not occur, or occurs more than once and no index is given.
    """
    occurrences = _occurrences(words, pronoun)
    shown = ", ".join(map(str, occurrences))
    if "span2_index" in fields:
        index = base.number(fields, "span2_index")
        if index not in occurrences:
            raise DataError(
                f"span2_index is {index}, but {pronoun!r} is at {shown or 'no position'} of the "
                "text, counted in words from 0"
            )
        return index
    if not occurrences:
        raise DataError(f"span2_text {pronoun!r} is not in the text")
    if len(occurrences) > 1:
        raise DataError(
            f"span2_text {pronoun!r} occurs at {shown}, counted in words from 0; set span2_index "
            "to the one that is meant"
        )
    return occurrences[0]


def _from_geonames(places: Places, rng: random.Random) -> Iterator[Record]:
    """Yield two examples per group of two towns, one of each label: which one does "it" mean?

    The reason that the sentence gives holds for one of the towns: the larger or the smaller one,
    or the one in the named country. Either may come first, and either may be meant. Towns with a
    name of several words are skipped.
    """
    numbers = count()
    for first, second in places.town_groups(2, rng):
        if not (first.name.isalpha() and second.name.isalpha()):
            continue
        meant = rng.choice((first, second))
        sentence = _sentence(first, second, meant, rng)
        words = [word.strip(",.") for word in sentence.split(" ")]
        for town in rng.sample((first, second), 2):
            yield {
                "text": sentence,
                "target": {
                    "span2_index": words.index("it"),
                    "span1_index": words.index(town.name),
                    "span1_text": town.name,
                    "span2_text": "it",
                },
                "idx": next(numbers),
                "label": town == meant,
            }


def _sentence(first: Town, second: Town, meant: Town, rng: random.Random) -> str:
    small, large = sorted((first, second), key=lambda town: town.population)
    comparison = rng.choice(
        ("larger", "more populous") if first == large else ("smaller", "less populous")
    )
    people = "only" if meant == small else "as many as"
    return rng.choice(
        (
            f"{first.name} is {comparison} than {second.name}, because it has {people} "
            f"{meant.population:,} inhabitants.",
            f"{first.name} is not in the same country as {second.name}, because it lies in "
            f"{meant.country}.",
            f"{first.name} is abroad to those who live in {second.name}, because it belongs to "
            f"{meant.country}.",
        )
    )


TASK = base.Task(
    name="wsc",
    fields=("text", "pronoun", "span"),
    labels=("true", "false"),
    metrics=("accuracy",),
    examples=_examples,
    group=lambda record: record["text"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py).
        "pet-0": "{text:shorten} The pronoun '*{pronoun}*' refers to {mask}.",
        "pet-1": (
            "{text:shorten} In the previous sentence, the pronoun '*{pronoun}*' refers to {mask}."
        ),
        "pet-2": (
            "{text:shorten} Question: In the passage above, what does the pronoun '*{pronoun}*' "
            "refer to? Answer: {mask}."
        ),
        # THUDM/P-tuning.
        "p-tuning-released": "[P] {text:shorten} [P] pronoun '*{pronoun}*' refers to {mask}.",
        # FewNLU, one prompt token.
        "p-tuning": (
            "{text:shorten} [P] Question: In the passage above, what does the pronoun "
            "'*{pronoun}*' refer to? Answer: {mask}."
        ),
        "prompt-tuning": "[P*20] {text:shorten} '*{pronoun}*' {mask}.",
        "classifier": "{text:shorten} {pronoun} {mask}",
    },
    schema=base.InputSchema(
        description="Does a pronoun refer to a given noun phrase of the text?",
        fields=(
            base.InputField("text", "The text.", "Ann told Eve that she had won."),
            base.InputField("span1_text", "The noun phrase.", "Ann"),
            base.InputField("span2_text", "The pronoun.", "she"),
            base.InputField(
                "span2_index",
                "Index of the pronoun among the words of the text, from 0; required if it occurs "
                "more than once.",
                value_type=int,
                required=False,
            ),
        ),
        record=_record,
        nested_key="target",
        replace_labels=base.labeled(True),
    ),
    from_geonames=_from_geonames,
)
