"""Write the results of `benchmarks/results` into the README of this folder, between two marks."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.facts import IN_FRONT
from benchmarks.machine import PHASES
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
    """Tables in Markdown, for each result: the methods, and the ratios between them."""
    return "\n\n".join(map(_result, results)) or "No results yet."


def _result(result: dict[str, Any]) -> str:
    model, settings, equality = result["model"], result["settings"], result["equality"]
    clock = "CPU time of one thread" if result["clock"] == "cpu_seconds" else "wall-clock time"
    lines = [
        f"### {model['name']} on {result['hardware']['name']}, {result['dtype']}",
        "",
        f"{result['date']}, `{result['command']}`; {clock}, load average "
        f"{result['load_average']:.1f} at the start.",
        "",
        "| method | relations, timed steps | set-up, ms/relation | step, ms/fact | dev, ms/fact "
        "| test, ms/fact | positions per row: train, dev, test | operations, passes per step "
        "| share of matmul | peak memory |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in result["rows"]:
        phases = row["phases"]
        times = [f"{phases[name]['milliseconds']:.2f}" for name in PHASES]
        positions = [f"{phases[name]['positions_per_unit']:.1f}" for name in PHASES[1:]]
        cells = [
            _name(row),
            f"{row['relations']}, {row['timed_steps']}",
            *times,
            ", ".join(positions),
            f"{row['operations_per_step']:.0f}, {row['passes_per_step']:.0f}",
            f"{row['share_of_matmul']:.1%}",
            _gibibytes(row["peak_memory_bytes"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", "| training step | times as fast |", "| --- | ---: |"]
    for ratio in result["ratios"]:
        found = ratio[result["clock"]]
        lines.append(
            f"| {_name({**ratio, 'method': ratio['of']})}, relative to {ratio['to']} "
            f"| **{found['median']:.2f}** ({found['lowest']:.2f} to {found['highest']:.2f}) |"
        )
    lines += [
        "",
        f"A step of the bank with one relation: {result['operations_of_one_relation']:.0f} "
        f"operations. The bank and the plain loop, compared on {equality['relations']} of "
        f"{settings['relations']} relations in float32: the trained vectors differ by at most "
        f"{equality['vectors']:.1e}, {equality['vectors_of_movement']:.1e} of their movement; dev "
        f"loss by {equality['dev_loss']:.1e}, dev P@1 by {equality['dev_score']:.1e}.",
    ]
    return "\n".join(lines)


def _name(row: dict[str, Any]) -> str:
    tokens = row.get("max_tokens_per_forward")
    layout = "tokens in front" if row["layout"] == IN_FRONT else row["layout"]
    return f"{row['method']}, {layout}" + (f", {tokens} tokens a pass" if tokens else "")


def _gibibytes(peak: int | None) -> str:
    return "unknown" if peak is None else f"{peak / 2**30:.1f} GiB"


if __name__ == "__main__":
    main()
