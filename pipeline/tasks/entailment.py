"""What RTE and CB share: a premise, a hypothesis, and how the two are put into words."""

import string
from collections.abc import Callable, Iterator, Sequence

from pipeline.tasks.base import Example, Record, label, number, text

# A statement is the hypothesis without its final punctuation, for patterns that go on behind it.
FIELDS = ("premise", "hypothesis", "statement")

PATTERNS = {
    # Schick and Schuetze's (timoschick/pet, pvp.py); they need a masked model. Their fifth differs.
    "pet-0": '"{statement}"? {mask}, "{premise:shorten}"',
    "pet-1": "{statement}? {mask}, {premise:shorten}",
    "pet-2": '"{statement}"? {mask}. "{premise:shorten}"',
    "pet-3": "{statement}? {mask}. {premise:shorten}",
    # FewNLU's sixth (THUDM/FewNLU).
    "fewnlu-5": "{premise:shorten} Question: {statement}? Answer: {mask}.",
    # FewNLU, one prompt token; for RTE the P-tuning release has it too.
    "p-tuning": "{premise:shorten} Question: {statement}? [P] Answer: {mask}.",
    "prompt-tuning": "[P*20] {premise:shorten} {hypothesis} {mask}",
    "classifier": "{premise:shorten} {hypothesis}",
}


def entailment_examples(labels: Sequence[str]) -> Callable[[Record], Iterator[Example]]:
    """Return the reading of a record whose label is one of these."""
    known = {name: name for name in labels}

    def examples(record: Record) -> Iterator[Example]:
        hypothesis = text(record, "hypothesis")
        yield Example(
            str(number(record, "idx")),
            {
                "premise": text(record, "premise"),
                "hypothesis": hypothesis,
                "statement": hypothesis.rstrip(f"{string.punctuation} "),
            },
            label(record, known),
        )

    return examples
