import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.lama import Fact
from pipeline.errors import TemplateError
from pipeline.prompts.template import Field, Mask, Part, PromptTokens, Template, Text
from pipeline.tasks.lama import (
    LAYOUTS,
    apply_layout,
    check_layout,
    fact_examples,
    manual_template,
    subject_precedes_mask,
)

SUBJECT = Field("subject", False)
LOCATED = "[X] is located in [Y] ."
HOME = "[Y] is home of [X]"

words = st.text("ab .,()", max_size=6)
# Literal braces, some of which look like slots.
braces = st.sampled_from(["", "{{mask}}", "{{before}}", "{{", "}}", "{{{{subject}}}}"])


@st.composite
def manual_texts(draw: st.DrawFn, *, subject_first: bool | None = None) -> str:
    """Write a manual template, with the subject in front of the mask, behind it, or either."""
    slots = ["{subject}", "{mask}"]
    if subject_first is None:
        subject_first = draw(st.booleans())
    if not subject_first:
        slots.reverse()
    texts = [draw(words) + draw(braces) + draw(words) for _ in range(3)]
    return texts[0] + slots[0] + texts[1] + slots[1] + texts[2]


def shown(part: Part) -> str:
    """Write a part with marks that no text of `manual_texts` has."""
    match part:
        case Text():
            return part.text
        case PromptTokens():
            return "P" * part.count
        case Mask():
            return "M"
        case Field():
            return "S"


def read_aloud(template: Template) -> str:
    """Return what a template says, without white space."""
    return "".join("".join(map(shown, template.parts)).split())


def sides(manual: Template) -> tuple[str, str]:
    before, after = read_aloud(manual).split("M")
    return before, after


def test_a_fact_is_an_example_with_its_subject_as_field_and_its_object_as_label():
    (example,) = fact_examples([Fact("P17", "Lyon", "France")])
    assert (example.values, example.label) == ({"subject": "Lyon"}, "France")


@pytest.mark.parametrize(
    "text",
    [
        "[X] is located in [Y] .",
        "{subject} is located in {mask} .",
        "[X] is located in {mask} .",
    ],
)
def test_both_forms_of_a_manual_template_are_one(text):
    assert manual_template(text).parts == (
        Field("subject", False),
        Text(" is located in "),
        Mask(),
        Text(" ."),
    )


def test_a_subject_may_be_cut_to_fit():
    template = manual_template("{subject:shorten} is located in {mask} .")
    assert template.parts[0] == Field("subject", True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[X] is located .", "0 masks"),
        ("It is located in [Y] .", "no subject; write {subject}"),
        ("{{subject}} is located in {mask} .", "no subject; write {subject}"),
        ("[P*3] [X] is located in [Y] .", "a manual template has no prompt tokens"),
        ("[X] [Y] [Y]", "2 masks"),
        ("[X] [Z] {city} [Y]", "unknown field {city}"),
    ],
)
def test_a_manual_template_has_subject_and_mask_and_no_prompt_tokens(text, said):
    with pytest.raises(TemplateError) as caught:
        manual_template(text)
    assert said in str(caught.value)


# What each layout makes of a manual template, for masked and for causal models.
BY_HAND = [
    ("manual", "{subject} is located in {mask} .", "{subject} is located in {mask} ."),
    (
        "paper-v2",
        "[P*3] {subject} is located in [P*3] {mask} [P*3] .",
        "[P*3] {subject} is located in [P*3] {mask} [P*3] .",
    ),
    (
        "paper-v1",
        "[P*3] {subject} [P*3] {mask} [P*3]",
        "[P*3] {subject} [P*3] {mask} [P*3]",
    ),
    (
        "released-code",
        "[P*3] {mask} [P*3] {subject} [P*3]",
        "[P*3] {subject} [P*3] {mask}",
    ),
    # Written out by a user.
    ("{subject} {mask}", "{subject} {mask}", "{subject} {mask}"),
    ("[P*9] {subject} {mask}", "[P*9] {subject} {mask}", "[P*9] {subject} {mask}"),
    (
        "[P*2] {before}[P] {mask}{after}",
        "[P*2] {subject} is located in [P] {mask} .",
        "[P*2] {subject} is located in [P] {mask} .",
    ),
    (
        "In short: {before}{mask}",
        "In short: {subject} is located in {mask}",
        "In short: {subject} is located in {mask}",
    ),
    (
        "{subject}? [P]{after} {mask}",
        "{subject}? [P] . {mask}",
        "{subject}? [P] . {mask}",
    ),
]


