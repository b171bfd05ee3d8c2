"""The report as Markdown, and as one self-contained HTML page."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt

from pipeline.files import write_text
from pipeline.report.beside import Ours, beside_paper, paper_differences
from pipeline.report.figures import (
    curves_figure,
    relations_figure,
    stability_figure,
    task_curves_figure,
    tasks_figure,
)
from pipeline.report.paper_tasks import beside_paper_tasks, scores_by_method
from pipeline.report.results import LamaResults, Row, StabilityResults, TaskResults
from pipeline.report.stability import stability_parts
from pipeline.report.tables import (
    data_name,
    lama_answers,
    lama_counts,
    lama_methods,
    lama_relations,
    lama_title,
    markdown_table,
    task_methods,
    task_settings_tried,
    task_trainings,
    work_table,
)

_STYLE = """
body { font: 16px/1.55 system-ui, sans-serif; color: #1e293b; max-width: 60rem;
       margin: 2rem auto; padding: 0 1rem; }
h1, h2, h3 { line-height: 1.2; color: #0f172a; } h2 { margin-top: 2.5rem; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: 0.92rem; }
th, td { padding: 0.3rem 0.6rem; border-bottom: 1px solid #e2e8f0; }
th { border-bottom: 2px solid #94a3b8; vertical-align: bottom; }
td:first-child { white-space: nowrap; }
td { font-variant-numeric: tabular-nums; } svg { max-width: 100%; height: auto; }
code { background: #f1f5f9; padding: 0 0.25rem; border-radius: 3px; }
@media (max-width: 45rem) { p:has(> svg) { overflow-x: auto; } svg { max-width: none; } }
@media print { body { margin: 0; max-width: none; } h2 { break-after: avoid; } }
"""


def write_report(
    folder: Path,
    *,
    title: str,
    model: str,
    lama: LamaResults | None,
    stability: StabilityResults | None,
    lama_source: str,
    lama_subset: str,
    tasks: Sequence[TaskResults],
    tasks_source: str,
    tasks_protocol: str,
    work: Mapping[str, Row],
    origins: Mapping[str, str],
) -> None:
    """Write `report.md`, `index.html`, `summary.md` and `figures/*.svg`.

    Args:
        folder: an existing folder.
        title: of the report.
        model: name of the language model.
        lama: None where knowledge probing was not run.
        stability: None where it was not run.
        lama_source: where the facts of both are from.
        lama_subset: which of them, where the source is LAMA itself.
        tasks: one for each SuperGLUE task that was run.
        tasks_source: where their examples are from.
        tasks_protocol: what they were split by.
        work: as in `work_table`.
        origins: path of each metrics file that was read -> DVC's hash of it.
    """
    figures: dict[str, str] = {}
    summary: list[str] = []
    parts = [f"# {title}\n\nLanguage model: `{model}`. All scores in percent.\n"]
    if lama is not None:
        figures["lama_relations"] = relations_figure(lama)
        figures["lama_curves"] = curves_figure(lama)
        heading = f"## {lama_title(lama_source, lama_subset, len(lama.relations))}\n"
        summary += [heading, lama_methods(lama)]
        parts += [heading, *_lama(lama)]
        if lama_source == "lama":
            parts += _paper(lama, lama_subset, model)
        if lama.answers:
            parts += ["### Some answers\n", lama_answers(lama)]
    if stability is not None:
        figures["lama_stability"] = stability_figure(stability)
        parts += [
            f"## Stability over templates: {data_name(lama_source, lama_subset)}\n",
            *stability_parts(lama_source, stability),
            "![P@1 by template](figures/lama_stability.svg)\n",
        ]
    if tasks:
        figures["superglue"] = tasks_figure(tasks)
        figures["superglue_curves"] = task_curves_figure(tasks)
        heading = f"## Language understanding: `{tasks_source}`\n"
        summary += [heading, task_methods(tasks)]
        parts += [heading]
        if tasks_source == "geonames":
            parts += ["Made examples in the official schema; they are not SuperGLUE.\n"]
        parts += [
            "The score of a task is the mean of its metrics; of several trainings, the mean and "
            "the standard deviation (n - 1) stand here. The majority class answers with the most "
            "frequent label of train.\n",
            task_methods(tasks),
            "![test score by training](figures/superglue.svg)\n",
        ]
        if tasks_source == "superglue":
            scores = scores_by_method(tasks)
            parts += ["### Beside the paper\n", beside_paper_tasks(tasks_protocol, model, scores)]
        for title, table in (
            ("Settings that were tried", task_settings_tried(tasks)),
            ("By training", task_trainings(tasks)),
        ):
            parts += [f"### {title}\n", table] if table else []
        parts += ["![dev score by epoch](figures/superglue_curves.svg)\n"]
    if work:
        parts += _cost(work)
    if origins:
        parts += _origins(origins)
    if not figures:
        parts += ["No benchmark was run: `params.yaml` lists no methods, relations or tasks.\n"]
    for name, figure in figures.items():
        write_text(folder / "figures" / f"{name}.svg", figure)
    write_text(folder / "summary.md", "\n".join(summary))
    write_text(folder / "report.md", "\n".join(parts))
    write_text(folder / "index.html", _html(title, "\n".join(parts), figures))


def _lama(results: LamaResults) -> list[str]:
    first = next(iter(results.methods.values()))
    return [
        "P@1 is the share of facts whose object is the first answer, over the allowed "
        "vocabulary; the mean is over relations, unweighted. Two controls use no language model: "
        "the majority class answers every fact of a relation with the most frequent object of its "
        "train split, naive Bayes guesses the object from the words of the subject.\n",
        lama_methods(results),
        f"{lama_counts(first, results.splits)}\n",
        "![P@1 by relation](figures/lama_relations.svg)\n",
        lama_relations(list(results.methods), results.relations),
        "![dev P@1 by epoch](figures/lama_curves.svg)\n",
    ]


def _cost(work: Mapping[str, Row]) -> list[str]:
    return [
        "## What it cost\n",
        "All trainings that were run, those of settings that dev did not choose among them, and "
        "the epochs that they took together until they stopped. How many minutes that was hangs "
        "on the machine, so that the history has it: `ptune results --cost`.\n",
        work_table(work),
    ]


def _origins(origins: Mapping[str, str]) -> list[str]:
    first = next(iter(origins))
    rows = [[f"`{path}`", f"`{digest}`"] for path, digest in origins.items()]
    return [
        "## Where the numbers are from\n",
        f"`ptune lineage {first}` names the runs, parameters, code and data that a file was made "
        "from, back to the raw data; with the same content here and there, it is the same.\n",
        markdown_table(["metrics file", "MD5 of its content"], rows),
    ]


def _paper(results: LamaResults, subset: str, model: str) -> list[str]:
    means = {method: metrics["test/p_at_1"] for method, metrics in results.methods.items()}
    facts = next(iter(results.methods.values()))["test/facts"]
    ours = [Ours(model, model, len(results.relations), facts, means)]
    return [
        "### Beside the paper\n",
        beside_paper(subset, ours),
        paper_differences(subset, ours),
    ]


def _html(title: str, markdown: str, figures: dict[str, str]) -> str:
    body: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    for name, figure in figures.items():
        start = body.index(f'<img src="figures/{name}.svg"')
        end = body.index("/>", start) + 2
        body = body[:start] + figure[figure.index("<svg") :] + body[end:]
    body = body.replace("<table>", '<div class="scroll"><table>')
    body = body.replace("</table>", "</table></div>")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n"
        f"<body>\n{body}</body>\n</html>\n"
    )
