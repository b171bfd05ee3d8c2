import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import TemplateError
from pipeline.prompts.template import Field, Mask, PromptTokens, Template, Text, parse_template

FIELDS = ("subject", "premise")

# There is no way to write a literal [P, so text does not hold it.
texts = st.text("ab P*3:[]{}.\n", min_size=1).filter(lambda text: "[P" not in text).map(Text)
slots = st.one_of(
    st.builds(Field, st.sampled_from(FIELDS), st.booleans()),
    st.builds(PromptTokens, st.integers(1, 30)),
)


@st.composite
def templates(draw: st.DrawFn) -> tuple[Text | Field | PromptTokens | Mask, ...]:
    """Return the parts of a good template: one mask, and no text beside a text."""
    drawn = draw(st.lists(texts | slots, max_size=8))
    drawn.insert(draw(st.integers(0, len(drawn))), Mask())
    return tuple(
        part
        for before, part in zip([None, *drawn], drawn, strict=False)
        if not (isinstance(before, Text) and isinstance(part, Text))
    )


def _write(part: Text | Field | PromptTokens | Mask) -> str:
    match part:
        case Text(text):
            return text.replace("{", "{{").replace("}", "}}")
        case Field(name, shorten):
            return f"{{{name}:shorten}}" if shorten else f"{{{name}}}"
        case PromptTokens(count):
            return "[P]" if count == 1 else f"[P*{count}]"
        case Mask():
            return "{mask}"


@settings(deadline=None, max_examples=150)
@given(parts=templates())
def test_what_is_written_is_what_is_parsed(parts):
    source = "".join(map(_write, parts))
    assert parse_template(source, FIELDS) == Template(source, parts)


def _refusal(source: str) -> str | None:
    try:
        parse_template(source, FIELDS)
    except TemplateError as error:
        return str(error)
    return None


@settings(deadline=None, max_examples=200)
@given(source=st.text("{}[]P*:3 mask subject shorten"))
def test_any_text_is_parsed_or_refused_with_its_own_words(source):
    refusal = _refusal(source)
    assert refusal is None or repr(source) in refusal


@pytest.mark.parametrize(
    ("source", "parts"),
    [
        (
            "{subject} is located in [P*3] {mask} .",
            (Field("subject", False), Text(" is located in "), PromptTokens(3), Text(" "), Mask(),
             Text(" .")),
        ),
        (
            "{premise:shorten} Answer: {mask}",
            (Field("premise", True), Text(" Answer: "), Mask()),
        ),
        ("[P]{mask}[P*2]", (PromptTokens(1), Mask(), PromptTokens(2))),
        ("{{{subject}}} {mask}", (Text("{"), Field("subject", False), Text("} "), Mask())),
        ("{{mask}} {mask}", (Text("{mask} "), Mask())),
        ("[Paris] [p] [ P ] {mask}", (Text("[Paris] [p] [ P ] "), Mask())),
        ("{mask}", (Mask(),)),
    ],
)  # fmt: skip
def test_templates_parsed_by_hand(source, parts):
    template = parse_template(source, FIELDS)
    assert template.parts == parts
    assert template.source == source


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("", "0 masks"),
        ("{subject}", "0 masks"),
        ("{mask} {mask}", "2 masks"),
        ("{{mask}}", "0 masks"),
        ("{city} {mask}", "unknown field {city}; this task has {subject}, {premise}"),
        ("{Subject} {mask}", "unknown field {Subject}"),
        ("{subject:cut} {mask}", "'{' at character 1"),
        ("{mask:shorten}", "unknown field {mask:shorten}"),
        ("{subject {mask}", "'{' at character 1"),
        ("subject} {mask}", "'}' at character 8"),
        ("{ subject } {mask}", "'{' at character 1"),
        ("{subject.__class__} {mask}", "'{' at character 1"),
        ("{0} {mask}", "'{' at character 1"),
        ("{} {mask}", "'{' at character 1"),
        ("a [P*0] {mask}", "[P*0] has no prompt tokens"),
        ("a [P*] {mask}", "'[P' at character 3"),
        ("a [P*x] {mask}", "'[P' at character 3"),
        ("a [P*3 {mask}", "'[P' at character 3"),
        ("a [P*-1] {mask}", "'[P' at character 3"),
    ],
)
def test_a_template_that_cannot_be_is_refused_with_the_place(source, said):
    with pytest.raises(TemplateError) as caught:
        parse_template(source, FIELDS)
    assert said in str(caught.value)
    assert repr(source) in str(caught.value)


@settings(deadline=None)
@given(parts=templates())
def test_prompt_tokens_are_counted(parts):
    template = parse_template("".join(map(_write, parts)), FIELDS)
    count = 0
    for part in parts:
        if isinstance(part, PromptTokens):
            count += part.count
    assert template.prompt_tokens == count


@pytest.mark.parametrize(
    ("source", "apart"),
    [
        ("{subject} is in {mask}", True),
        ("{subject} is in\n{mask}", False),
        ("[P*3] {mask}", True),
        ("[P*3]{mask}", False),
        ("{subject}{mask}", False),
        ("({mask})", False),
        ("{mask} is the capital of {subject}", False),
    ],
)
def test_the_answer_is_a_new_word_where_a_space_precedes_it(source, apart):
    assert parse_template(source, FIELDS).space_before_mask is apart


@pytest.mark.parametrize("count", ["10001", "99999999", "9" * 5_000])
def test_a_template_has_a_limit_of_prompt_tokens(count):
    with pytest.raises(TemplateError, match="more than 10000 prompt tokens"):
        parse_template(f"[P*{count}] {{subject}} {{mask}}", ["subject"])


@pytest.mark.parametrize("source", ["[X] is in [Y] .", "[X] is in {mask} .", "{subject} is [Y]"])
def test_the_notation_of_lama_is_not_taken_for_text(source):
    with pytest.raises(TemplateError, match=r"write \{subject\} for \[X\], \{mask\} for \[Y\]"):
        parse_template(source, ["subject"])
