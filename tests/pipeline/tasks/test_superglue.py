"""What the tasks of SuperGLUE and GLUE make of a record, and what they refuse."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import DataError, TemplateError
from pipeline.prompts.template import Mask
from pipeline.tasks import get_task, task_names, task_template, task_verbalizer

WIC = {"word": "place", "sentence1": "A place.", "sentence2": "They place it.", "idx": 3,
       "label": True, "start1": 2, "end1": 7, "start2": 5, "end2": 10}  # fmt: skip
WSC = {"text": "Mark told Pete many lies about himself , which Pete kept .", "idx": 5,
       "label": False, "target": {"span1_index": 0, "span1_text": "Mark", "span2_index": 6,
                                  "span2_text": "himself"}}  # fmt: skip
COPA = {"premise": "The sun rose.", "choice1": "I woke.", "choice2": "The night fell.",
        "question": "effect", "label": 0, "idx": 1}  # fmt: skip
MULTIRC = {"idx": 6, "passage": {"text": "Lyon is in France.", "questions": [
    {"question": "Where is Lyon?", "idx": 27, "answers": [
        {"text": "France", "idx": 333, "label": 1}, {"text": "Peru", "idx": 334, "label": 0}]},
    {"question": "What is Lyon?", "idx": 28, "answers": [
        {"text": "A city", "idx": 335, "label": 1}]}]}}  # fmt: skip
BOOLQ = {"question": "is lyon in france", "passage": "Lyon is.", "idx": 2, "label": True}
CB = {"premise": "It rains.", "hypothesis": "It pours", "label": "neutral", "idx": 8}
RECORDS: dict[str, dict[str, Any]] = {
    "boolq": BOOLQ, "cb": CB, "copa": COPA, "multirc": MULTIRC,
    "rte": {**CB, "label": "entailment"}, "wic": WIC, "wsc": WSC,
    "cola": {"sentence": "They drank.", "label": "1", "idx": 4},
    "sst2": {"sentence": "a fine film ", "label": "1", "idx": 4},
    "mrpc": {"sentence1": "It rains.", "sentence2": "It is wet.", "label": "0", "idx": 4},
    "glue_rte": {
        "sentence1": "It rains.", "sentence2": "It is wet.", "label": "entailment", "idx": 4,
    },
    "qnli": {"question": "Is it wet?", "sentence": "It is.", "label": "entailment", "idx": 4},
    "mnli": {"premise": "It rains.", "hypothesis": "It is wet.", "label": "neutral", "idx": 4},
}  # fmt: skip


def only(task: str, record: dict[str, Any]) -> Any:
    (example,) = get_task(task).examples(record)
    return example


def test_the_answers_of_multirc_keep_their_question() -> None:
    first, second, third = get_task("multirc").examples(MULTIRC)
    assert [e.name for e in (first, second, third)] == ["6/27/333", "6/27/334", "6/28/335"]
    assert [e.question for e in (first, second, third)] == ["6/27", "6/27", "6/28"]
    assert [e.label for e in (first, second, third)] == ["1", "0", "1"]
    assert second.values["answer"] == "Peru"


def test_the_choices_of_copa_are_second_halves_of_a_sentence() -> None:
    example = only("copa", COPA)
    assert example.choices == ("I woke", "the night fell")
    assert example.values["premise"] == "The sun rose"
    assert (example.values["joiner"], example.values["clause"]) == ("so", "The sun rose, so")
    cause = only("copa", {**COPA, "question": "cause"}).values
    assert (cause["joiner"], cause["clause"]) == ("because", "The sun rose because")


@pytest.mark.parametrize(
    ("sentence", "clause"),
    [
        ("A deer appeared.", "a deer appeared"),
        ("I'm late.", "I'm late"),
        ("NASA failed.", "NASA failed"),
        ("It rained.", "it rained"),
    ],
)
def test_a_clause_begins_small_but_for_names_in_capitals(sentence: str, clause: str) -> None:
    assert only("copa", {**COPA, "choice1": sentence}).choices[0] == clause


def test_a_statement_is_the_hypothesis_without_its_final_punctuation() -> None:
    for written in ("It pours.", "It pours", "It pours ?!"):
        example = only("rte", {**RECORDS["rte"], "hypothesis": written})
        assert example.values["statement"] == "It pours"
        assert example.values["hypothesis"] == written
    # As Schick and Schuetze do: all but the pattern that asks "True or False?".
    asking = {name for name, text in get_task("rte").patterns.items() if "{hypothesis}" in text}
    assert asking == {"pet-4", "prompt-tuning", "classifier"}


def test_lm_bff_takes_a_pair_without_the_first_texts_end_and_with_a_small_second_text() -> None:
    for task, opening, continuation in (
        ("mrpc", "It rains", "it is wet."),
        ("qnli", "Is it wet", "it is."),
        ("mnli", "It rains", "it is wet."),
    ):
        values = only(task, RECORDS[task]).values
        assert (values["opening"], values["continuation"]) == (opening, continuation)
    # Whatever the last character is, as there.
    assert only("mnli", {**RECORDS["mnli"], "premise": "yeah "}).values["opening"] == "yea"
    assert only("sst2", RECORDS["sst2"]).values == {"sentence": "a fine film"}


@pytest.mark.parametrize("index", [5, 6, 7])
def test_a_pronoun_is_found_beside_a_wrong_index(index: int) -> None:
    record = {**WSC, "target": {**WSC["target"], "span2_index": index}}
    assert "about *himself* , which" in only("wsc", record).values["text"]


def test_a_pronoun_is_marked_and_its_noun_competes_with_others() -> None:
    example = only("wsc", WSC)
    assert example.values["text"] == (
        "Mark told Pete many lies about *himself* , which Pete kept ."
    )
    assert example.choices == ("Mark", "Pete")
    assert example.label == "false"


@pytest.mark.parametrize(
    ("task", "change", "said"),
    [
        ("boolq", {"label": 1}, "label 1 is not one of true, false"),
        ("boolq", {"label": "true"}, "label 'true' is not one of true, false"),
        ("copa", {"label": True}, "label true is not one of 0, 1"),
        ("sst2", {"label": "-1"}, "label '-1' is not one of '0', '1'"),
        ("sst2", {"label": 1}, "label 1 is not one of '0', '1'"),
        ("mnli", {"label": "-"}, "label '-' is not one of 'contradiction', 'entailment', 'neut"),
        ("mrpc", {"sentence2": 3}, "sentence2 is 3, not text"),
        ("copa", {"question": "why"}, "question 'why' is not one of cause, effect"),
        ("copa", {"choice2": " . "}, "a choice is empty"),
        ("wic", {"end1": 99}, "start1 and end1 are 2 and 99, outside sentence1 of 8 characters"),
        ("wic", {"start2": 10}, "start2 and end2 are 10 and 10, outside sentence2"),
        ("wic", {"start1": -1}, "start1 and end1 are -1 and 7, outside sentence1"),
        ("wsc", {"target": "Mark"}, "target is 'Mark', not an object"),
        ("wsc", {"target": WSC["target"] | {"span2_index": 12}}, "span2_index is 12, outside"),
        (
            "wsc",
            {"target": WSC["target"] | {"span2_index": 2}},
            "span2_index is 2, where the text has no",
        ),
        ("wsc", {"target": WSC["target"] | {"span1_index": -1}}, "span1_index is -1, outside"),
        ("wsc", {"target": WSC["target"] | {"span1_text": " "}}, "span1_text is empty"),
        ("multirc", {"passage": {"text": "a", "questions": []}}, "questions is [], not a list of"),
        ("multirc", {"passage": {"text": "a", "questions": ["b"]}}, "questions is ['b'], not a"),
    ],
)
def test_a_record_that_is_not_of_the_schema_is_refused(
    task: str, change: dict[str, Any], said: str
) -> None:
    with pytest.raises(DataError) as caught:
        list(get_task(task).examples({**RECORDS[task], **change}))
    assert str(caught.value).startswith(said)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(task=st.sampled_from(sorted(RECORDS)), key=st.integers(0, 9), value=JSON)
def test_whatever_a_field_contains_it_is_read_or_refused_in_one_line(
    task: str, key: int, value: Any
) -> None:
    record = RECORDS[task]
    name = list(record)[key % len(record)]
    for changed in ({**record, name: value}, {k: v for k, v in record.items() if k != name}):
        refused = ""
        examples = []
        try:
            examples = list(get_task(task).examples(changed))
        except DataError as error:
            refused = str(error)
        assert bool(examples) != bool(refused)
        assert len(refused) < 300
        assert {example.label for example in examples} <= set(get_task(task).labels)


@pytest.mark.parametrize("task", task_names())
def test_every_pattern_and_verbalizer_of_a_task_fits_it(task: str) -> None:
    kind = get_task(task)
    assert {"p-tuning", "prompt-tuning", "classifier"} <= set(kind.patterns)
    for name, source in kind.patterns.items():
        template = task_template(kind, name, classifier=name == "classifier")
        assert template.source == source
        assert (Mask() in template.parts) == (name != "classifier" or kind.has_choices)
        tuned = "p-tuning" in name or name in ("prompt-tuning",) or name.startswith("table-7")
        assert bool(template.prompt_tokens) == tuned, name
    for words in kind.verbalizers.values():
        assert tuple(words) == kind.labels
    fields = {field.name: field.example for field in kind.schema.fields if field.required}
    example = next(iter(kind.examples(kind.schema.record({"idx": 0, **fields}))))
    assert set(example.values) == set(kind.fields)
    assert bool(example.choices) == kind.has_choices


def test_an_unknown_pattern_or_verbalizer_is_answered_with_the_known_ones() -> None:
    with pytest.raises(TemplateError, match="unknown pattern 'pet-9' of cb; available: pet-0"):
        task_template(get_task("cb"), "pet-9", classifier=False)
    with pytest.raises(TemplateError, match="'yes' of wic; available: yes-no, Yes-No, b-2"):
        task_verbalizer(get_task("wic"), "yes")
    with pytest.raises(TemplateError, match="examples of copa have candidate answers; write null"):
        task_verbalizer(get_task("copa"), "yes-no")
    with pytest.raises(TemplateError, match="the task's are true, false, and each needs a word"):
        task_verbalizer(get_task("wic"), {"true": "b"})
    for words in ({True: "b", False: "c"}, {"true": 1, "false": "c"}, {"true": " ", "false": "c"}):
        with pytest.raises(TemplateError, match="is not text; put labels and words in quotes"):
            task_verbalizer(get_task("wic"), words)
    with pytest.raises(TemplateError, match="1 masks; remove"):
        task_template(get_task("rte"), "{premise} {mask}", classifier=True)
    assert task_verbalizer(get_task("copa"), None) is None
    assert task_verbalizer(get_task("wic"), {"false": "2", "true": "b"}) == {
        "true": "b",
        "false": "2",
    }
