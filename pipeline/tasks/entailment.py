"""What RTE and CB share: a premise, a hypothesis, and how the two are put into words."""

from collections.abc import Callable, Iterator, Sequence

from pipeline.tasks.base import Example, Record, label, number, text

FIELDS = ("premise", "hypothesis")

PATTERNS = {
    # Schick and Schuetze's (timoschick/pet, pvp.py); they need a masked model. Their fifth differs.
    "pet-0": '"{hypothesis}"? {mask}, "{premise:shorten}"',
    "pet-1": "{hypothesis}? {mask}, {premise:shorten}",
    "pet-2": '"{hypothesis}"? {mask}. "{premise:shorten}"',
    "pet-3": "{hypothesis}? {mask}. {premise:shorten}",
    # FewNLU's sixth (THUDM/FewNLU).
    "fewnlu-5": "{premise:shorten} Question: {hypothesis}? Answer: {mask}.",
    # FewNLU, one prompt token; for RTE the P-tuning release has it too.
    "p-tuning": "{premise:shorten} Question: {hypothesis}? [P] Answer: {mask}.",
    "prompt-tuning": "[P*20] {premise:shorten} {hypothesis} {mask}",
    "classifier": "{premise:shorten} {hypothesis}",
}


def entailment_examples(labels: Sequence[str]) -> Callable[[Record], Iterator[Example]]:
    """Return the reading of a record whose label is one of these."""
    known = {name: name for name in labels}

    def examples(record: Record) -> Iterator[Example]:
        yield Example(
            str(number(record, "idx")),
            {field: text(record, field) for field in FIELDS},
            label(record, known),
        )

    return examples
