"""The pages of results in docs/results, Markdown, from records."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from pipeline.config.schema import LamaMethod, SuperGlueMethod, SuperGlueParams
from pipeline.data.geonames.facts import GEONAMES_RELATIONS
from pipeline.data.lama import TEST_FACTS
from pipeline.errors import DataError
from pipeline.report.markdown import escaped
from pipeline.report.page import render
from pipeline.report.published import SUBSETS, has_table, lama_rows, paper_name
from pipeline.report.scores import MethodResult, Row, percent, scores_of
from pipeline.report.tables import known_controls, markdown_table, metric_parts
from pipeline.results.records import Benchmark, Record
from pipeline.tasks import get_task, task_names

_RELATIONS = {"lama": tuple(TEST_FACTS), "geonames": tuple(GEONAMES_RELATIONS)}

Group = Sequence[tuple[Record, MethodResult]]


def results_page(benchmark: Benchmark, contents: Sequence[Row]) -> str:
    """Return the page of a benchmark from records as `collect` makes them, in their order."""
    records = [Record(benchmark, content) for content in contents]
    values = _lama(records) if benchmark == "lama" else _superglue(records)
    return render(f"{benchmark}.md.j2", Path(__file__).parent, records=records, **values)


def insert_between(text: str, begin: str, end: str, content: str) -> str:
    """Return a text with the content between two marks replaced.

    Raises:
        DataError: the marks are not there, once each and in order.
    """
    if text.count(begin) != 1 or text.count(end) != 1 or text.index(begin) > text.index(end):
        raise DataError(f"the file needs the lines {begin!r} and {end!r} once each, in order")
    return f"{text.partition(begin)[0]}{begin}\n{content.strip()}\n{end}{text.partition(end)[2]}"


def _lama(records: Sequence[Record]) -> dict[str, object]:
    probing = [record for record in records if record.results]
    results = [result for record in probing for result in record.results]
    on_lama = {
        subset: [
            r
            for r in probing
            if (r.source, r.params["subset"], r.params.get("objects", "one-token"))
            == ("lama", subset, "one-token")
        ]
        for subset in SUBSETS
    }
    return {
        "results": results,
        "probing": probing,
        "several": any(result.score().std is not None for result in results),
        "groups": list(_same_facts(probing)),
        "compare": _compare,
        "columns": _columns,
        "on_lama": on_lama,
        "ours": {
            subset: {f"{r.model} ({r.content['name']})": r.results for r in of}
            for subset, of in on_lama.items()
        },
        "methods": get_args(LamaMethod),
        "methods_run": {result.method for result in results},
        "steady": {result.method for record in records for result in record.stability},
        "relations_not_run": _relations_not_run(probing),
        "subsets_run": [subset for subset, of in on_lama.items() if of],
        "table_3": {
            subset: (
                dict.fromkeys(row.model for row in lama_rows(subset)),
                {paper_name(record.model) for record in of},
            )
            for subset, of in on_lama.items()
        },
        "single_seeds": _single_seeds(records),
    }


def _same_facts(records: Iterable[Record]) -> Iterator[tuple[str, Group]]:
    """Yield title and results of the runs of one model on the same facts."""

    def key(record: Record) -> tuple[str, str, int, int]:
        cap = record.params["splits"]["test_facts"] or 0
        # With a cap the seed decides which facts are used.
        return record.model, record.data, cap, record.seed if cap else 0

    for (model, data, cap, seed), group in groupby(sorted(records, key=key), key):
        limit = f", at most {cap} test facts a relation (seed {seed})" if cap else ""
        results = [(record, result) for record in group for result in record.results]
        yield f"{escaped(model)}, {data}{limit}", results


def _columns(group: Group) -> dict[str, list[Row]]:
    """Return column -> rows of relations; a method of several runs is named with its run."""
    names = [result.method for _, result in group]
    return {
        f"{r.method}, {record.name}" if names.count(r.method) > 1 else r.method: r.relations
        for record, r in group
    }


def _compare(group: Group) -> str:
    """Return the means over the relations that all trained methods share; '' if none is trained."""
    rows = [
        (record.name, result.method, {row["relation"]: row for row in result.relations})
        for record, result in group
    ]
    trained = [(run, of) for run, method, of in rows if method != "manual"]
    if not trained:
        return ""
    run, first = trained[0]
    shared = [relation for relation in first if all(relation in of for _, of in trained)]
    if not shared:
        return "No relation was run with all trained methods.\n"
    lines = [(method, name, of, "p_at_1") for name, method, of in rows if of.keys() >= set(shared)]
    known = known_controls(first.values())
    lines += [(name, run, first, control) for control, name in known.items()]
    table = markdown_table(
        {
            "method": method,
            "run": name,
            "relations": len(shared),
            "test facts": sum(of[relation]["facts"] for relation in shared),
            "test P@1": percent(fmean(of[relation][key] for relation in shared)),
        }
        for method, name, of, key in lines
    )
    return f"On {', '.join(shared)}.\n\n{table}"


def _relations_not_run(records: Sequence[Record]) -> dict[Any, list[str]]:
    """Return model, data, number of all relations, and those without a run -> the methods."""
    done = _grouped(
        ((record.model, record.source, record.data, result.method), row["relation"])
        for record in records
        for result in record.results
        for row in result.relations
    )
    missing = (
        (model, data, _RELATIONS[source], set(_RELATIONS[source]).difference(names), method)
        for (model, source, data, method), names in done.items()
        if source in _RELATIONS  # not the user's own
    )
    return _grouped(
        ((model, data, len(every), tuple(name for name in every if name in lacking)), method)
        for model, data, every, lacking, method in missing
        if lacking
    )


def _single_seeds(records: Iterable[Record]) -> dict[Any, list[str]]:
    """Return model, data and the only seed -> the trained methods that have no other."""
    seeds = _grouped(
        ((record.model, record.data, result.method), seed)
        for record in records
        for result in (*record.results, *record.stability)
        for seed in record.seeds
        if result.method != "manual"
    )
    return _grouped(
        ((model, data, used[0]), method)
        for (model, data, method), used in seeds.items()
        if len(set(used)) == 1
    )


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _superglue(records: Sequence[Record]) -> dict[str, object]:
    official = [record for record in records if record.source in ("superglue", "glue")]
    results = [result for record in official for result in record.results]
    return {
        "guesses": _guesses,
        "has_table": has_table,
        "first_count": _first_count,
        "control_metrics": _control_metrics,
        "tasks": task_names(),
        "methods": get_args(SuperGlueMethod),
        "protocols": get_args(SuperGlueParams.model_fields["protocol"].annotation),
        "tasks_run": {task for record in official for task in record.params["tasks"]},
        "methods_run": {method for record in official for method in record.params["methods"]},
        "protocols_run": {record.params["protocol"] for record in official},
        "searched": any(len(result.settings) != 1 for result in results),
    }


def _first_count(counts: Mapping[str, int], split: str) -> int | str:
    """Return the number of examples of the first train or dev set; '' if a record lacks it."""
    names = sorted(name for name in counts if name.endswith(f"/{split}/examples"))
    return counts[names[0]] if names else ""


def _guesses(record: Record) -> dict[str, Row]:
    """Return for each task what a constant answer reaches.

    In older records it is the majority class or an even choice, whichever is right more often.
    """
    guesses = {}
    for task, of in record.content["tasks"].items():
        guess = of.get("constant", of["majority"])
        even = 1 / len(get_task(task).labels)
        guesses[task] = {
            name: max(value, even) if name == "accuracy" else value for name, value in guess.items()
        }
    return guesses


def _control_metrics(task: str, values: Row) -> str:
    tested = {f"test/{name}": value for name, value in values.items()}
    return metric_parts(scores_of(tested, "superglue", task, ""))
