"""Raw folder -> LAMA's splits, for each source."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.data.geonames.facts import GEONAMES_RELATIONS, answer_vocabulary, relation_facts
from pipeline.data.geonames.places import read_places
from pipeline.data.lama import (
    ALL,
    FACTS,
    PAPER_PROMPTS,
    SPLITS,
    Fact,
    LamaSplits,
    Relation,
    read_facts,
    read_prompts,
    read_relations,
    read_removed_overlaps,
    read_vocabulary,
)
from pipeline.data.splits import check_not_empty, split_items, subsample
from pipeline.seeding import make_random

if TYPE_CHECKING:
    from pipeline.config.schema import LamaParams

# Relation -> `train/overlap`, `test/outside_vocabulary`, ... -> number of dropped facts.
Dropped = dict[str, dict[str, int]]


def build_lama(raw: Path, params: LamaParams, seed: int) -> tuple[LamaSplits, Dropped]:
    """Build the splits of all relations from the raw folder of `params.source`.

    Returns:
        The splits, and the numbers of dropped facts.

    Raises:
        DataError: a file is damaged, or a split would be empty.
    """
    sources = {"geonames": _from_geonames, "lama": _from_lama, "facts": _from_facts}
    build = sources[params.source]
    splits, dropped = build(raw, params, seed)
    for relation, facts in splits.facts.items():
        check_not_empty(f"lama.splits: {relation}", "facts", facts)
    if params.objects != ALL:
        splits = replace(splits, objects={})
    return splits, dropped


def _from_geonames(raw: Path, params: LamaParams, seed: int) -> tuple[LamaSplits, Dropped]:
    """Split the facts of GeoNames; none are dropped."""
    places = read_places(raw)
    known = {relation: relation_facts(places, relation) for relation in GEONAMES_RELATIONS}
    return _split_all(GEONAMES_RELATIONS, known, answer_vocabulary(places), params, seed)


def _from_facts(raw: Path, params: LamaParams, seed: int) -> tuple[LamaSplits, Dropped]:
    """Split the user's facts; none are dropped. The objects of all relations may be answered."""
    relations = read_relations(raw / "relations.jsonl")
    known = {relation: read_facts(raw / relation / FACTS) for relation in relations}
    vocabulary = _objects(fact for facts in known.values() for fact in facts)
    return _split_all(relations, known, vocabulary, params, seed)


def _split_all(
    known: Mapping[str, Relation],
    facts: Mapping[str, Sequence[Fact]],
    vocabulary: list[str],
    params: LamaParams,
    seed: int,
) -> tuple[LamaSplits, Dropped]:
    """Split the facts of the chosen relations of a source that has no splits."""
    relations = list(known) if params.relations == ALL else params.relations
    splits = LamaSplits(
        relations={relation: known[relation] for relation in relations},
        facts={
            relation: split_facts(
                facts[relation],
                sizes=_sizes(params),
                rng=make_random(seed, "splits", "lama", relation),
            )
            for relation in relations
        },
        vocabulary=vocabulary,
        prompts=PAPER_PROMPTS,
        objects={relation: _objects(facts[relation]) for relation in relations},
    )
    return splits, {relation: {} for relation in relations}


def _from_lama(raw: Path, params: LamaParams, seed: int) -> tuple[LamaSplits, Dropped]:
    """Use LAMA's splits, without facts that are in two of them."""
    known = read_relations(raw / "relations.jsonl")
    relations = list(known) if params.relations == ALL else params.relations
    vocabulary = read_vocabulary(raw, params.subset)
    words = set(vocabulary)
    removed = read_removed_overlaps(raw)
    facts, objects, dropped = {}, {}, {}
    for relation in relations:
        every = {split: read_facts(raw / relation / f"{split}.jsonl") for split in SPLITS}
        objects[relation] = _objects(fact for own in every.values() for fact in own)
        objects[relation] = [name for name in objects[relation] if name in words]
        facts[relation], counts = clean_splits(
            every,
            words=words,
            sizes=_sizes(params),
            rng=make_random(seed, "splits", "lama", relation),
        )
        dropped[relation] = {
            key: count + removed[relation, key.removesuffix("/overlap")]
            for key, count in counts.items()
        }
    splits = LamaSplits(
        relations={relation: known[relation] for relation in relations},
        facts=facts,
        vocabulary=vocabulary,
        prompts={**PAPER_PROMPTS, **read_prompts(raw, relations)},
        objects=objects,
    )
    return splits, dropped


def _objects(facts: Iterable[Fact]) -> list[str]:
    return sorted({fact.obj_label for fact in facts})


def _sizes(params: LamaParams) -> dict[str, int | None]:
    sizes = params.splits
    return {"train": sizes.train_facts, "dev": sizes.dev_facts, "test": sizes.test_facts}


def split_facts(
    facts: Sequence[Fact], *, sizes: Mapping[str, int | None], rng: random.Random
) -> dict[str, list[Fact]]:
    """Split the facts of one relation; a subject-object pair is in one split only.

    A fact and its inverse (A borders B, B borders A) stay together, so that neither reveals the
    other. Of a duplicate pair, the first fact is used.
    """
    unique = {(fact.sub_label, fact.obj_label): fact for fact in reversed(facts)}
    return split_items(
        list(reversed(unique.values())),
        sizes=sizes,
        group=lambda fact: frozenset((fact.sub_label, fact.obj_label)),
        rng=rng,
    )


def clean_splits(
    splits: Mapping[str, Sequence[Fact]],
    *,
    words: Collection[str],
    sizes: Mapping[str, int | None],
    rng: random.Random,
) -> tuple[dict[str, list[Fact]], dict[str, int]]:
    """Make the splits of one relation disjoint, then limit their sizes.

    Test stays whole. Subject-object pairs of test are dropped from train and dev, those of dev
    from train. Facts whose object is not in the vocabulary are dropped.

    Args:
        splits: `train`, `dev` and `test`.
        words: the allowed objects.
        sizes: split name -> maximum number of facts; None keeps all. A subsample is drawn with
            `rng` and keeps its order.
        rng: for the draws.

    Returns:
        The splits, and the numbers of dropped facts (`train/overlap`, `test/outside_vocabulary`,
        ...).
    """
    counts: dict[str, int] = {}
    clean: dict[str, list[Fact]] = {}
    pairs: set[tuple[str, str]] = set()
    for split in ("test", "dev", "train"):
        disjoint = [f for f in splits[split] if (f.sub_label, f.obj_label) not in pairs]
        pairs |= {(fact.sub_label, fact.obj_label) for fact in splits[split]}
        allowed = [fact for fact in disjoint if fact.obj_label in words]
        counts[f"{split}/overlap"] = len(splits[split]) - len(disjoint)
        counts[f"{split}/outside_vocabulary"] = len(disjoint) - len(allowed)
        clean[split] = subsample(allowed, sizes[split], rng)
    del counts["test/overlap"]
    return {split: clean[split] for split in splits}, counts
