"""Write a table of facts: the cities after which time zones are named, and their continents.

    python docs/examples/time_zones.py facts/time-zones.csv

The cities are those of the IANA time zone database, by Python's `zoneinfo`.
"""

import csv
import sys
from pathlib import Path
from zoneinfo import available_timezones

CONTINENTS = ("Africa", "America", "Asia", "Europe")
TEMPLATE = "[X] is a city in [Y] ."


def main(path: Path) -> None:
    """Write a row for each city, in alphabetic order; the first one has the template."""
    zones = sorted(zone.split("/") for zone in available_timezones())
    pairs = [(names[-1].replace("_", " "), names[0]) for names in zones if names[0] in CONTINENTS]
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["subject", "object", "template"])
        for number, pair in enumerate(pairs):
            rows.writerow([*pair, TEMPLATE if number == 0 else ""])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
