"""LAMA-like facts from places: the relations, LAMA's templates for them, and who holds with whom.

As in LAMA, an object is one word (its models answer one token), and a subject that is its own
answer ("Singapore is located in Singapore") is left out. Where a relation has one true object for
a subject, subjects whose name stands for several places with different objects are left out too.
"""

from collections.abc import Callable, Iterator

from pipeline.data.geonames.places import Places, well_known_cities
from pipeline.data.lama import Fact, Relation

# Cities smaller than this are little known, to people and to small language models.
INHABITANTS = 100_000

Pairs = Iterator[tuple[str, str]]


def geonames_facts(places: Places, relation: str) -> list[Fact]:
    """Return every fact of one relation, in the order of the source, without repeats."""
    _, pairs, one_object = _RELATIONS[relation]
    usable = dict.fromkeys(
        (subject, object_)
        for subject, object_ in pairs(places)
        if object_.isalpha() and subject != object_
    )
    objects: dict[str, set[str]] = {}
    for subject, object_ in pairs(places):
        objects.setdefault(subject, set()).add(object_)
    return [
        Fact(predicate_id=relation, sub_label=subject, obj_label=object_)
        for subject, object_ in usable
        if not one_object or len(objects[subject]) == 1
    ]


def geonames_relation(relation: str) -> Relation:
    """Return the relation with LAMA's manual template."""
    return _RELATIONS[relation][0]


def geonames_vocabulary(places: Places) -> list[str]:
    """Return the objects of all relations, sorted: the words that may be answered."""
    return sorted(
        {
            fact.obj_label
            for relation in GEONAMES_RELATIONS
            for fact in geonames_facts(places, relation)
        }
    )


def _city_country(places: Places) -> Pairs:
    for city in well_known_cities(places, INHABITANTS):
        yield city.name, places.countries[city.country].name


def _country_continent(places: Places) -> Pairs:
    for country in places.countries.values():
        yield country.name, country.continent


def _country_capital(places: Places) -> Pairs:
    for country in places.countries.values():
        if country.capital:
            yield country.name, country.capital


def _capital_country(places: Places) -> Pairs:
    for country, capital in _country_capital(places):
        yield capital, country


def _county_state(places: Places) -> Pairs:
    yield from places.counties


def _borders(places: Places) -> Pairs:
    for country in places.countries.values():
        for code in country.neighbours:
            if code in places.countries:
                yield country.name, places.countries[code].name


_RELATIONS: dict[str, tuple[Relation, Callable[[Places], Pairs], bool]] = {
    relation.relation: (relation, pairs, one_object)
    for relation, pairs, one_object in (
        (Relation("P17", "[X] is located in [Y] .", "country"), _city_country, True),
        (Relation("P30", "[X] is located in [Y] .", "continent"), _country_continent, True),
        (Relation("P36", "The capital of [X] is [Y] .", "capital"), _country_capital, True),
        (Relation("P1376", "[X] is the capital of [Y] .", "capital of"), _capital_country, True),
        (
            Relation(
                "P131",
                "[X] is located in [Y] .",
                "located in the administrative territorial entity",
            ),
            _county_state,
            True,
        ),
        (Relation("P47", "[X] shares border with [Y] .", "shares border with"), _borders, False),
    )
}

GEONAMES_RELATIONS = tuple(_RELATIONS)
