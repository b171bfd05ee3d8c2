"""Facts in LAMA's form from GeoNames: the relations, LAMA's templates for them, and the pairs.

As in LAMA, an object is one word (its models predict one token), and a subject that equals its
object ("Singapore is located in Singapore") is skipped. If a relation has one true object per
subject, subjects whose name means several places with different objects are skipped too.
"""

from collections import Counter

from pipeline.data.geonames.places import Places
from pipeline.data.lama import Fact, Relation

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


# Relations in which a subject has several true objects.
_SEVERAL_OBJECTS = {"P47"}


def relation_facts(places: Places, relation: str) -> list[Fact]:
    """All facts of a relation, in the order of the source, without duplicates."""
    pairs = list(dict.fromkeys(_pairs(places)[relation]))
    objects = Counter(subject for subject, _ in pairs)
    return [
        Fact(predicate_id=relation, sub_label=subject, obj_label=object_)
        for subject, object_ in pairs
        if object_.isalpha()
        and subject != object_
        and (relation in _SEVERAL_OBJECTS or objects[subject] == 1)
    ]


def answer_vocabulary(places: Places) -> list[str]:
    """The objects of all relations, sorted: the allowed answers."""
    return sorted(
        {f.obj_label for name in GEONAMES_RELATIONS for f in relation_facts(places, name)}
    )


def _pairs(places: Places) -> dict[str, list[tuple[str, str]]]:
    """Relation id -> subject and object of each pair, in the order of the source."""
    by_code = places.countries
    countries = list(by_code.values())
    capitals = [(country.name, country.capital) for country in countries if country.capital]
    cities = places.well_known_cities()
    return {
        "P17": [(city.name, by_code[city.country].name) for city in cities],
        "P30": [(country.name, country.continent) for country in countries],
        "P36": capitals,
        "P1376": [(capital, country) for country, capital in capitals],
        "P131": places.counties,
        "P47": [
            (country.name, by_code[code].name)
            for country in countries
            for code in country.neighbors
            if code in by_code
        ],
    }
