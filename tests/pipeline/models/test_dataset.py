import pytest

from pipeline.errors import TemplateError
from pipeline.models.dataset import PromptDataset, PromptFormat, build_dataset, check_verbalizer
from pipeline.models.language_model import PromptedModel
from pipeline.prompts.template import Template, parse_template
from pipeline.tasks import Example
from pipeline.tasks.lama import apply_layout, lama_task, manual_template
from tests.tiny import FAMILIES, MASKED
from tests.worked import VOCABULARY, hand_row, ids

TEMPLATE = parse_template("{subject} is in {mask} .", ["subject"])
CLOSED = parse_template("{subject} ({mask})", ["subject"])


def subject(name: str) -> dict[str, str]:
    return {"subject": name}


def build(
    model: PromptedModel,
    template: Template,
    facts: list[tuple[dict[str, str], str]],
    words: list[str],
    *,
    max_length: int | None = None,
) -> PromptDataset:
    """Build the dataset of a relation with these allowed words."""
    form = PromptFormat(lama_task("P17", words), template, max_length=max_length)
    return build_dataset(model, form, [Example("", values, word) for values, word in facts])


@pytest.mark.parametrize("family", FAMILIES)
def test_each_example_is_a_row_with_its_answer_among_the_words(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    examples = [(subject("Oslo"), "Norway"), (subject("Paris"), "France")]

    asked = build(model, TEMPLATE, examples, ["Asia", "France", "Norway"])

    assert asked.answers == ["Asia", "France", "Norway"]
    assert asked.word_ids.tolist() == ids(family, model.codec, "_Asia _France _Norway")
    assert asked.targets.tolist() == [2, 1]
    assert asked.rows == [
        hand_row(family, model, "^Oslo _is _in M _ ."),
        hand_row(family, model, "^Paris _is _in M _ ."),
    ]
    assert asked.kept_indices == [0, 1]


# Layout -> how a sentence of it is spelled for masked models, and for causal ones.
LAYOUTS = {
    "manual": ("^Paris _is _located _in M _ .",) * 2,
    "paper-v2": ("P P P _Paris _is _located _in P P P M P P P _ .",) * 2,
    "paper-v1": ("P P P _Paris P P P M P P P",) * 2,
    "released-code": ("P P P M P P P _Paris P P P", "P P P _Paris P P P M"),
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_becomes_the_row_that_one_would_write(
    tiny_models: dict[str, PromptedModel], family: str, layout: str
) -> None:
    model = tiny_models[family]
    manual = manual_template("[X] is located in [Y] .")
    template = apply_layout(layout, manual, masked=model.masked)

    asked = build(model, template, [(subject("Paris"), "France")], VOCABULARY)

    spelled = LAYOUTS[layout][0 if model.masked else 1]
    assert asked.rows == [hand_row(family, model, spelled)]


def natural_id(model: PromptedModel, sentence: str, word: str) -> int:
    """Return the id of a word at the place of [Y] in a sentence that is written as usual."""
    one, other = (
        model.codec.tokenizer(sentence.replace("[Y]", written))["input_ids"]
        for written in (word, "Oslo")
    )
    ((found, _),) = (pair for pair in zip(one, other, strict=True) if pair[0] != pair[1])
    return int(found)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_an_object_has_the_token_that_it_has_within_the_sentence(
    tiny_models: dict[str, PromptedModel], family: str, layout: str
) -> None:
    """With its space and its casing, whatever precedes the mask in the layout."""
    model = tiny_models[family]
    lamas = "[X] is located in [Y] ."
    template = apply_layout(layout, manual_template(lamas), masked=model.masked)
    words = [*VOCABULARY, "Paris", "yes", "capital", "Yes"]
    examples = [(subject("Lyon"), word) for word in words]

    asked = build(model, template, examples, words)

    # "Yes" is one token in no family; where casing is dropped, it has that of "yes".
    single = [word for word in words if word != "Yes" or family == "albert"]
    assert [words[i] for i in asked.kept_indices] == single
    assert [int(asked.word_ids[target]) for target in asked.targets] == [
        natural_id(model, lamas.replace("[X]", "Lyon"), word) for word in single
    ]


@pytest.mark.parametrize("family", MASKED)
def test_an_object_that_begins_the_sentence_has_the_token_that_it_has_there(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    template = apply_layout("manual", manual_template("[Y] shares border with [X]"), masked=True)
    examples = [(subject("Paris"), word) for word in VOCABULARY]

    asked = build(model, template, examples, VOCABULARY)

    assert asked.word_ids.tolist() == [
        natural_id(model, "[Y] shares border with Paris", word) for word in VOCABULARY
    ]
    within = [natural_id(model, "Paris shares border with [Y]", word) for word in VOCABULARY]
    assert (asked.word_ids.tolist() == within) == (family != "roberta")


@pytest.mark.parametrize("family", FAMILIES)
def test_words_of_several_tokens_are_left_out_and_with_them_their_examples(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    examples = [
        (subject("Oslo"), "Zanzibar"),
        (subject("Paris"), "France"),
        (subject("Lyon"), "Upper Volta"),
        (subject("Oslo"), "Norway"),
        (subject("Japan"), "Lyon"),
    ]

    asked = build(model, TEMPLATE, examples, ["Zanzibar", "Norway", "Upper Volta", "France"])

    assert asked.answers == ["Norway", "France"]
    assert asked.word_ids.tolist() == ids(family, model.codec, "_Norway _France")
    # "Lyon" is one token, but no allowed answer.
    assert asked.kept_indices == [1, 3]
    assert asked.targets.tolist() == [1, 0]
    assert asked.rows[0] == hand_row(family, model, "^Paris _is _in M _ .")


def test_of_words_with_the_same_token_the_first_represents_all(
    tiny_models: dict[str, PromptedModel],
) -> None:
    examples = [(subject("Paris"), "france"), (subject("Lyon"), "FRANCE"), (subject("a"), "Asia")]

    asked = build(
        tiny_models["albert"], TEMPLATE, examples, ["France", "Asia", "france", "FRANCE", "asia"]
    )

    assert asked.answers == ["France", "Asia"]
    assert len(asked.word_ids) == 2
    assert asked.targets.tolist() == [0, 0, 1]


def test_a_word_that_occurs_twice_is_one_answer(tiny_models: dict[str, PromptedModel]) -> None:
    asked = build(
        tiny_models["gpt2"], TEMPLATE, [(subject("a"), "Asia")], ["France", "France", "Asia"]
    )
    assert asked.answers == ["France", "Asia"]
    assert asked.targets.tolist() == [1]


@pytest.mark.parametrize("family", ["roberta", "gpt2", "llama"])
def test_words_are_looked_up_as_the_template_spaces_them(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    codec = tiny_models[family].codec
    examples = [(subject("a"), "Asia")]

    spaced = build(tiny_models[family], TEMPLATE, examples, ["Asia"])
    closed = build(tiny_models[family], CLOSED, examples, ["Asia"])

    assert spaced.word_ids.tolist() == ids(family, codec, "_Asia")
    assert closed.word_ids.tolist() == ids(family, codec, "Asia")
    assert spaced.word_ids.tolist() != closed.word_ids.tolist()


def test_nothing_is_asked_where_no_answer_is_allowed(tiny_models: dict[str, PromptedModel]) -> None:
    asked = build(tiny_models["bert"], TEMPLATE, [(subject("a"), "Asia")], ["Zanzibar"])
    assert (asked.rows, asked.answers, asked.kept_indices) == ([], [], [])
    assert asked.targets.tolist() == asked.word_ids.tolist() == []


@pytest.mark.parametrize(("max_length", "length"), [(None, 126), (20, 20), (500, 126)])
def test_rows_are_cut_to_the_smaller_of_both_limits(
    tiny_models: dict[str, PromptedModel], max_length: int | None, length: int
) -> None:
    template = parse_template("{subject:shorten} is in {mask} .", ["subject"])
    asked = build(
        tiny_models["roberta"],
        template,
        [(subject("Paris" + " Lyon Oslo" * 100), "Asia")],
        ["Asia"],
        max_length=max_length,
    )
    assert len(asked.rows[0].token_ids) == length


@pytest.mark.parametrize("family", FAMILIES)
def test_a_verbalizer_of_two_tokens_is_accepted(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    check_verbalizer(tiny_models[family].codec, TEMPLATE, {"entailment": "yes", "other": "no"})


@pytest.mark.parametrize(
    ("family", "verbalizer", "message"),
    [
        (
            "bert",
            {"entailment": "yes", "other": "zebra"},
            "verbalizer: the word 'zebra' of label 'other' is 5 tokens of this model; choose a "
            "word that is one token",
        ),
        ("gpt2", {"entailment": "zebra"}, "'zebra' of label 'entailment' is 6 tokens"),
        ("bert", {"entailment": "東"}, "the word '東' of label 'entailment' is unknown to this"),
        (
            "albert",
            {"entailment": "yes", "other": "Yes"},
            "verbalizer: labels 'entailment' and 'other' have the same word 'Yes' for this model",
        ),
        ("llama", {"a": "no", "b": "no"}, "labels 'a' and 'b' have the same word 'no'"),
    ],
)
def test_a_verbalizer_that_does_not_fit_the_model_is_named(
    tiny_models: dict[str, PromptedModel], family: str, verbalizer: dict[str, str], message: str
) -> None:
    with pytest.raises(TemplateError, match=message):
        check_verbalizer(tiny_models[family].codec, TEMPLATE, verbalizer)
