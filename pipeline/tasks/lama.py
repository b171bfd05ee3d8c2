"""LAMA as a task: its fields, its manual templates, and the hybrid template made from them."""

import re

from pipeline.data.lama import Fact
from pipeline.errors import TemplateError
from pipeline.prompts.template import Field, Template, parse_template

FIELDS = ("subject",)


def fact_values(fact: Fact) -> dict[str, str]:
    """Return the fields of a fact that a template may use."""
    return {"subject": fact.sub_label}


def manual_template(text: str) -> Template:
    """Parse a manual template, in LAMA's form ([X], [Y]) or in the template language.

    Raises:
        TemplateError: it lacks the subject or the mask, or has prompt tokens.
    """
    template = parse_template(text.replace("[X]", "{subject}").replace("[Y]", "{mask}"), FIELDS)
    if not any(isinstance(part, Field) for part in template.parts):
        raise TemplateError(f"template {text!r}: no subject; write {{subject}} where it stands")
    if template.prompt_tokens:
        raise TemplateError(
            f"template {text!r}: a manual template has no prompt tokens; p-tuning puts them in, "
            "as many as lama.prompt_tokens says"
        )
    return template


def hybrid_template(manual: Template, *, start: int, before_mask: int, after_mask: int) -> Template:
    """Put prompt tokens into a manual template: (3, sub, original prompt, 3, obj, 3).

    The manual template keeps its words and their order. Where it does not begin with the subject,
    the first prompt tokens stand before its first word, so that they split no sentence.

    Args:
        manual: a template of `manual_template`.
        start: number of prompt tokens before all the rest.
        before_mask: number right before the mask.
        after_mask: number right behind it.

    Source: P-tuning v2, section on knowledge probing; the released code puts the subject behind
    the mask for masked models, which its author calls a leftover (THUDM/P-tuning issue 40).
    """
    behind = f" [P*{after_mask}]" if after_mask else ""
    # Braces that stand for themselves are not the mask's.
    pieces = re.split(r"(\{\{|\}\}|\{mask\})", manual.source)
    mask = _tokens(before_mask) + "{mask}" + behind
    text = "".join(mask if piece == "{mask}" else piece for piece in pieces)
    return parse_template(_tokens(start) + text, FIELDS)


def _tokens(count: int) -> str:
    return f"[P*{count}] " if count else ""


def method_template(
    method: str, manual: Template, *, start: int, before_mask: int, after_mask: int
) -> Template:
    """Return the template that a method uses for a relation.

    Args:
        method: `manual` or `p-tuning`.
        manual: the relation's manual template.
        start: see `hybrid_template`; so are the next two.
        before_mask: number of prompt tokens there.
        after_mask: number of prompt tokens there.

    Raises:
        TemplateError: p-tuning is left without any prompt token.
    """
    if method == "manual":
        return manual
    template = hybrid_template(manual, start=start, before_mask=before_mask, after_mask=after_mask)
    if not template.prompt_tokens:
        raise TemplateError(f"{method}: no prompt tokens; raise a number in lama.prompt_tokens")
    return template
