"""The report as Markdown, and as one self-contained HTML page."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt

from pipeline.config.schema import Params
from pipeline.errors import printable
from pipeline.files import read_json, write_text
from pipeline.report import published, tables
from pipeline.report.figures import (
    curves_figure,
    overview_figure,
    relations_figure,
    settings_figure,
    stability_figure,
    trainings_figure,
)
from pipeline.report.markdown import code_span, escaped
from pipeline.report.scores import (
    MethodResult,
    ResultFolders,
    Row,
    count_epochs,
    percent,
    read_answers,
    read_nearest,
    read_result,
    sort_relations,
)
from pipeline.report.significance import (
    Comparison,
    compare_methods,
    read_correct,
    score_interval,
)
from pipeline.workflow.lock import file_hash


@dataclass(frozen=True)
class ReportData:
    """All that a report shows.

    Attributes:
        lama: results of knowledge probing, one for each method.
        stability: results over templates, one for each method.
        tasks: results on SuperGLUE, by task, then method.
        own: results on the user's tasks, likewise.
        comparisons: `lama`, `superglue` or `tasks` -> methods against each other.
        intervals: name of a result -> ends of the 95 % interval of its P@1 or accuracy.
        splits: metrics file of LAMA's splits.
        answers: as `read_answers` returns them.
        nearest: as `read_nearest` returns them.
        budgets: name of a result -> `count_epochs` of its curves.
        origins: path of each metrics file that was read -> DVC's hash of it.
    """

    params: Params
    lama: Sequence[MethodResult] = ()
    stability: Sequence[MethodResult] = ()
    tasks: Sequence[MethodResult] = ()
    own: Sequence[MethodResult] = ()
    comparisons: Mapping[str, Sequence[Comparison]] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    splits: Row = field(default_factory=dict)
    answers: Sequence[Row] = ()
    nearest: Sequence[Row] = ()
    budgets: Mapping[str, Row] = field(default_factory=dict)
    origins: Mapping[str, str] = field(default_factory=dict)


def read_report(params: Params, folders: ResultFolders) -> ReportData:
    """Read the files of the methods and tasks that `params.yaml` lists.

    Raises:
        DataError: a file is missing.
    """
    lama, glue = params.lama, params.superglue
    probed = lama.methods if lama.relations else []
    steady = lama.stability.methods if lama.stability.relations else []
    probing = [read_result(folders, "lama", method) for method in probed]
    stability = [read_result(folders, "stability", method, curves=False) for method in steady]
    tasks = [
        read_result(folders, "superglue", method, task)
        for task in glue.tasks
        for method in glue.methods
    ]
    own = [
        read_result(folders, "tasks", method, task)
        for task in params.tasks
        for method in glue.methods
    ]
    answers = read_correct([*probing, *tasks, *own], folders.evaluation)
    names = [result.name for result in (*probing, *stability, *tasks, *own)]
    files = [folders.metrics / f"{name}.json" for name in names]
    return ReportData(
        params,
        probing,
        stability,
        tasks,
        own,
        comparisons={
            benchmark: compare_methods(results, answers)
            for benchmark, results in (("lama", probing), ("superglue", tasks), ("tasks", own))
        },
        intervals={name: score_interval(of, name) for name, of in answers.items()},
        splits=read_json(folders.metrics / "splits" / "lama.json") if probing else {},
        answers=read_answers(folders.evaluation, probed, params.report.facts_shown),
        nearest=read_nearest(folders.evaluation, [*probing, *tasks, *own]),
        budgets={name: count_epochs(folders.curves / f"{name}.csv") for name in names},
        origins={file.as_posix(): file_hash(file.read_bytes()) for file in files},
    )


def write_report(folder: Path, data: ReportData) -> None:
    """Write `report.md`, `index.html`, `summary.md` and `figures/*.svg` into an existing folder."""
    figures = _figures(data)
    text = render(
        "report.md.j2",
        data=data,
        figures=figures,
        lama_relations=sort_relations(data.lama),
        headlines=list(tables.headlines([*data.lama, *data.tasks, *data.own], data.comparisons)),
    )
    for name, figure in figures.items():
        write_text(folder / "figures" / f"{name}.svg", figure)
    write_text(folder / "summary.md", render("summary.md.j2", data=data))
    write_text(folder / "report.md", text)
    html = render("index.html.j2", title=data.params.report.title, body=_body(text, figures))
    write_text(folder / "index.html", html)


def render(template: str, folder: Path = Path(__file__).parent, **values: object) -> str:
    """Return a template with values; the functions of `pipeline.report.tables` are `tables`.

    Values are escaped in a file that ends with `.html.j2`, and control characters are shown in all.
    Parts of Markdown are separated by one empty line, however many the template has.

    Raises:
        jinja2.UndefinedError: the template has a variable without a value.
    """
    environment = Environment(
        loader=FileSystemLoader([folder, Path(__file__).parent]),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "escaped": escaped, "code_span": code_span, "percent": percent
    }  # fmt: skip
    text = environment.get_template(template).render(tables=tables, **values)
    return re.sub(r"\n{3,}", "\n\n", text).strip("\n") + "\n" if ".md" in template else text


def _shown(value: object) -> object:
    """Return a value with its control characters shown; markup that was escaped has none."""
    return printable(value) if type(value) is str else value


def _figures(data: ReportData) -> dict[str, str]:
    figures = {}
    if data.intervals:
        lama = data.params.lama
        subset = lama.subset if (lama.source, lama.objects) == ("lama", "one-token") else None
        paper = published.lama_scores(subset, data.params.model.name) if subset else {}
        figures["overview"] = overview_figure(
            [*data.lama, *data.tasks, *data.own], data.intervals, paper
        )
    if data.lama:
        figures["lama_relations"] = relations_figure(data.lama)
        if tables.repeated(data.lama, "trainings"):
            figures["lama_trainings"] = trainings_figure(data.lama)
        figures["lama_curves"] = curves_figure(data.lama)
    if data.stability:
        figures["lama_stability"] = stability_figure(data.stability)
    for name, results in (("superglue", data.tasks), ("tasks", data.own)):
        if results:
            figures[name] = trainings_figure(results)
            if several := tables.several_settings(results):
                official = (name, data.params.superglue.source) == ("superglue", "superglue")
                marks = published.setting_scores() if official else {}
                figures[f"{name}_settings"] = settings_figure(several, marks)
            figures[f"{name}_curves"] = curves_figure(results)
    return figures


def _body(markdown: str, figures: Mapping[str, str]) -> str:
    """Return the Markdown as HTML, with the figures in place of links to them."""
    body: str = MarkdownIt("commonmark", {"html": False}).enable("table").render(markdown)
    for name, figure in figures.items():
        link = re.compile(rf'<p><img src="figures/{name}\.svg" alt="([^"]*)" /></p>')
        svg = figure[figure.index("<svg") + len("<svg") :]
        start = f'<figure class="{name}"><svg role="img" aria-label='
        body = link.sub(lambda found: f'{start}"{found[1]}"{svg}</figure>', body)  # noqa: B023
    body = body.replace("<table>", '<div class="scroll"><table>')
    return body.replace("</table>", "</table></div>")
