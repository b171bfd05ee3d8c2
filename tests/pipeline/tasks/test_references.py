"""Patterns and verbalizers against those of PET, FewNLU and the P-tuning release."""

import re
from typing import Any

import pytest
from ruamel.yaml import YAML

from pipeline.tasks import get_task
from tests.project import ROOT

FACTS = ROOT.parent / "shared" / "paper" / "paper.yaml"

pytestmark = pytest.mark.skipif(not FACTS.is_file(), reason="no ../shared/paper/paper.yaml")

# Names in the templates here -> names there, in this order. White space differs: the references
# join separately tokenized parts.
SPELLINGS = {
    ":shorten": "", "{statement}": "{hyp}", "{hypothesis}": "{hyp}", "{choice1}": "{c1}",
    "{choice2}": "{c2}", "{sentence1}": "{s1}", "{sentence2}": "{s2}", "{mask}": "[M]",
    "{clause}": "{premise} because|, so", "{joiner}": "because|so", "{q}": "{question}",
    "{a}": "{answer}", "{p}": "{pronoun}", "[M]*k": "[M]", "{because|, so}": "because|, so",
    "{text with *pronoun*}": "{text}", " | ": "[SEP]", "[P]": "<P>", " ": "",
}  # fmt: skip

# Key in the file -> key of its pattern -> task -> pattern here. BoolQ's are pairs that differ in
# the verbalizer; YAML reads their keys 0_1, 2_3 and 4_5 as numbers.
PET: dict[str, dict[Any, dict[str, str]]] = {
    "RTE_CB": {n: {"rte": f"pet-{n}", "cb": f"pet-{n}"} for n in range(4)}
    | {"4_RTE": {"rte": "pet-4"}, "4_CB": {"cb": "pet-4"}},
    "COPA": {n: {"copa": f"pet-{n}"} for n in range(2)},
    "WSC": {n: {"wsc": f"pet-{n}"} for n in range(3)},
    "BoolQ": {11 * n + 1: {"boolq": f"pet-{n}"} for n in (0, 2, 4)},
    "MultiRC": {n: {"multirc": f"pet-{n}"} for n in range(4)},
    "WiC": {n: {"wic": f"pet-{n}"} for n in range(3)},
}
FEWNLU = {
    "rte": "p-tuning", "cb": "p-tuning", "copa": "p-tuning-fewnlu", "wsc": "p-tuning",
    "boolq": "p-tuning-fewnlu", "multirc": "p-tuning", "wic": "p-tuning-fewnlu",
}  # fmt: skip
RELEASED = {
    "rte": "p-tuning", "cb": "p-tuning-released", "copa": "p-tuning", "wsc": "p-tuning-released",
    "boolq": "p-tuning", "multirc": "p-tuning", "wic": "p-tuning",
}  # fmt: skip


def facts() -> Any:
    return YAML(typ="safe").load(FACTS)


def by_task(patterns: dict[str, Any]) -> dict[str, Any]:
    return {name.lower(): of for name, of in patterns.items()}


def spelled(pattern: str) -> str:
    for ours, theirs in SPELLINGS.items():
        pattern = pattern.replace(ours, theirs)
    return pattern


def ours(task: str, name: str) -> str:
    return spelled(get_task(task).patterns[name])


def test_the_patterns_of_pet_are_its_own() -> None:
    patterns = facts()["pet"]["patterns"]
    compared = 0
    for key, names in PET.items():
        own = {name: text for name, text in patterns[key].items() if name != "verbalizer"}
        assert set(own) == set(names), key
        for number, tasks in names.items():
            for task, name in tasks.items():
                assert ours(task, name) == spelled(own[number]), (task, name)
                compared += 1
    assert compared == 2 * 4 + 2 + 2 + 3 + 3 + 4 + 3


def test_the_patterns_of_fewnlu_are_its_own() -> None:
    protocol = facts()["fewnlu_protocol"]
    patterns = by_task(protocol["ptuning_patterns_1_token"])
    assert set(patterns) == set(FEWNLU)
    for task, name in FEWNLU.items():
        text = re.sub(r"\(verbalizer.*", "", patterns[task])
        assert ours(task, name) == spelled(text), task
    (text,) = re.findall(r"RTE/CB: (.*?)  \(", protocol["extra_pet_pattern"])
    for task in ("rte", "cb"):
        assert ours(task, "fewnlu-5") == spelled(text)


def test_the_patterns_of_the_release_are_its_own() -> None:
    patterns = by_task(facts()["released_code_THUDM_P_tuning"]["few_shot_32dev"]["per_task"])
    assert set(patterns) == set(RELEASED)
    for task, name in RELEASED.items():
        assert ours(task, name) == spelled(patterns[task]["pattern"]), task


def test_the_patterns_of_table_7_are_the_papers() -> None:
    cb = get_task("cb").patterns
    for row in facts()["v2_tables"]["table7_location_and_number_CB"]["rows"]:
        number, text = row[:2]
        text = text.replace("[Premise]", "{premise}").replace("[Hypothesis]", "{hyp}")
        text = text.replace("[P][P]", "[P]*2").replace("[P]x", "[P]*")
        own = cb["p-tuning" if number == 3 else f"table-7-{number}"]
        own = re.sub(r"\[P\*(\d)\]", r"[P]*\1", own)
        assert spelled(own) == spelled(text), number


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ("rte", [["Yes", "No"], ["true", "false"]]),
        ("cb", [["Yes", "No", "Maybe"], ["true", "false", "neither"]]),
        ("boolq", [["Yes", "No"], ["true", "false"]]),
        ("multirc", [["Yes", "No"], ["True", "False"]]),
        ("wic", [["Yes", "No"], ["b", "2"]]),
    ],
)
def test_the_words_of_pet_are_verbalizers_of_the_task(task: str, words: list[list[str]]) -> None:
    patterns = facts()["pet"]["patterns"]
    key = {"rte": "RTE_verbalizer", "cb": "CB_verbalizer"}.get(task)
    names = {"boolq": "BoolQ", "multirc": "MultiRC", "wic": "WiC"}
    theirs = patterns[key] if key else patterns[names[task]]["verbalizer"]
    spellings = [of.split("/") if isinstance(of, str) else list(of.values()) for of in
                 theirs.values()]  # fmt: skip
    assert spellings == words
    known = [list(of.values()) for of in get_task(task).verbalizers.values()]
    assert all(of in known for of in words)
