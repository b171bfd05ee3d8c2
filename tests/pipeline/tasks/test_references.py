"""Patterns and verbalizers against those of PET, FewNLU, the P-tuning release and LM-BFF."""

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


# Key of LM-BFF's manual templates -> tasks here.
LM_BFF = {
    "SST-2": ["sst2"], "MNLI_SNLI": ["mnli"], "QNLI_RTE": ["qnli", "glue_rte"],
    "MRPC_QQP_STS-B": ["mrpc"], "CoLA": ["cola"],
}  # fmt: skip
LM_BFF_NAMES = {"SST-2": "sst2", "MNLI": "mnli", "MRPC": "mrpc"}


def lm_bff(task: str, name: str) -> str:
    """A pattern of ours in LM-BFF's spelling, where texts have no names."""
    pattern = get_task(task).patterns[name].replace(":shorten", "").replace("{mask}", "[M]")
    first = "{s1}" if "{continuation}" in pattern else "{s}"
    for text in ("{opening}", "{sentence}", "{sentence1}"):
        pattern = pattern.replace(text, first)
    return pattern.replace("{continuation}", "{s2}").replace(" ", "")


def test_the_manual_templates_and_words_of_lm_bff_are_its_own() -> None:
    templates = facts()["lm_bff"]["manual_templates"]
    assert set(templates) == set(LM_BFF)
    for key, tasks in LM_BFF.items():
        text, _, words = templates[key].partition(" (")
        for task in tasks:
            assert lm_bff(task, "lm-bff") == text.replace(" ", ""), task
            verbalizer = list(get_task(task).verbalizers.values())
            if words:
                assert set(verbalizer[0].values()) == set(words.rstrip(")").split("/")), task


def test_the_words_of_lm_bff_belong_to_its_labels() -> None:
    """As its mappings have them (run_experiment.sh); the file above names words without labels."""
    words = {
        "cola": {"0": "incorrect", "1": "correct"},
        "sst2": {"0": "terrible", "1": "great"},
        "mrpc": {"0": "No", "1": "Yes"},
        "mnli": {"contradiction": "No", "entailment": "Yes", "neutral": "Maybe"},
        "qnli": {"not_entailment": "No", "entailment": "Yes"},
        "glue_rte": {"not_entailment": "No", "entailment": "Yes"},
    }
    for task, expected in words.items():
        (verbalizer,) = get_task(task).verbalizers.values()
        assert dict(verbalizer) == expected


def test_the_automatic_templates_of_lm_bff_are_its_own() -> None:
    published = facts()["lm_bff"]["best_auto_templates_by_seed"]
    assert set(published) == set(LM_BFF_NAMES)
    for key, by_seed in published.items():
        task = LM_BFF_NAMES[key]
        names = {name for name in get_task(task).patterns if name.startswith("lm-bff-auto-")}
        assert names == {f"lm-bff-auto-{seed}" for seed in by_seed}
        for seed, text in by_seed.items():
            assert lm_bff(task, f"lm-bff-auto-{seed}") == text.replace(" ", ""), (task, seed)


def test_p_tuning_has_the_same_templates_with_a_prompt_token() -> None:
    for task in (task for tasks in LM_BFF.values() for task in tasks):
        patterns = get_task(task).patterns
        for name in [name for name in patterns if name.startswith("lm-bff")]:
            causal = name == "lm-bff" and "question" not in patterns
            tuned = patterns["p-tuning" if causal else f"p-tuning-{name}"]
            assert tuned.count("[P]") == 1
            assert tuned.replace("[P] ", "") == patterns[name]
