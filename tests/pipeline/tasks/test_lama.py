import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.lama import Fact
from pipeline.errors import TemplateError
from pipeline.prompts.template import Field, Mask, PromptTokens, Text
from pipeline.tasks.lama import fact_values, hybrid_template, manual_template, method_template

COUNTS = {"start": 3, "before_mask": 3, "after_mask": 3}

words = st.text("ab .,()", max_size=6)
counts = st.fixed_dictionaries(dict.fromkeys(COUNTS, st.integers(0, 4)))


@st.composite
def manual_texts(draw: st.DrawFn) -> str:
    slots = draw(st.permutations(["{subject}", "{mask}"]))
    return draw(words) + slots[0] + draw(words) + slots[1] + draw(words)


def test_a_fact_has_its_subject_as_field():
    assert fact_values(Fact("P17", "Lyon", "France")) == {"subject": "Lyon"}


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


@pytest.mark.parametrize(
    ("text", "counts", "hybrid"),
    [
        (
            "[X] is located in [Y] .",
            (3, 3, 3),
            "[P*3] {subject} is located in [P*3] {mask} [P*3] .",
        ),
        (
            "The capital of [X] is [Y] .",
            (2, 1, 0),
            "[P*2] The capital of {subject} is [P*1] {mask} .",
        ),
        ("[Y] is home of [X]", (0, 2, 1), "[P*2] {mask} [P*1] is home of {subject}"),
        ("[X] is in [Y]", (1, 0, 0), "[P*1] {subject} is in {mask}"),
        ("[X] is in [Y]", (0, 0, 1), "{subject} is in {mask} [P*1]"),
    ],
)
def test_hybrid_templates_worked_out_by_hand(text, counts, hybrid):
    counts = dict(zip(COUNTS, counts, strict=True))
    assert hybrid_template(manual_template(text), **counts).source == hybrid


@settings(deadline=None)
@given(text=manual_texts(), counts=counts)
def test_a_hybrid_keeps_the_words_of_its_manual_template_in_their_order(text, counts):
    hybrid = hybrid_template(manual_template(text), **counts)
    without = re.sub(r"\[P\*\d+\]", "", hybrid.source)
    assert "".join(without.split()) == "".join(text.split())


@settings(deadline=None)
@given(text=manual_texts(), counts=counts)
def test_prompt_tokens_stand_at_the_start_and_on_both_sides_of_the_mask(text, counts):
    hybrid = hybrid_template(manual_template(text), **counts)
    parts = [p for p in hybrid.parts if not isinstance(p, Text) or p.text.strip()]
    mask = parts.index(Mask())
    tokens = {place: p.count for place, p in enumerate(parts) if isinstance(p, PromptTokens)}
    places = [
        place
        for place, count in (
            (0, counts["start"]),
            (mask - 1, counts["before_mask"]),
            (mask + 1, counts["after_mask"]),
        )
        if count
    ]
    assert [tokens.pop(place) for place in dict.fromkeys(places)] == [
        counts[place] for place in COUNTS if counts[place]
    ]
    assert not tokens
    assert hybrid.prompt_tokens == sum(counts.values())


def test_a_brace_in_a_manual_template_stays_a_brace_in_its_hybrid():
    manual = manual_template("{{mask}} of {subject}: {mask}")
    hybrid = hybrid_template(manual, **COUNTS)
    assert "".join(p.text for p in hybrid.parts if isinstance(p, Text)).split() == [
        "{mask}", "of", ":",
    ]  # fmt: skip
    assert hybrid.prompt_tokens == 9


def test_manual_uses_the_template_as_it_is_and_p_tuning_the_hybrid():
    manual = manual_template("[X] is located in [Y] .")
    assert method_template("manual", manual, **COUNTS) == manual
    assert method_template("p-tuning", manual, **COUNTS) == hybrid_template(manual, **COUNTS)


def test_p_tuning_needs_a_prompt_token_somewhere():
    manual = manual_template("[X] is located in [Y] .")
    with pytest.raises(TemplateError, match="p-tuning: no prompt tokens; raise a number"):
        method_template("p-tuning", manual, start=0, before_mask=0, after_mask=0)
    assert method_template("p-tuning", manual, start=0, before_mask=1, after_mask=0).prompt_tokens
