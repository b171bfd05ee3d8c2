import pytest

from pipeline.data.geonames.facts import (
    GEONAMES_RELATIONS,
    answer_vocabulary,
    relation_facts,
)

# Worked out by hand from the small world.
FACTS = {
    # Chicago's country has two words, Monaco is its own answer, two cities are called Paris.
    "P17": [
        ("Osaka", "Japan"), ("Hamburg", "Germany"), ("Brussels", "Belgium"), ("Lyon", "France"),
        ("Vaduz", "Japan"), ("Bruges", "Belgium"),
    ],
    # Antarctica is its own answer, and North America has two words.
    "P30": [
        ("Belgium", "Europe"), ("Germany", "Europe"), ("France", "Europe"), ("Japan", "Asia"),
        ("Monaco", "Europe"),
    ],
    "P36": [
        ("Belgium", "Brussels"), ("Germany", "Berlin"), ("France", "Paris"), ("Haiti", "Kingston"),
        ("Jamaica", "Kingston"), ("Japan", "Tokyo"), ("United States", "Washington"),
    ],
    # Two countries have a capital called Kingston.
    "P1376": [
        ("Brussels", "Belgium"), ("Berlin", "Germany"), ("Paris", "France"), ("Tokyo", "Japan"),
    ],
    # Two states have an Orange County; New York has two words.
    "P131": [("Kings County", "California"), ("Polk County", "Florida")],
    # A country may have several neighbours; two of Germany's are in no list.
    "P47": [
        ("Belgium", "Germany"), ("Belgium", "France"), ("Germany", "Belgium"),
        ("Germany", "France"), ("France", "Belgium"), ("France", "Germany"), ("Monaco", "France"),
    ],
}  # fmt: skip


def _pairs(places, relation):
    return [(fact.sub_label, fact.obj_label) for fact in relation_facts(places, relation)]


@pytest.mark.parametrize("relation", FACTS)
def test_the_facts_are_those_worked_out_by_hand(places, relation):
    assert _pairs(places, relation) == FACTS[relation]
    assert {fact.predicate_id for fact in relation_facts(places, relation)} == {relation}


def test_every_relation_was_worked_out():
    assert set(FACTS) == set(GEONAMES_RELATIONS)


def test_the_vocabulary_is_every_object_once_and_sorted(places):
    assert answer_vocabulary(places) == sorted(
        {object_ for pairs in FACTS.values() for _, object_ in pairs}
    )


@pytest.mark.parametrize("relation", FACTS)
def test_templates_have_a_place_for_subject_and_object(relation):
    template = GEONAMES_RELATIONS[relation].template
    assert GEONAMES_RELATIONS[relation].relation == relation
    assert (template.count("[X]"), template.count("[Y]")) == (1, 1)


@pytest.mark.parametrize(
    ("relation", "template"),
    [
        # LAMA, relations.jsonl
        ("P17", "[X] is located in [Y] ."),
        ("P30", "[X] is located in [Y] ."),
        ("P36", "The capital of [X] is [Y] ."),
        ("P47", "[X] shares border with [Y] ."),
        ("P131", "[X] is located in [Y] ."),
        ("P1376", "[X] is the capital of [Y] ."),
    ],
)
def test_templates_are_those_of_lama(relation, template):
    assert GEONAMES_RELATIONS[relation].template == template
