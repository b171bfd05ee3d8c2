"""Tables of an evaluation, as `dvc plots` shows them."""

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline.evaluation.summary import TEMPLATE_COLUMNS
from stages.evaluate import _write_table
from tests.hostile import NAMES, tags_of
from tests.project import ROOT


def test_text_of_users_ends_no_script_of_the_page_of_plots(tmp_path: Path) -> None:
    shutil.copytree(ROOT / ".dvc" / "plots", tmp_path / ".dvc" / "plots")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    harmless = tags(tmp_path, ["{subject} is in {mask}"] * (len(NAMES) + 1))
    assert "script" in harmless
    assert tags(tmp_path, [*NAMES, "<!-- <script>"]) == harmless


def tags(root: Path, templates: list[str]) -> list[str]:
    """Return the tags of the page on a table of templates."""
    ctx: Any = SimpleNamespace(run=SimpleNamespace(log_file=lambda _: None))
    rows = [dict.fromkeys(TEMPLATE_COLUMNS, 0.5) | {"template": text} for text in templates]
    _write_table(ctx, root / "templates.csv", TEMPLATE_COLUMNS, rows)
    options = ["--template", "relations", "-x", "p_at_1", "-y", "template"]
    command = ["dvc", "plots", "show", "-q", "-o", "page", *options, "templates.csv"]
    subprocess.run(command, cwd=root, check=True)
    return tags_of((root / "page" / "index.html").read_text())
