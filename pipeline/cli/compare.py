"""`ptune compare`: two runs, experiments or commits side by side."""

from typing import Annotated

import typer

from pipeline.cli.console import echo, print_json

EXAMPLES = """Examples:
  ptune compare 3fa9c1d2 9b21f04c
  ptune compare main workspace
  ptune compare bumpy-tael dozy-mynx --json"""

_HELP = "A run's id or its beginning, an experiment of dvc, a commit, or workspace."


def compare(
    first: Annotated[str, typer.Argument(help=_HELP)],
    second: Annotated[str, typer.Argument(help=_HELP)],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Print Markdown.")] = False,
) -> None:
    """Compare evaluations: scores with a paired test, settings, relations.

    Evaluations of the same task and method are compared; two single ones of a
    task also if their methods differ.
    """
    from pipeline.cli.results import print_tables
    from pipeline.history.results import read_answers, read_results
    from pipeline.report.tables import markdown
    from pipeline.results.compare import record_of
    from pipeline.results.pairs import find_results, pair_tables, pair_up, setting_differences

    results = read_results()
    pairs = pair_up(find_results(first, results), find_results(second, results))
    if as_json:
        content = [
            {
                "first": record_of(one),
                "second": record_of(other),
                "settings": setting_differences(one, other),
            }
            for one, other in pairs
        ]
        print_json(content, indent=2)
        return
    tables = [table for pair in pairs for table in pair_tables(*pair, read_answers)]
    if as_markdown:
        echo(markdown(tables), nl=False)
    else:
        print_tables(tables, narrow=tables)
