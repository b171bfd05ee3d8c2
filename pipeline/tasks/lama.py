"""LAMA as a task: its fields, its manual templates, and the layouts that methods make from them."""

import re
from collections.abc import Iterable, Sequence

from pipeline.data.lama import Fact
from pipeline.errors import TemplateError
from pipeline.prompts.template import Field, Mask, Template, parse_template
from pipeline.tasks.base import Example, InputField, InputSchema, Task

FIELDS = ("subject",)

SCHEMA = InputSchema(
    description="Which object completes a fact?",
    fields=(
        InputField("relation", "A relation that was trained.", "P17"),
        InputField("subject", "The subject of the fact.", "Lyon"),
    ),
    record=dict,
)

# The manual template's text before and after the mask, placed by a layout.
_SIDES = ("before", "after")

# Name -> layout for masked models, and for causal ones (which do not see text after the mask).
LAYOUTS: dict[str, tuple[str, str]] = {
    "manual": ("{before}{mask}{after}",) * 2,
    # P-tuning v2: (3, sub, original prompt, 3, obj, 3). The manual template keeps its words and
    # their order; the first prompt tokens come first, so that they split no sentence. A causal
    # model does not read the last three, which only take part in the encoder; the paper has none
    # there: "[P*3] {before}[P*3] {mask}{after}".
    "paper-v2": ("[P*3] {before}[P*3] {mask} [P*3]{after}",) * 2,
    # P-tuning v1: (3, sub, 3, obj, 3), without the words of the manual template.
    "paper-v1": ("[P*3] {subject} [P*3] {mask} [P*3]",) * 2,
    # THUDM/P-tuning, LAMA/p_tuning/modeling.py: the mask precedes the subject, which the author
    # calls a leftover (issue 40).
    "released-code": (
        "[P*3] {mask} [P*3] {subject} [P*3]",
        "[P*3] {subject} [P*3] {mask}",
    ),
}


def lama_task(relation: str, vocabulary: Sequence[str], objects: Sequence[str] = ()) -> Task:
    """Return a relation as a task whose answer is a word of a vocabulary, or one of its objects.

    Args:
        relation: its id.
        vocabulary: the words that may be answered.
        objects: with `lama.objects: all`, the objects of the relation, of one or more tokens, which
            compete in place of the vocabulary: the "typed querying" of Kassner et al.
            (arXiv:2102.00894, section 3).
    """
    return Task(
        name=relation,
        fields=FIELDS,
        labels=(),
        metrics=("p_at_1",),
        examples=lambda record: iter([subject_example(record["sub_label"], record["obj_label"])]),
        group=lambda record: record["sub_label"],
        patterns={},
        schema=SCHEMA,
        vocabulary=tuple(vocabulary),
        objects=tuple(objects),
        naive_bayes=True,
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
            f"template {text!r}: a manual template has no prompt tokens; lama.prompts adds them"
        )
    return template


def check_layout(layout: str) -> int:
    """Check a layout without a manual template or a model; return its number of prompt tokens.

    Raises:
        TemplateError: neither a name in `LAYOUTS` nor valid in the template language.
    """
    if layout in LAYOUTS:
        layout = LAYOUTS[layout][0]
    elif not re.search(r"[\[{]", layout):
        names = ", ".join(LAYOUTS)
        raise TemplateError(f"unknown layout {layout!r}; available: {names}; or write a template")
    template = parse_template(layout, (*FIELDS, *_SIDES))
    _check_subject(template)
    for part in template.parts:
        if isinstance(part, Field) and part.name in _SIDES and part.shorten:
            raise TemplateError(
                f"template {layout!r}: {{{part.name}:shorten}} is not a field; write "
                f"{{{part.name}}}, and {{subject:shorten}} in the manual template"
            )
    return template.prompt_tokens


def apply_layout(layout: str, manual: Template, *, masked: bool) -> Template:
    """Build a template from a layout and a manual template.

    Args:
        layout: a name in `LAYOUTS`, or text in the template language, in which `{before}` and
            `{after}` are the manual template's text before and after its mask.
        manual: returned by `manual_template`.
        masked: whether the model is masked.

    Raises:
        TemplateError: the layout is unknown or has no subject; or the model is causal and the
            subject follows the mask, where the model does not see it.
    """
    check_layout(layout)
    text = LAYOUTS[layout][0 if masked else 1] if layout in LAYOUTS else layout
    # Escaped braces are not part of a mask.
    pieces = re.split(r"(\{\{|\}\}|\{mask\})", manual.source)
    at = pieces.index("{mask}")
    sides = {"{before}": "".join(pieces[:at]), "{after}": "".join(pieces[at + 1 :])}
    filled = "".join(sides.get(p, p) for p in re.split(r"(\{\{|\}\}|\{before\}|\{after\})", text))
    template = parse_template(filled.strip(), FIELDS)
    _check_subject(template)
    if not masked and template.parts.index(Mask()) < _subject_index(template):
        raise TemplateError(
            f"template {filled!r}: the subject follows {{mask}}, where a causal model does not "
            "see it; use another template or a masked model"
        )
    return template


def subject_precedes_mask(manual: Template) -> bool:
    """Whether the subject precedes the mask, so that a causal model sees it."""
    return _subject_index(manual) < manual.parts.index(Mask())


def _check_subject(template: Template) -> None:
    if not any(isinstance(part, Field) for part in template.parts):
        raise TemplateError(
            f"template {template.source!r}: no subject; write {{subject}} in its place"
        )


def _subject_index(template: Template) -> int:
    return next(i for i, part in enumerate(template.parts) if isinstance(part, Field))
