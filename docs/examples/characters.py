"""Write a small data set of real texts: names of Unicode characters, and what kind they are.

    python docs/examples/characters.py characters.csv

The names are those of the Unicode standard, from Python's own copy. Some contain their kind, such
as LETTER or DIGIT; others do not: MODULO TWO SUM is a symbol, ETHIOPIC WORDSPACE punctuation.
"""

import csv
import random
import sys
import unicodedata
from pathlib import Path

KINDS = {"L": "letter", "N": "number", "S": "symbol", "P": "punctuation"}
ROWS_OF_A_KIND = 100


def main() -> None:
    """Write as many rows of each kind, in random order, to the file that is named."""
    names: dict[str, list[str]] = {kind: [] for kind in KINDS.values()}
    for number in range(0x3000):
        character = chr(number)
        kind = KINDS.get(unicodedata.category(character)[0])
        name = unicodedata.name(character, "")
        if kind and " " in name:
            names[kind].append(name)
    rng = random.Random(34)
    rows = [(name, kind) for kind, of in names.items() for name in rng.sample(of, ROWS_OF_A_KIND)]
    rng.shuffle(rows)
    with Path(sys.argv[1]).open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("Name", "Kind"), *rows])


if __name__ == "__main__":
    main()
