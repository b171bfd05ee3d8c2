import copy

import pytest

from pipeline.errors import ModelError
from pipeline.models.encoding import build_row
from pipeline.models.language_model import PromptedModel
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.prompts.template import parse_template
from tests.tiny import FAMILIES, MASKED
from tests.worked import PREFIX, SUFFIX, ids


@pytest.fixture(params=FAMILIES)
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def codec(tiny_models: dict[str, PromptedModel], family: str) -> PieceTokenizer:
    return tiny_models[family].codec


def test_special_tokens_are_split_into_prefix_and_suffix(
    codec: PieceTokenizer, family: str
) -> None:
    assert codec.tokenizer.convert_ids_to_tokens(codec.prefix) == PREFIX[family].split()
    assert codec.tokenizer.convert_ids_to_tokens(codec.suffix) == SUFFIX[family].split()


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        ("Paris is in France", "^Paris _is _in _France"),
        ("Paris, in the city.", "^Paris , _in _the _city ."),
    ],
)
def test_a_segment_at_the_start_begins_a_line(
    codec: PieceTokenizer, family: str, text: str, spelled: str
) -> None:
    assert codec.encode_segment(text, start=True) == ids(family, codec, spelled)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        (" Paris is", {"gpt2": "ĠParis Ġis", "roberta": "ĠParis Ġis", "llama": "▁▁Paris ▁is"}),
        (
            "\nParis is",
            {"gpt2": "Ċ Paris Ġis", "roberta": "Ċ Paris Ġis", "llama": "▁ \n Paris ▁is"},
        ),
    ],
)
def test_white_space_at_the_start_is_kept_where_the_tokenizer_has_it(
    codec: PieceTokenizer, family: str, text: str, kept: dict[str, str]
) -> None:
    """Not WordPiece, nor ALBERT's normalizer."""
    other = {"bert": "Paris is", "albert": "▁paris ▁is"}
    template = parse_template(text.replace("Paris", "{subject}") + " {mask}", ["subject"])
    row = build_row(template, {"subject": "Paris"}, codec, masked=family in MASKED, max_length=20)
    expected = (other | kept)[family].split(" ")
    tokens = codec.tokenizer.convert_ids_to_tokens(list(row.token_ids))[len(codec.prefix) :]
    assert tokens[: len(expected)] == expected


@pytest.mark.parametrize(
    ("text", "spelled"),
    [
        (" is in France", "_is _in _France"),
        (" .", "_ ."),
        (".", "."),
        ("? Answer:", "? _Answer :"),
        (" Question: Paris?", "_Question : _Paris ?"),
        (", France,", ", _France ,"),
        ("(Paris)", "( {bare} )"),
        ("Paris is", "{glued} _is"),
    ],
)
def test_a_segment_in_the_middle_continues_the_line(
    codec: PieceTokenizer, family: str, text: str, spelled: str
) -> None:
    # Unigram has no token for a word inside a word; a new word is the next best.
    bare, glued = ("p a r i s", "_Paris") if family == "albert" else ("Paris", "Paris")
    spelled = spelled.format(bare=bare, glued=glued)
    assert codec.encode_segment(text, start=False) == ids(family, codec, spelled)


def test_the_separator_is_that_of_a_masked_model_and_nothing_for_a_causal_one(
    codec: PieceTokenizer,
) -> None:
    parts = list(codec.split_special("Paris[SEP] is"))
    if codec.mask_id is None:
        assert parts == ["Paris is"]
    else:
        assert parts == ["Paris", codec.tokenizer.sep_token_id, " is"]


@pytest.mark.parametrize("start", [True, False])
def test_special_tokens_in_a_text_are_plain_text(codec: PieceTokenizer, start: bool) -> None:
    for token in codec.tokenizer.all_special_tokens:
        special = set(codec.tokenizer.all_special_ids) - {codec.tokenizer.unk_token_id}
        found = codec.encode_segment(f" Paris {token} is", start=start)
        assert not special & set(found)
        assert found[0] in codec.encode_segment(" Paris", start=start)
        assert found[-1:] == codec.encode_segment(" is", start=False)
        assert len(found) > len(codec.encode_segment(" Paris is", start=start))


def test_special_tokens_of_a_template_are_its_tokens(codec: PieceTokenizer) -> None:
    token, number = codec.tokenizer.all_special_tokens[0], codec.tokenizer.all_special_ids[0]
    assert list(codec.split_special("Paris is")) == ["Paris is"]
    assert list(codec.split_special(f"Paris {token} is")) == ["Paris ", number, " is"]


@pytest.mark.parametrize("start", [True, False])
@pytest.mark.parametrize("text", ["", "  "])
def test_spaces_alone_are_no_token(codec: PieceTokenizer, text: str, start: bool) -> None:
    assert codec.encode_segment(text, start=start) == []


def test_a_line_break_is_what_the_tokenizer_makes_of_it(codec: PieceTokenizer) -> None:
    whole = codec.tokenizer("Paris is\n", add_special_tokens=False)["input_ids"]
    assert codec.encode_segment("Paris is\n", start=True) == whole
    start, *_ = codec.encode_segment("Paris", start=True)
    assert [start, *codec.encode_segment(" is\n", start=False)] == whole


