"""Candidates of a pattern search: a manual pattern with prompt tokens at one of its places."""

import re

# White space that is not within a slot.
_GAP = re.compile(r"\s+(?=\S)(?![^{]*\})")


def insert_prompt_tokens(pattern: str, count: int, *, behind_mask: bool) -> list[str]:
    """Return the pattern with so many prompt tokens in each of its places, the first place first.

    The places are the start, the gaps between words and slots, and the end; not within a word, and
    not within a field, whose text differs from example to example.

    Args:
        pattern: in the template language, without prompt tokens.
        count: of the prompt tokens, all in one place.
        behind_mask: whether the places behind the mask count too; a causal model has none there.

    Source: P-tuning v2, Table 7 and its text: number and place of the prompt tokens are searched.
    """
    tokens = "[P]" if count == 1 else f"[P*{count}]"
    last = len(pattern) if behind_mask or "{mask}" not in pattern else pattern.index("{mask}")
    places = [0, *(match.end() for match in _GAP.finditer(pattern) if match.end() <= last)]
    found = [f"{pattern[:place]}{tokens} {pattern[place:]}" for place in places]
    if last == len(pattern):
        found.append(f"{pattern} {tokens}")
    return found
