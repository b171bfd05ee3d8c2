"""LAMA as a task: its fields, its manual templates, and the layouts that methods make from them."""

import re
from collections.abc import Iterable, Sequence

from pipeline.data.lama import Fact
from pipeline.errors import TemplateError
from pipeline.prompts.template import Field, Mask, Template, parse_template
from pipeline.tasks.base import Example, Task

FIELDS = ("subject",)

# Positions of a row; seldom more.
POSITIONS = 64

# The manual template's text on the two sides of the mask, for a layout to place.
_SIDES = ("before", "after")

# Layouts by name: for masked models, for causal ones (which never see what stands behind the mask).
LAYOUTS: dict[str, tuple[str, str]] = {
    "manual": ("{before}{mask}{after}",) * 2,
    # P-tuning v2: (3, sub, original prompt, 3, obj, 3). The manual template keeps its words and
    # their order; the first prompt tokens stand in front, so that they split no sentence.
    "paper-v2": ("[P*3] {before}[P*3] {mask} [P*3]{after}",) * 2,
    # P-tuning v1: (3, sub, 3, obj, 3), without the words of the manual template.
    "paper-v1": ("[P*3] {subject} [P*3] {mask} [P*3]",) * 2,
    # THUDM/P-tuning, LAMA/p_tuning/modeling.py: the mask stands before the subject, which the
    # author calls a leftover (issue 40).
    "released-code": (
        "[P*3] {mask} [P*3] {subject} [P*3]",
        "[P*3] {subject} [P*3] {mask}",
    ),
}


def lama_task(relation: str, vocabulary: Sequence[str]) -> Task:
    """Return a relation as a task with an open vocabulary: the answer is one of its words."""
    return Task(
        name=relation,
        fields=FIELDS,
        labels=(),
        metrics=("p_at_1",),
        examples=lambda record: iter([subject_example(record["sub_label"], record["obj_label"])]),
        group=lambda record: record["sub_label"],
        patterns={},
        vocabulary=tuple(vocabulary),
    )


def fact_examples(facts: Iterable[Fact]) -> list[Example]:
    """Return facts as examples; the object is the label."""
    return [subject_example(fact.sub_label, fact.obj_label) for fact in facts]


def subject_example(subject: str, label: str = "") -> Example:
    """Return a subject, and its object where it is known, as an example."""
    return Example(name=subject, values={"subject": subject}, label=label)


def manual_template(text: str) -> Template:
    """Parse a manual template, in LAMA's form ([X], [Y]) or in the template language.

    Raises:
        TemplateError: it lacks the subject or the mask, or has prompt tokens.
    """
    template = parse_template(text.replace("[X]", "{subject}").replace("[Y]", "{mask}"), FIELDS)
    _check_subject(template)
    if template.prompt_tokens:
        raise TemplateError(
            f"template {text!r}: a manual template has no prompt tokens; lama.prompts puts them in"
        )
    return template


def check_layout(layout: str) -> int:
    """Check a layout without a manual template and a model; return its number of prompt tokens.

    Raises:
        TemplateError: it is neither a name of `LAYOUTS` nor in the template language.
    """
    if layout in LAYOUTS:
        layout = LAYOUTS[layout][0]
    elif not re.search(r"[\[{]", layout):
        names = ", ".join(LAYOUTS)
        raise TemplateError(f"{layout!r} is no layout; choose from {names}, or write a template")
    template = parse_template(layout, (*FIELDS, *_SIDES))
    _check_subject(template)
    for part in template.parts:
        if isinstance(part, Field) and part.name in _SIDES and part.shorten:
            raise TemplateError(
                f"template {layout!r}: {{{part.name}:shorten}} is no field; write {{{part.name}}}, "
                "and {subject:shorten} in the manual template"
            )
    return template.prompt_tokens


def apply_layout(layout: str, manual: Template, *, masked: bool) -> Template:
    """Return the template that a layout makes from a manual template.

    Args:
        layout: a name of `LAYOUTS`, or text in the template language, in which `{before}` and
            `{after}` are the manual template's two sides of its mask.
        manual: a template of `manual_template`.
        masked: whether it is for a masked model.

    Raises:
        TemplateError: the layout is unknown or has no subject; or it is for a causal model, and
            the subject stands behind the mask, where the model never sees it.
    """
    check_layout(layout)
    text = LAYOUTS[layout][0 if masked else 1] if layout in LAYOUTS else layout
    # Braces that stand for themselves are not the mask's.
    pieces = re.split(r"(\{\{|\}\}|\{mask\})", manual.source)
    at = pieces.index("{mask}")
    sides = {"{before}": "".join(pieces[:at]), "{after}": "".join(pieces[at + 1 :])}
    filled = "".join(sides.get(p, p) for p in re.split(r"(\{\{|\}\}|\{before\}|\{after\})", text))
    template = parse_template(filled.strip(), FIELDS)
    _check_subject(template)
    if not masked and template.parts.index(Mask()) < _subject_place(template):
        raise TemplateError(
            f"template {filled!r}: the subject stands behind {{mask}}, where a causal model never "
            "sees it; take another template or a masked model"
        )
    return template


def subject_precedes_mask(manual: Template) -> bool:
    """Return whether the subject stands before the mask, so that a causal model can be asked."""
    return _subject_place(manual) < manual.parts.index(Mask())


def _check_subject(template: Template) -> None:
    if not any(isinstance(part, Field) for part in template.parts):
        raise TemplateError(
            f"template {template.source!r}: no subject; write {{subject}} where it stands"
        )


def _subject_place(template: Template) -> int:
    return next(i for i, part in enumerate(template.parts) if isinstance(part, Field))