def test_spaces_at_the_end_are_left_out(codec: PieceTokenizer, family: str) -> None:
    assert codec.encode_segment(" is in  ", start=False) == ids(family, codec, "_is _in")


@pytest.mark.parametrize(
    "sentence",
    ["Paris is the capital of France, (no?) yes.", "Question: is Oslo's border a zebra?"],
)
def test_segments_between_words_join_to_the_tokens_of_the_sentence(
    codec: PieceTokenizer, sentence: str
) -> None:
    whole = codec.tokenizer(sentence, add_special_tokens=False)["input_ids"]
    for place, letter in enumerate(sentence):
        if letter == " ":
            head = codec.encode_segment(sentence[:place], start=True)
            assert head + codec.encode_segment(sentence[place:], start=False) == whole


@pytest.mark.parametrize("word", ["France", "yes", "capital"])
def test_a_known_word_is_its_token_behind_a_space(
    codec: PieceTokenizer, family: str, word: str
) -> None:
    assert [codec.single_token_id(word, space_before=True)] == ids(family, codec, f"_{word}")
    assert codec.count_tokens(word, space_before=True) == 1


@pytest.mark.parametrize("family", ["roberta", "gpt2", "llama"], indirect=True)
def test_a_word_without_a_space_is_another_token(codec: PieceTokenizer) -> None:
    bare = codec.single_token_id("France", space_before=False)
    assert bare == codec.tokenizer.get_vocab()["France"]
    assert bare != codec.single_token_id("France", space_before=True)


def test_a_word_of_several_tokens_has_no_id(codec: PieceTokenizer, family: str) -> None:
    # Five letters; all but WordPiece have a token for the space in front of them.
    assert codec.single_token_id("zebra", space_before=True) is None
    assert codec.count_tokens("zebra", space_before=True) == (5 if family == "bert" else 6)


@pytest.mark.parametrize("family", ["bert"], indirect=True)
def test_an_unknown_word_has_no_id_though_it_is_one_token(codec: PieceTokenizer) -> None:
    assert codec.count_tokens("東", space_before=True) == 1
    assert codec.single_token_id("東", space_before=True) is None


def test_a_word_of_the_vocabulary_is_not_taken_for_the_unknown_one(codec: PieceTokenizer) -> None:
    assert codec.single_token_id("a", space_before=True) is not None


@pytest.mark.parametrize(
    ("tokens", "kept"),
    [(0, ""), (1, "Paris"), (2, "Paris,"), (3, "Paris, is"), (4, "Paris, is in"), (9, None)],
)
def test_a_cut_text_is_the_beginning_of_so_many_tokens(
    codec: PieceTokenizer, tokens: int, kept: str | None
) -> None:
    assert codec.truncate("Paris, is in", tokens) == ("Paris, is in" if kept is None else kept)


def test_a_cut_text_never_has_more_tokens_than_asked(codec: PieceTokenizer) -> None:
    text = "Paris is 東京 and zebra's, (a) Oslo-Lyon."
    for tokens in range(len(codec.encode_segment(text, start=True))):
        cut = codec.truncate(text, tokens)
        assert text.startswith(cut)
        assert len(codec.encode_segment(cut, start=True)) <= tokens


def test_a_tokenizer_without_a_padding_token_fills_with_0(
    tiny_models: dict[str, PromptedModel],
) -> None:
    assert tiny_models["gpt2"].codec.tokenizer.pad_token_id is None
    assert tiny_models["gpt2"].codec.pad_id == 0
    assert (
        tiny_models["roberta"].codec.pad_id == tiny_models["roberta"].codec.tokenizer.pad_token_id
    )


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (None, {"gpt2": "", "llama": "<s>"}),
        ("none", {"gpt2": "", "llama": ""}),
        # What the tokenizer puts there, else a newline.
        ("auto", {"gpt2": "\u010a", "llama": "<s>"}),
        ("Question :", {"gpt2": "Question \u0120:", "llama": "\u2581Question \u2581:"}),
    ],
)
@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_what_precedes_every_row(
    tiny_models: dict[str, PromptedModel],
    family: str,
    start: str | None,
    expected: dict[str, str],
) -> None:
    tokenizer = tiny_models[family].codec.tokenizer
    codec = PieceTokenizer(tokenizer, start=start)
    found = tokenizer.convert_ids_to_tokens(codec.prefix)
    assert "".join(found) == expected[family].replace(" ", "")


def test_the_first_token_of_a_tokenizer_that_has_one_precedes_every_row(
    tiny_models: dict[str, PromptedModel],
) -> None:
    tokenizer = copy.deepcopy(tiny_models["gpt2"].codec.tokenizer)
    tokenizer.bos_token = None
    with pytest.raises(ModelError, match="bos: the tokenizer of this model has no"):
        PieceTokenizer(tokenizer, start="bos")
    tokenizer.bos_token = "<|end|>"
    codec = PieceTokenizer(tokenizer, start="bos")
    assert tokenizer.convert_ids_to_tokens(codec.prefix) == ["<|end|>"]
