"""Facts in LAMA's form from GeoNames: the relations, LAMA's templates for them, and the pairs.

As in LAMA, an object is one word (its models predict one token), and a subject that equals its
object ("Singapore is located in Singapore") is skipped. If a relation has one true object per
subject, subjects whose name means several places with different objects are skipped too.
"""

from collections.abc import Callable, Iterator

from pipeline.data.geonames.places import Places
from pipeline.data.lama import Fact, Relation

Pairs = Iterator[tuple[str, str]]

# Relation id -> relation with LAMA's manual template.
GEONAMES_RELATIONS = {
    relation: Relation(relation, template, label)
    for relation, template, label in (
        ("P17", "[X] is located in [Y] .", "country"),
        ("P30", "[X] is located in [Y] .", "continent"),
        ("P36", "The capital of [X] is [Y] .", "capital"),
        ("P1376", "[X] is the capital of [Y] .", "capital of"),
        ("P131", "[X] is located in [Y] .", "located in the administrative territorial entity"),
        ("P47", "[X] shares border with [Y] .", "shares border with"),
    )
}


def relation_facts(places: Places, relation: str) -> list[Fact]:
    """All facts of a relation, in the order of the source, without duplicates."""
    pairs, one_object = _PAIRS[relation], relation not in _SEVERAL_OBJECTS
    objects: dict[str, set[str]] = {}
    for subject, object_ in pairs(places):
        objects.setdefault(subject, set()).add(object_)
    return [
        Fact(predicate_id=relation, sub_label=subject, obj_label=object_)
        for subject, object_ in dict.fromkeys(pairs(places))
        if object_.isalpha()
        and subject != object_
        and not (one_object and len(objects[subject]) > 1)
    ]


def answer_vocabulary(places: Places) -> list[str]:
    """The objects of all relations, sorted: the allowed answers."""
    return sorted(
        {f.obj_label for name in GEONAMES_RELATIONS for f in relation_facts(places, name)}
    )


def _city_country(places: Places) -> Pairs:
    for city in places.well_known_cities():
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
        for code in country.neighbors:
            if code in places.countries:
                yield country.name, places.countries[code].name


_PAIRS: dict[str, Callable[[Places], Pairs]] = {
    "P17": _city_country,
    "P30": _country_continent,
    "P36": _country_capital,
    "P1376": _capital_country,
    "P131": _county_state,
    "P47": _borders,
}
# Of these, a subject has several true objects.
_SEVERAL_OBJECTS = {"P47"}
