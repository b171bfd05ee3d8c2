from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from pipeline.errors import TemplateError
from pipeline.models.encoding import NO_SLOT, Row, build_row, nearest_words
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.prompts.template import parse_template
from tests.tiny import FAMILIES
from tests.worked import hand_row, ids

FIELDS = ("subject", "premise", "hypothesis")
RTE = "{premise:shorten} Question: {hypothesis}? [P] Answer: {mask}."


def build(model: PromptedModel, source: str, *, max_length: int = 128, **values: str) -> Row:
    template = parse_template(source, FIELDS)
    return build_row(template, values, model.codec, masked=model.masked, max_length=max_length)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("source", "spelled"),
    [
        ("{subject} is located in {mask} .", "^Paris _is _located _in M _ ."),
        ("{subject} is located in {mask}.", "^Paris _is _located _in M ."),
        (
            "[P*3] {subject} is in [P*2] {mask} [P] .",
            "P P P _Paris _is _in P P M P _ .",
        ),
        ("Question {subject}[P]: {mask}", "^Question _Paris P : M"),
        ("Question:{subject}({mask}) is", "^Question : {bare} ( M ) _is"),
    ],
)
def test_a_row_is_the_sentence_with_its_slots(
    tiny_models: dict[str, PromptedModel], family: str, source: str, spelled: str
) -> None:
    model = tiny_models[family]
    bare = {"albert": "p a r i s"}.get(family, "Paris")
    row = build(model, source, subject="Paris")
    assert row == hand_row(family, model, spelled.format(bare=bare))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_special_token_is_one_in_a_template_and_plain_text_in_a_field(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    tokenizer = model.codec.tokenizer
    token = tokenizer.eos_token or tokenizer.sep_token
    number = tokenizer.convert_tokens_to_ids(token)
    written = build(model, f"{{subject}} {token} is {{mask}}", subject="Paris")
    typed = build(model, "{subject} is {mask}", subject=f"Paris {token}")
    without = build(model, "{subject} is {mask}", subject="Paris")
    place = len(model.codec.prefix + ids(family, model.codec, "^Paris"))
    assert written.token_ids == (*without.token_ids[:place], number, *without.token_ids[place:])
    assert typed.token_ids.count(number) == without.token_ids.count(number)
    assert len(typed.token_ids) > len(written.token_ids)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_task_template_gives_the_sentence_of_both_fields(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    row = build(model, RTE, premise="Paris is in France.", hypothesis="Paris is in Europe")
    spelled = "^Paris _is _in _France . _Question : _Paris _is _in _Europe ? P _Answer : M ."
    assert row == hand_row(family, model, spelled)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_causal_row_ends_in_front_of_the_mask(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    cut = build(model, "{subject} is in {mask}", subject="Oslo")
    assert build(model, "{subject} is in {mask} , [P] {subject} .", subject="Oslo") == cut
    assert cut.answer_position == len(cut.token_ids) - 1
    assert cut.token_ids[-1] == ids(family, model.codec, "_in")[0]


def test_a_causal_model_may_read_the_answer_at_a_prompt_token(
    tiny_models: dict[str, PromptedModel],
) -> None:
    row = build(tiny_models["gpt2"], "{subject} is [P*2] {mask} .", subject="Paris")
    assert row.slots == (NO_SLOT, NO_SLOT, 0, 1)
    assert row.answer_position == 3


def test_a_causal_model_with_nothing_in_front_of_the_mask_is_an_error(
    tiny_models: dict[str, PromptedModel],
) -> None:
    with pytest.raises(TemplateError, match="nothing precedes"):
        build(tiny_models["gpt2"], "{mask} is the capital of {subject}", subject="France")


def test_the_first_special_token_may_stand_in_front_of_the_mask(
    tiny_models: dict[str, PromptedModel],
) -> None:
    row = build(tiny_models["llama"], "{mask} is the capital of {subject}", subject="France")
    assert row == Row((1,), (NO_SLOT,), 0)


def test_a_masked_model_without_a_mask_token_is_an_error(
    tiny_models: dict[str, PromptedModel],
) -> None:
    template = parse_template("{subject} is {mask}", FIELDS)
    with pytest.raises(TemplateError, match="no mask token"):
        build_row(template, {"subject": "a"}, tiny_models["gpt2"].codec, masked=True, max_length=9)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_field_is_cut_from_its_end_to_fit_exactly(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    words = ["Paris", "Lyon", "Oslo", "France", "Norway", "Asia"]

    def row(count: int, max_length: int = 128) -> Row:
        premise = " ".join(words[:count])
        return build(model, RTE, premise=premise, hypothesis="no", max_length=max_length)

    full = len(row(6).token_ids)
    for count in range(6):
        shortened = row(6, max_length=full - 6 + count)
        assert len(shortened.token_ids) == full - 6 + count
        assert shortened == row(count)


@pytest.mark.parametrize("family", FAMILIES)
def test_words_of_several_tokens_are_cut_until_the_row_fits(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    values = {"premise": "zebra, 東京 quagga's Oslo-Lyon (yak)", "hypothesis": "no"}
    full = len(build(model, RTE, **values).token_ids)
    bare = len(build(model, RTE, premise="", hypothesis="no").token_ids)
    for max_length in range(bare, full):
        row = build(model, RTE, max_length=max_length, **values)
        assert bare <= len(row.token_ids) <= max_length
        untouched = build(model, RTE, premise="", hypothesis="no").token_ids[-4:]
        assert row.token_ids[-4:] == untouched


def test_the_longest_marked_field_is_cut_first(tiny_models: dict[str, PromptedModel]) -> None:
    model = tiny_models["bert"]
    source = "{premise:shorten} Question: {hypothesis:shorten} {mask}"
    values = {"premise": "Paris Lyon Oslo France Norway", "hypothesis": "Asia Japan city"}
    full = len(build(model, source, **values).token_ids)

    row = build(model, source, max_length=full - 1, **values)
    assert row == build(model, source, **{**values, "premise": "Paris Lyon Oslo France"})

    row = build(model, source, max_length=full - 6, **values)
    assert row == build(model, source, premise="", hypothesis="Asia Japan")


def test_a_field_that_is_not_marked_is_never_cut(tiny_models: dict[str, PromptedModel]) -> None:
    with pytest.raises(TemplateError, match=r"more than 8 and nothing to cut.*\{name:shorten\}"):
        build(
            tiny_models["bert"],
            "{subject} is in {mask}",
            subject="Paris Lyon Oslo France",
            max_length=8,
        )


def test_a_row_that_is_too_long_without_its_marked_field_is_an_error(
    tiny_models: dict[str, PromptedModel],
) -> None:
    with pytest.raises(TemplateError, match="nothing to cut"):
        build(tiny_models["bert"], RTE, premise="Paris", hypothesis="no", max_length=5)


def test_a_marked_field_with_white_space_in_front_is_cut_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """` in` is one token here, `in` are two: the text loses no token when it is cut by one."""
    vocabulary = {"<unk>": 0, "Ġ": 1, "i": 2, "n": 3, ".": 4, "Ġi": 5, "Ġin": 6}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges=[("Ġ", "i"), ("Ġi", "n")], unk_token="<unk>")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    codec = PieceTokenizer(PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>"))
    calls = []
    cut = codec.truncate

    def counted(text: str, tokens: int) -> str:
        calls.append(text)
        assert len(calls) < 20, f"build_row does not end: {text!r} is never cut to {tokens} tokens"
        return cut(text, tokens)

    monkeypatch.setattr(codec, "truncate", counted)
    template = parse_template("{premise:shorten} . {mask}", FIELDS)

    row = build_row(template, {"premise": " in"}, codec, masked=False, max_length=3)

    assert len(row.token_ids) <= 3


def test_an_answer_without_a_token_is_refused(tiny_folders: dict[str, Path]) -> None:
    codec = load_model(tiny_folders["bert"], device="cpu").codec
    codec.tokenizer.backend_tokenizer.normalizer = normalizers.BertNormalizer(lowercase=False)
    template = parse_template("{premise} {mask}.", ["premise"])
    with pytest.raises(TemplateError, match=r"the answer '\\u200b' has no token of this model"):
        build_row(template, {"premise": "a"}, codec, masked=True, max_length=64, answer="\u200b")


# Words to start from


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("source", "spelled"),
    [
        # paper-v2: the words behind the subject are nearest to all three places.
        (
            "[P*3] {subject} is located in [P*3] {mask} [P*3] .",
            "_is _located _in _is _located _in _is _located _in",
        ),
        ("{subject} is located in [P*5] {mask} .", "_is _located _in _is _located"),
        ("{subject} is [P] located in [P] {mask}", "_located _located"),  # what follows first
        (
            "Answer {subject} [P*2] {mask} Question",
            "_Question _Question",
        ),  # of equals, what follows
        ("[P*4] {mask}", None),
        ("[P*4] {subject} . {mask} ,", None),
    ],
)
def test_the_nearest_words_of_a_template_are_those_beside_its_prompt_tokens(
    tiny_models: dict[str, PromptedModel], family: str, source: str, spelled: str | None
) -> None:
    codec = tiny_models[family].codec
    template = parse_template(source, FIELDS)
    if spelled is None:
        with pytest.raises(TemplateError, match=r"no words for prompt\.start: manual; write some"):
            nearest_words(template, codec)
        return
    assert nearest_words(template, codec) == ids(family, codec, spelled)


def test_a_template_without_prompt_tokens_needs_no_words(
    tiny_models: dict[str, PromptedModel],
) -> None:
    assert (
        nearest_words(parse_template("{subject} {mask}", FIELDS), tiny_models["bert"].codec) == []
    )


def test_special_tokens_of_a_template_are_no_words(tiny_models: dict[str, PromptedModel]) -> None:
    codec = tiny_models["bert"].codec
    template = parse_template("{subject} [SEP] is [P*3] {mask}", FIELDS)
    assert nearest_words(template, codec) == ids("bert", codec, "_is") * 3
