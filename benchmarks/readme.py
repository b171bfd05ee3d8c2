"""Write the results of `benchmarks/results` into the README of this folder, between two marks."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipeline.results.page import insert_between

RESULTS = Path(__file__).parent / "results"
README = Path(__file__).parent / "README.md"
BEGIN = "<!-- results: written by `python -m benchmarks.readme` -->"
END = "<!-- end of results -->"


def main() -> None:
    """Replace the text between the marks."""
    text = README.read_text(encoding="utf-8")
    README.write_text(with_results(text, read_results(RESULTS)), encoding="utf-8")
    sys.stdout.write(f"written: {README}\n")


def read_results(folder: Path) -> list[dict[str, Any]]:
    """The results of a folder, by the names of their files."""
    return [json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("bank-*.json"))]


def with_results(text: str, results: Sequence[dict[str, Any]]) -> str:
    """The text with the results between its marks.

    Raises:
        DataError: the marks are not there, once each and in order.
    """
    return insert_between(text, BEGIN, END, results_text(results))


def results_text(results: Sequence[dict[str, Any]]) -> str:
    """Tables in Markdown: one of all results, and the steps of each."""
    return "\n\n".join([results_table(results), *map(_ladder, results)])


def results_table(results: Sequence[dict[str, Any]]) -> str:
    """A table in Markdown, one result a row."""
    if not results:
        return "No results yet."
    rows = [
        "| model | hardware, type | plain, ms/fact | bank, ms/fact | bank / plain "
        "| bank / released | share of peak, plain, bank | peak memory, plain, bank |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in results:
        plain, whole, ratio = result["plain"], result["bank"], result["ratio"]
        cells = [
            result["model"]["name"],
            f"{result['hardware']['name']}, {result['dtype']}",
            f"{plain['milliseconds_per_fact']:.2f}",
            f"{whole['milliseconds_per_fact']:.2f}",
            f"**{ratio['of_minima']:.2f}** ({ratio['lowest']:.2f} to {ratio['highest']:.2f})",
            f"{result['ratio_to_released']['of_minima']:.2f}",
            f"{_percent(plain['share_of_peak'])}, {_percent(whole['share_of_peak'])}",
            f"{_gibibytes(plain)}, {_gibibytes(whole)}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def _percent(share: float) -> str:
    return f"{share:.1%}" if share < 0.095 else f"{share:.0%}"


def _ladder(result: dict[str, Any]) -> str:
    """The steps from the plain loop to the bank, for one result."""
    settings, equality = result["settings"], result["equality"]
    lines = [
        f"{result['model']['name']} on {result['hardware']['name']}, {result['date']}; "
        f"`{result['command']}`",
        "",
        "| step | ms/fact | times as fast as plain | GFLOP/fact |",
        "| --- | ---: | ---: | ---: |",
    ]
    for step in result["ladder"]:
        lines.append(
            f"| {step['step']} | {step['milliseconds_per_fact']:.2f} "
            f"| {step['cumulative_ratio']:.2f} | {step['flops_per_fact'] / 1e9:.2f} |"
        )
    lines += [
        "",
        f"The plain loop on {settings['plain_relations']} relations, the bank on "
        f"{settings['relations']}. Compared on {equality['relations']} relations in float32, the "
        f"trained vectors differ by at most {equality['vectors']:.1e}, "
        f"{equality['vectors_of_movement']:.1e} of their movement; dev loss by "
        f"{equality['dev_loss']:.1e}, dev P@1 by {equality['dev_score']:.1e}.",
    ]
    return "\n".join(lines)


def _gibibytes(figures: dict[str, Any]) -> str:
    peak = figures["peak_memory_bytes"]
    return "unknown" if peak is None else f"{peak / 2**30:.1f} GiB"


if __name__ == "__main__":
    main()