@pytest.mark.parametrize(("layout", "masked", "causal"), BY_HAND, ids=[b[0] for b in BY_HAND])
def test_layouts_worked_out_by_hand(layout, masked, causal):
    manual = manual_template(LOCATED)
    assert apply_layout(layout, manual, masked=True).source == masked
    assert apply_layout(layout, manual, masked=False).source == causal


@pytest.mark.parametrize(
    ("layout", "masked"),
    [
        ("manual", "{mask} is home of {subject}"),
        ("paper-v2", "[P*3] [P*3] {mask} [P*3] is home of {subject}"),
        ("paper-v1", "[P*3] {subject} [P*3] {mask} [P*3]"),
        ("released-code", "[P*3] {mask} [P*3] {subject} [P*3]"),
        ("{after}: {mask}", "is home of {subject}: {mask}"),
    ],
)
def test_layouts_of_a_template_with_the_mask_first_worked_out_by_hand(layout, masked):
    assert apply_layout(layout, manual_template(HOME), masked=True).source == masked


def test_every_name_is_worked_out_by_hand():
    assert set(LAYOUTS) <= {layout for layout, _, _ in BY_HAND}


@settings(deadline=None)
@given(text=manual_texts())
def test_the_manual_layout_says_what_the_manual_template_says(text):
    manual = manual_template(text)
    assert read_aloud(apply_layout("manual", manual, masked=True)) == read_aloud(manual)


def test_the_manual_layout_keeps_every_space():
    manual = manual_template("In  {subject} :{mask}, (that is)")
    assert apply_layout("manual", manual, masked=True) == manual


@settings(deadline=None)
@given(text=manual_texts())
def test_paper_v2_keeps_the_words_in_their_order_around_three_times_three_tokens(text):
    before, after = sides(manual_template(text))
    laid_out = apply_layout("paper-v2", manual_template(text), masked=True)
    assert read_aloud(laid_out) == f"PPP{before}PPPMPPP{after}"
    assert laid_out.prompt_tokens == check_layout("paper-v2") == 9


@settings(deadline=None)
@given(text=manual_texts())
@pytest.mark.parametrize(
    ("layout", "masked", "causal"),
    [("paper-v1", "PPPSPPPMPPP", "PPPSPPPMPPP"), ("released-code", "PPPMPPPSPPP", "PPPSPPPM")],
)
def test_two_layouts_have_no_word_of_the_manual_template(text, layout, masked, causal):
    manual = manual_template(text)
    assert read_aloud(apply_layout(layout, manual, masked=True)) == masked
    assert read_aloud(apply_layout(layout, manual, masked=False)) == causal


@settings(deadline=None)
@given(text=manual_texts(), counts=st.tuples(*[st.integers(1, 4)] * 3))
def test_a_layout_of_ones_own_puts_its_tokens_where_it_says(text, counts):
    before, after = sides(manual_template(text))
    layout = "[P*{}] {{before}} [P*{}] {{mask}} [P*{}] {{after}}".format(*counts)
    laid_out = apply_layout(layout, manual_template(text), masked=True)
    first, second, third = ("P" * count for count in counts)
    assert read_aloud(laid_out) == f"{first}{before}{second}M{third}{after}"
    assert laid_out.prompt_tokens == check_layout(layout) == sum(counts)


@settings(deadline=None)
@given(text=manual_texts(subject_first=True), layout=st.sampled_from(["manual", "paper-v2"]))
def test_for_a_causal_model_a_layout_of_a_manual_template_is_the_same(text, layout):
    manual = manual_template(text)
    assert subject_precedes_mask(manual)
    assert apply_layout(layout, manual, masked=False) == apply_layout(layout, manual, masked=True)


@settings(deadline=None)
@given(text=manual_texts(subject_first=False), layout=st.sampled_from(["manual", "paper-v2"]))
def test_a_causal_model_cannot_be_asked_of_a_subject_behind_the_mask(text, layout):
    manual = manual_template(text)
    assert not subject_precedes_mask(manual)
    with pytest.raises(TemplateError, match=r"the subject follows \{mask\}, where a c"):
        apply_layout(layout, manual, masked=False)


@pytest.mark.parametrize("layout", ["paper-v1", "released-code", "{subject}: {mask}"])
def test_layouts_that_place_the_subject_themselves_serve_causal_models_everywhere(layout):
    laid_out = apply_layout(layout, manual_template(HOME), masked=False)
    assert read_aloud(laid_out).index("S") < read_aloud(laid_out).index("M")


