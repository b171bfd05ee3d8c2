"""WiC: does a word have the same meaning in two sentences?"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from itertools import count, permutations, product
from typing import TYPE_CHECKING

from pipeline.errors import DataError
from pipeline.tasks import base
from pipeline.tasks.base import Record

if TYPE_CHECKING:
    from pipeline.data.geonames.places import City, Places


def _examples(record: Record) -> Iterator[base.Example]:
    for which in ("1", "2"):
        _check_span(record, which)
    yield base.Example(
        str(base.number(record, "idx")),
        {key: base.text(record, key) for key in ("word", "sentence1", "sentence2")},
        base.label(record, base.BOOLEAN),
    )


def _check_span(record: Record, which: str) -> None:
    """Check that the word's position lies within its sentence."""
    start, end = base.number(record, f"start{which}"), base.number(record, f"end{which}")
    length = len(base.text(record, f"sentence{which}"))
    if not 0 <= start < end <= length:
        raise DataError(
            f"start{which} and end{which} are {start} and {end}, outside sentence{which} of "
            f"{length} characters"
        )


def _record(fields: Record) -> Record:
    # No template uses the word's position, and the word may be inflected in the sentence.
    ends = {f"end{which}": len(base.text(fields, f"sentence{which}")) for which in ("1", "2")}
    return {**fields, **ends, "start1": 0, "start2": 0, "label": True}


# Kind of hint -> sentences.
_SENTENCES = {
    "country": (
        "{name} is a city in {hint}.",
        "They spent a week in {hint} and liked {name} best.",
    ),
    "capital": (
        "They left {name} for {hint}, the capital of the country.",
        "A minister came from the capital, {hint}, and opened a school in {name}.",
    ),
    "city": (
        "{name} and {hint} are in the same country.",
        "From {hint} she moved to {name}, without leaving the country.",
    ),
}

# A hint of the kind `city` is one of the country's largest cities.
_LARGEST = 3

# The kind of a hint, and the name.
_Hint = tuple[str, str]


def _from_geonames(places: Places, rng: random.Random) -> Iterator[Record]:
    """Yield two examples per city, one of each label: does its name mean the same city twice?

    The names belong to cities of several countries. Each sentence has a hint at the country of its
    city: the country's name, its capital or another of its cities. The two hints are of different
    kinds and share no word, so that a model must know what belongs together. The two examples have
    the same first hint and the same kinds of hints. Cities without such hints are skipped.
    """
    numbers = count()
    hints = _hints(places)
    namesakes = _namesakes(places)
    cities = [city for group in namesakes.values() for city in group]
    rng.shuffle(cities)
    for city in cities:
        other = rng.choice([namesake for namesake in namesakes[city.name] if namesake != city])
        pairs = _pairs(places, city.name, hints[city.country], hints[other.country], rng)
        for same, pair in rng.sample(pairs, len(pairs)):
            # The order of the two hints must not reveal the label.
            (one, start1), (two, start2) = (
                _sentence(city.name, hint, rng) for hint in rng.sample(pair, 2)
            )
            yield {
                "word": city.name,
                "sentence1": one,
                "sentence2": two,
                "idx": next(numbers),
                "label": same,
                "start1": start1,
                "start2": start2,
                "end1": start1 + len(city.name),
                "end2": start2 + len(city.name),
                "version": 1.1,
            }


def _namesakes(places: Places) -> dict[str, list[City]]:
    """Name -> cities of this name, for names that occur in several countries.

    Cities whose name occurs twice in their country are skipped: a hint could not distinguish them.
    """
    by_country = Counter((city.name, city.country) for city in places.cities)
    namesakes: dict[str, list[City]] = {}
    for city in places.cities:
        if by_country[city.name, city.country] == 1:
            namesakes.setdefault(city.name, []).append(city)
    return {name: cities for name, cities in namesakes.items() if len(cities) > 1}


def _hints(places: Places) -> dict[str, dict[str, list[str]]]:
    """Country code -> kind of hint -> hints."""
    cities: dict[str, list[str]] = {}
    for town in places.towns():
        cities.setdefault(town.country, []).append(town.name)
    return {
        code: {
            "country": [country.name],
            "capital": [country.capital] if country.capital else [],
            "city": cities.get(country.name, [])[:_LARGEST],
        }
        for code, country in places.countries.items()
    }


def _pairs(
    places: Places,
    name: str,
    hints: dict[str, list[str]],
    other_hints: dict[str, list[str]],
    rng: random.Random,
) -> list[tuple[bool, list[_Hint]]]:
    """A pair of hints at one country (True) and one at two countries (False), if there are any."""
    kinds = list(permutations(_SENTENCES, 2))
    for one, two in rng.sample(kinds, len(kinds)):
        triples = [
            (first, same, different)
            for first, same, different in product(hints[one], hints[two], other_hints[two])
            if places.share_no_word((name, first, same))
            and places.share_no_word((name, first, different))
        ]
        if triples:
            first, same, different = rng.choice(triples)
            return [
                (True, [(one, first), (two, same)]),
                (False, [(one, first), (two, different)]),
            ]
    return []


def _sentence(name: str, hint: _Hint, rng: random.Random) -> tuple[str, int]:
    """A sentence with the name, and the position of the name."""
    kind, word = hint
    before, after = (
        part.format(hint=word) for part in rng.choice(_SENTENCES[kind]).split("{name}")
    )
    return f"{before}{name}{after}", len(before)


TASK = base.Task(
    name="wic",
    fields=("word", "sentence1", "sentence2"),
    labels=("true", "false"),
    metrics=("accuracy",),
    examples=_examples,
    group=lambda record: record["idx"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py); the last needs a masked model, and has
        # the verbalizer b-2.
        "pet-0": '"{sentence1}" / "{sentence2}" Similar sense of "{word}"? {mask}.',
        "pet-1": (
            "{sentence1} {sentence2} Does {word} have the same meaning in both sentences? {mask}"
        ),
        "pet-2": '{word}. Sense (1) (a) "{sentence1}" ({mask}) "{sentence2}"',
        # THUDM/P-tuning; FewNLU has its token within pet-2.
        "p-tuning": "{sentence1}[SEP] {sentence2} [P] *{word}*? {mask}",
        "p-tuning-fewnlu": '{word}. Sense (1) (a) "{sentence1}" ({mask} [P]) "{sentence2}"',
        "prompt-tuning": "[P*20] {word} {sentence1} {sentence2} {mask}",
        "classifier": "{word}: {sentence1}[SEP] {sentence2}",
    },
    schema=base.InputSchema(
        description="Does a word have the same meaning in two sentences?",
        fields=(
            base.InputField("word", "The word.", "place"),
            base.InputField("sentence1", "The first sentence with it.", "Oslo is a place."),
            base.InputField("sentence2", "The second sentence with it.", "They place it there."),
        ),
        record=_record,
    ),
    verbalizers={
        "yes-no": {"true": "yes", "false": "no"},
        "Yes-No": {"true": "Yes", "false": "No"},
        "b-2": {"true": "b", "false": "2"},
    },
    from_geonames=_from_geonames,
)
