"""WSC: does a pronoun refer to a given noun phrase of the text?

The noun phrase is an answer of several tokens. It competes with the other runs of words of the text
that could stand in its place: the pronoun refers to it where it is the likeliest of them. PET asks
for the words themselves and compares what comes with the noun phrase; the answers that compete here
keep that within one forward pass, and give a score.
"""

import re
from collections.abc import Iterator

from pipeline.errors import DataError
from pipeline.tasks.base import BOOLEAN, Example, Record, Task, label, number, section, text

# With one of these, a noun phrase begins.
_BEGIN = {
    "a", "an", "her", "his", "its", "my", "our", "that", "the", "their", "these", "this", "those",
    "your",
}  # fmt: skip
# Words with a capital at the start of a sentence that name nothing.
_NO_NAMES = _BEGIN | {
    "after", "although", "always", "and", "as", "at", "because", "before", "but", "every", "for",
    "from", "he", "him", "how", "i", "if", "in", "it", "me", "no", "not", "of", "on", "or", "she",
    "since", "so", "still", "them", "then", "there", "they", "though", "to", "us", "we", "what",
    "when", "which", "while", "who", "you",
}  # fmt: skip
_WORD = re.compile(r"^\W*(.*?)\W*$")


def _examples(record: Record) -> Iterator[Example]:
    words = text(record, "text").split()
    target = section(record, "target")
    span, pronoun = text(target, "span1_text"), text(target, "span2_text")
    at = number(target, "span2_index")
    for key, index in (("span1_index", number(target, "span1_index")), ("span2_index", at)):
        if not 0 <= index < len(words):
            raise DataError(f"{key} is {index}, outside the text of {len(words)} words")
    if not span.strip():
        raise DataError("span1_text is empty")
    # Marked with stars, as PET does: a text may have the same pronoun twice.
    length = len(pronoun.split())
    at = _place(words, pronoun, at)
    marked = [*words[:at], f"*{' '.join(words[at : at + length])}*", *words[at + length :]]
    yield Example(
        str(number(record, "idx")),
        {"text": " ".join(marked), "pronoun": pronoun, "span": span},
        label(record, BOOLEAN),
        (span, *_rivals(words, span, pronoun)),
    )


def _place(words: list[str], pronoun: str, index: int) -> int:
    """Return where the pronoun is: in one official record its index is that of the word before."""
    wanted = [_bare(word).lower() for word in pronoun.split()]
    for at in (index, index + 1, index - 1):
        if at >= 0 and [_bare(w).lower() for w in words[at : at + len(wanted)]] == wanted:
            return at
    raise DataError(f"span2_index is {index}, where the text has no {pronoun!r}")


def _rivals(words: list[str], span: str, pronoun: str) -> list[str]:
    """Return the runs of words that could stand in the span's place, each once.

    Such a run begins with an article or the like and has two or three words, or it is one or two
    words with capitals. Punctuation ends it, and it shares no word with the span. Where X
    """
    taken = {_bare(word).lower() for word in span.split()} - _NO_NAMES | {pronoun.lower()}
    runs = [run for size in (1, 2, 3) for run in _runs(words, size, taken) if _is_phrase(run)]
    runs = runs or [run for size in (len(span.split()), 1) for run in _runs(words, size, taken)]
    if not runs:
        raise DataError(f"no words of the text could stand in place of {span!r}")
    return list({" ".join(run).lower(): " ".join(run) for run in reversed(runs)}.values())[::-1]


def _runs(words: list[str], size: int, taken: set[str]) -> Iterator[list[str]]:
    for start in range(len(words) - size + 1):
        run = words[start : start + size]
        bare = [_bare(word) for word in run]
        unbroken = all(word[-1].isalnum() for word in run[:-1])
        if unbroken and all(bare) and not taken & {word.lower() for word in bare}:
            yield bare


def _is_phrase(run: list[str]) -> bool:
    if run[0].lower() in _BEGIN:
        return len(run) > 1 and run[-1].lower() not in _NO_NAMES
    return len(run) < 3 and all(word[0].isupper() and word.lower() not in _NO_NAMES for word in run)


def _bare(word: str) -> str:
    match = _WORD.match(word)
    return match[1] if match else word


TASK = Task(
    name="wsc",
    fields=("text", "pronoun", "span"),
    labels=("true", "false"),
    metrics=("accuracy",),
    examples=_examples,
    group=lambda record: record["text"],
    patterns={
        # Schick and Schuetze's (timoschick/pet, pvp.py).
        "pet-0": "{text:shorten} The pronoun '*{pronoun}*' refers to {mask}.",
        "pet-1": (
            "{text:shorten} In the previous sentence, the pronoun '*{pronoun}*' refers to {mask}."
        ),
        "pet-2": (
            "{text:shorten} Question: In the passage above, what does the pronoun '*{pronoun}*' "
            "refer to? Answer: {mask}."
        ),
        # FewNLU, one prompt token.
        "p-tuning": (
            "{text:shorten} [P] Question: In the passage above, what does the pronoun "
            "'*{pronoun}*' refer to? Answer: {mask}."
        ),
        "prompt-tuning": "[P*20] {text:shorten} '*{pronoun}*' {mask}.",
        "classifier": "{text:shorten} {pronoun} {mask}",
    },
)
