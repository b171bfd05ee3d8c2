"""How tables of results are drawn in a terminal, a narrow one too."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

import rich.box
import rich.table
from rich.console import Console

from pipeline.report.history_table import Table

# Columns of words; the others hold numbers.
_WORDS = ("date", "task", "method", "model", "run")
_FIRST_TO_GO = ("run", "dev", "min", "test n", "date")
_LONG = 10
# Between columns.
_GAP = 2


def print_tables(tables: Sequence[Table], *, instead: Sequence[Table]) -> None:
    """Print tables with their titles and notes.

    Args:
        tables: what to print.
        instead: printed where one of them is too wide; columns are taken out until they fit.
    """
    console = Console(markup=False, highlight=False, emoji=False)
    if any(_least_width(table) > console.width for table in tables):
        tables = [_narrowed(table, console.width) for table in instead]
    for table in tables:
        console.print(table.title, style="bold")
        if table.rows or table.paper:
            console.print(_drawn(table, whole=_least_width(table) <= console.width))
            if table.notes:
                console.print()
        for note in table.notes:
            console.print(_with_mark(note))
        console.print()


def _narrowed(table: Table, width: int) -> Table:
    """Take columns out, those that matter least first, until a table fits."""
    for name in _FIRST_TO_GO:
        if name in table.columns and _least_width(table) > width:
            place = table.columns.index(name)
            table = replace(
                table,
                columns=[*table.columns[:place], *table.columns[place + 1 :]],
                rows=[[*row[:place], *row[place + 1 :]] for row in table.rows],
            )
    return table


def _drawn(table: Table, *, whole: bool) -> rich.table.Table:
    """Return a table for the terminal; `whole`: it is wide enough to break no number."""
    drawn = rich.table.Table(
        box=rich.box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False
    )
    for name, cells in _columns(table):
        justify: Literal["left", "right"] = "left" if name in _WORDS else "right"
        no_wrap = whole and not _is_breakable(cells)
        drawn.add_column(_heading(name), justify=justify, overflow="fold", no_wrap=no_wrap)
    for row in table.rows:
        drawn.add_row(*row)
    drawn.add_section()
    if table.rows and table.paper:
        drawn.add_row("the paper:")
    for row in table.paper:
        drawn.add_row(*row)
    return drawn


def _columns(table: Table) -> list[tuple[str, list[str]]]:
    """Return each column's name and cells."""
    rows = [*table.rows, *table.paper]
    return [(name, [row[place] for row in rows]) for place, name in enumerate(table.columns)]


def _heading(name: str) -> str:
    """Break a method's long name in two lines, which leaves room for its neighbours."""
    return name.replace("-", "-\n", 1) if len(name) > _LONG else name


def _is_breakable(cells: Sequence[str]) -> bool:
    """Tell whether there are words between numbers, such as `34.1 (LPAQA), 43.3 (AutoPrompt)`."""
    return any("(" in cell or " to " in cell for cell in cells)


def _least_width(table: Table) -> int:
    """Return how many characters a table needs in order to break no number."""
    widths = []
    for name, cells in _columns(table):
        parts = _heading(name).split("\n")
        for cell in cells:
            parts += cell.split() if _is_breakable(cells) else [cell]
        widths.append(max(map(len, parts)))
    return sum(widths) + _GAP * len(widths)


def _with_mark(note: str) -> rich.table.Table:
    """Return a note whose lines all begin behind its mark."""
    grid = rich.table.Table.grid(padding=(0, 1))
    grid.add_row("-", note)
    return grid
