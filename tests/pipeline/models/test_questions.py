import pytest

from pipeline.errors import TemplateError
from pipeline.models.answers import AnswerModel
from pipeline.models.questions import build_questions, check_verbalizer
from pipeline.prompts.template import parse_template
from tests.tiny import FAMILIES
from tests.worked import hand_row, ids

TEMPLATE = parse_template("{subject} is in {mask} .", ["subject"])
CLOSED = parse_template("{subject} ({mask})", ["subject"])


def subject(name: str) -> dict[str, str]:
    return {"subject": name}


@pytest.mark.parametrize("family", FAMILIES)
def test_each_example_is_a_row_with_its_answer_among_the_words(
    tiny_models: dict[str, AnswerModel], family: str
) -> None:
    model = tiny_models[family]
    examples = [(subject("Oslo"), "Norway"), (subject("Paris"), "France")]

    asked = build_questions(model, TEMPLATE, examples, ["Asia", "France", "Norway"])

    assert asked.words == ["Asia", "France", "Norway"]
    assert asked.word_ids.tolist() == ids(family, model.codec, "_Asia _France _Norway")
    assert asked.targets.tolist() == [2, 1]
    assert asked.rows == [
        hand_row(family, model, "^Oslo _is _in M _ ."),
        hand_row(family, model, "^Paris _is _in M _ ."),
    ]
    assert asked.asked == [0, 1]


@pytest.mark.parametrize("family", FAMILIES)
def test_words_of_several_tokens_are_left_out_and_with_them_their_examples(
    tiny_models: dict[str, AnswerModel], family: str
) -> None:
    model = tiny_models[family]
    examples = [
        (subject("Oslo"), "Zanzibar"),
        (subject("Paris"), "France"),
        (subject("Lyon"), "Upper Volta"),
        (subject("Oslo"), "Norway"),
        (subject("Japan"), "Lyon"),
    ]

    asked = build_questions(
        model, TEMPLATE, examples, ["Zanzibar", "Norway", "Upper Volta", "France"]
    )

    assert asked.words == ["Norway", "France"]
    assert asked.word_ids.tolist() == ids(family, model.codec, "_Norway _France")
    # "Lyon" is one token, but no allowed answer.
    assert asked.asked == [1, 3]
    assert asked.targets.tolist() == [1, 0]
    assert asked.rows[0] == hand_row(family, model, "^Paris _is _in M _ .")


def test_of_words_with_the_same_token_the_first_stands_for_all(
    tiny_models: dict[str, AnswerModel],
) -> None:
    examples = [(subject("Paris"), "france"), (subject("Lyon"), "FRANCE"), (subject("a"), "Asia")]

    asked = build_questions(
        tiny_models["albert"], TEMPLATE, examples, ["France", "Asia", "france", "FRANCE", "asia"]
    )

    assert asked.words == ["France", "Asia"]
    assert len(asked.word_ids) == 2
    assert asked.targets.tolist() == [0, 0, 1]


def test_a_word_that_occurs_twice_is_one_answer(tiny_models: dict[str, AnswerModel]) -> None:
    asked = build_questions(
        tiny_models["gpt2"], TEMPLATE, [(subject("a"), "Asia")], ["France", "France", "Asia"]
    )
    assert asked.words == ["France", "Asia"]
    assert asked.targets.tolist() == [1]


@pytest.mark.parametrize("family", ["roberta", "gpt2", "llama"])
def test_words_are_looked_up_as_the_template_spaces_them(
    tiny_models: dict[str, AnswerModel], family: str
) -> None:
    codec = tiny_models[family].codec
    examples = [(subject("a"), "Asia")]

    spaced = build_questions(tiny_models[family], TEMPLATE, examples, ["Asia"])
    closed = build_questions(tiny_models[family], CLOSED, examples, ["Asia"])

    assert spaced.word_ids.tolist() == ids(family, codec, "_Asia")
    assert closed.word_ids.tolist() == ids(family, codec, "Asia")
    assert spaced.word_ids.tolist() != closed.word_ids.tolist()


def test_nothing_is_asked_where_no_answer_is_allowed(tiny_models: dict[str, AnswerModel]) -> None:
    asked = build_questions(tiny_models["bert"], TEMPLATE, [(subject("a"), "Asia")], ["Zanzibar"])
    assert (asked.rows, asked.words, asked.asked) == ([], [], [])
    assert asked.targets.tolist() == asked.word_ids.tolist() == []


@pytest.mark.parametrize(("max_length", "length"), [(None, 126), (20, 20), (500, 126)])
def test_rows_are_cut_to_the_smaller_of_both_limits(
    tiny_models: dict[str, AnswerModel], max_length: int | None, length: int
) -> None:
    template = parse_template("{subject:shorten} is in {mask} .", ["subject"])
    asked = build_questions(
        tiny_models["roberta"],
        template,
        [(subject("Paris" + " Lyon Oslo" * 100), "Asia")],
        ["Asia"],
        max_length=max_length,
    )
    assert len(asked.rows[0].token_ids) == length


@pytest.mark.parametrize("family", FAMILIES)
def test_a_verbalizer_of_two_tokens_is_accepted(
    tiny_models: dict[str, AnswerModel], family: str
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
    tiny_models: dict[str, AnswerModel], family: str, verbalizer: dict[str, str], message: str
) -> None:
    with pytest.raises(TemplateError, match=message):
        check_verbalizer(tiny_models[family].codec, TEMPLATE, verbalizer)