def test_the_message_on_a_subject_behind_the_mask_shows_the_template_and_what_to_do():
    with pytest.raises(TemplateError) as caught:
        apply_layout("manual", manual_template(HOME), masked=False)
    assert str(caught.value).startswith("template '{mask} is home of {subject}': the subject")
    assert "use another template or a masked model" in str(caught.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_braces_of_a_manual_template_stay_braces(layout):
    manual = manual_template("{{mask}} {{before}} of {subject}: {mask} {{after}} }}{{")
    said = read_aloud(apply_layout(layout, manual, masked=True))
    if layout in ("manual", "paper-v2"):
        assert said.replace("P", "") == "{mask}{before}ofS:M{after}}{"
    else:
        assert set(said) == {"P", "S", "M"}


def test_braces_of_a_layout_stay_braces():
    laid_out = apply_layout(
        "{{before}} {{mask}} {{{before}}} {mask} {{{{after}}}}",
        manual_template(LOCATED),
        masked=True,
    )
    assert "".join(map(shown, laid_out.parts)) == ("{before} {mask} {S is located in } M {{after}}")


def test_a_layout_may_use_a_side_twice():
    laid_out = apply_layout(
        "{before}{mask}{after} {before}[P]", manual_template(LOCATED), masked=True
    )
    assert laid_out.source == "{subject} is located in {mask} . {subject} is located in [P]"


def test_a_subject_that_may_be_cut_may_be_cut_in_a_layout_too():
    manual = manual_template("{subject:shorten} is located in {mask} .")
    laid_out = apply_layout("paper-v2", manual, masked=True)
    assert Field("subject", True) in laid_out.parts
    assert SUBJECT not in laid_out.parts


@pytest.mark.parametrize("layout", ["paper-v3", "", "manuall", "the capital of"])
def test_an_unknown_name_is_answered_with_the_known_ones(layout):
    for call in (
        check_layout,
        lambda name: apply_layout(name, manual_template(LOCATED), masked=True),
    ):
        with pytest.raises(TemplateError) as caught:
            call(layout)
        assert str(caught.value) == (
            f"unknown layout {layout!r}; available: manual, paper-v2, paper-v1, released-code; "
            "or write a template"
        )


@pytest.mark.parametrize(
    ("layout", "said"),
    [
        ("[P*3] {subject}", "0 masks"),
        ("{before}{mask}{after}{mask}", "2 masks"),
        ("{object} {mask}", "unknown field {object}; this task has {subject}, {before}, {after}"),
        ("[P*0] {subject} {mask}", "[P*0] has no prompt tokens"),
        ("{subject} {mask", "opens or closes nothing"),
    ],
)
def test_a_layout_is_checked_before_there_is_a_manual_template(layout, said):
    with pytest.raises(TemplateError) as caught:
        check_layout(layout)
    assert said in str(caught.value)


@pytest.mark.parametrize("layout", ["[P*3] {mask}", "{{subject}} {mask}", "{after}[P] {mask}"])
@pytest.mark.parametrize("masked", [True, False])
def test_a_layout_without_the_subject_is_refused(layout, masked):
    with pytest.raises(TemplateError, match=r"no subject; write \{subject\} in its place"):
        apply_layout(layout, manual_template(LOCATED), masked=masked)


@pytest.mark.parametrize("layout", ["[P*3] {mask}", "{before:shorten}{mask}{after}"])
def test_what_no_manual_template_can_mend_is_refused_by_the_check_already(layout):
    with pytest.raises(TemplateError):
        apply_layout(layout, manual_template(LOCATED), masked=True)
    with pytest.raises(TemplateError):
        check_layout(layout)


@pytest.mark.parametrize(
    ("layout", "tokens"),
    [
        ("manual", 0),
        ("paper-v2", 9),
        ("paper-v1", 9),
        ("released-code", 9),
        ("{subject} {mask}", 0),
        ("[P] {before}[P*4] {mask}", 5),
    ],
)
def test_the_check_counts_prompt_tokens(layout, tokens):
    assert check_layout(layout) == tokens


def test_a_slot_between_braces_is_still_a_slot():
    manual = manual_template("{{{subject}}} {{{mask}}}")
    assert read_aloud(apply_layout("paper-v2", manual, masked=True)) == "PPP{S}{PPPMPPP}"
