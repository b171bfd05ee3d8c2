"""The pages of results in docs/results, Markdown, from records."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

from pipeline.config.schema import LamaMethod, SuperGlueMethod, SuperGlueParams
from pipeline.data.geonames.facts import GEONAMES_RELATIONS
from pipeline.data.lama import TEST_FACTS
from pipeline.errors import DataError
from pipeline.report.page import render
from pipeline.report.published import SUBSETS, lama_published, paper_name
from pipeline.report.scores import CONTROLS, MethodResult, Row, percent, scores_of
from pipeline.report.tables import bullets, escaped, markdown_table, metric_parts
from pipeline.results.records import Benchmark, Record
from pipeline.tasks import get_task, task_names

_RELATIONS = {"lama": tuple(TEST_FACTS), "geonames": tuple(GEONAMES_RELATIONS)}
_METHODS: tuple[str, ...] = get_args(LamaMethod)
_PROTOCOLS: tuple[str, ...] = get_args(SuperGlueParams.model_fields["protocol"].annotation)


def results_page(benchmark: Benchmark, contents: Sequence[Row]) -> str:
    """Return the page of a benchmark.

    Args:
        benchmark: `lama` or `superglue`.
        contents: records as `collect` makes them, in the order of the page.
    """
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
    compared = {
        subset: [r for r in probing if (r.source, r.params["subset"]) == ("lama", subset)]
        for subset in SUBSETS
    }
    return {
        "probing": probing,
        "several": any(result.score().std is not None for r in probing for result in r.results),
        "groups": list(_same_facts(probing)),
        "compare": _compare,
        "columns": _columns,
        "paper": {
            subset: {f"{r.model} ({r.content['name']})": r.results for r in of}
            for subset, of in compared.items()
        },
        "models": {subset: [r.model for r in of] for subset, of in compared.items()},
        "gaps": _lama_gaps(records),
    }


Group = Sequence[tuple[Record, MethodResult]]


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
    lines += [(name, run, first, control) for control, name in CONTROLS.items()]
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


def _lama_gaps(records: Sequence[Record]) -> list[str]:
    """Return sentences on the methods, relations, models and seeds that no record covers."""
    probing = [record for record in records if record.results]
    lama = [record for record in probing if record.source == "lama"]
    lines = [
        _missing("Methods", _METHODS, {r.method for record in probing for r in record.results}),
        *_missing_relations(probing),
        *_caps(records),
        _missing("Subsets of LAMA", SUBSETS, {record.params["subset"] for record in lama}),
    ]
    for subset in SUBSETS:
        models = {paper_name(r.model) for r in lama if r.params["subset"] == subset}
        published = dict.fromkeys(row.model for row in lama_published(subset))
        lines.append(_missing(f"Models of the paper's Table 3 on {subset}", published, models))
    steady = {result.method for record in records for result in record.stability}
    gpus = [(r.content["hardware"]["gpu"], r.name) for r in records]
    used = [f"{escaped(gpu)} in {name}" for gpu, name in gpus if gpu]
    return [
        *lines,
        _missing("Methods in stability over templates", _METHODS, steady),
        f"A GPU was used: {', '.join(used)}." if used else "No GPU was used in any run.",
        *_single_seeds(records),
    ]


def _missing(what: str, everything: Iterable[str], done: Collection[str | None]) -> str:
    return f"{what} not run: {_listed(name for name in everything if name not in done)}."


def _missing_relations(records: Sequence[Record]) -> list[str]:
    """Return, by model and source, the relations without a run; equal methods share a line."""
    done = _grouped(
        ((record.model, record.source, record.data, result.method), row["relation"])
        for record in records
        for result in record.results
        for row in result.relations
    )
    alike = _grouped(
        ((*about, tuple(name for name in _RELATIONS[about[1]] if name not in names)), method)
        for (*about, method), names in done.items()
    )
    return [
        f"Relations of {data} not run with {escaped(model)}, {', '.join(methods)}: "
        f"{len(missing)} of {len(_RELATIONS[source])} ({', '.join(missing)})."
        for (model, source, data, missing), methods in alike.items()
        if missing
    ]


def _caps(records: Iterable[Record]) -> Iterator[str]:
    for record in records:
        sizes = {key.removesuffix("_facts"): n for key, n in record.params["splits"].items()}
        capped = [f"{size} {split}" for split, size in sizes.items() if size is not None]
        if capped:
            yield f"Facts in {record.name}: at most {', '.join(capped)} of a relation."


def _single_seeds(records: Iterable[Record]) -> list[str]:
    """Return sentences on the trained methods that have one seed."""
    seeds = _grouped(
        ((record.model, record.data, result.method), seed)
        for record in records
        for result in (*record.results, *record.stability)
        for seed in record.seeds
        if result.method != "manual"
    )
    alike = _grouped(
        ((model, data, used[0]), method)
        for (model, data, method), used in seeds.items()
        if len(set(used)) == 1
    )
    return [
        f"Only one seed ({seed}), so the spread over seeds is unknown, with {escaped(model)} on "
        f"{data}: {', '.join(methods)}."
        for (model, data, seed), methods in alike.items()
    ]


def _grouped(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, list[Any]]:
    groups: dict[Any, list[Any]] = {}
    for key, value in pairs:
        groups.setdefault(key, []).append(value)
    return groups


def _superglue(records: Sequence[Record]) -> dict[str, object]:
    return {
        "chance": _chance,
        "majority_metrics": _majority_metrics,
        "gaps": _superglue_gaps(records),
    }


def _chance(record: Record) -> str:
    """Return which methods' accuracy is within chance, task by task, as a list; '' if unknown.

    Guessing is the majority class or an even choice among the labels, whichever is right more
    often; the margin is 1.96 standard errors of a share of one half over the test examples.
    """
    lines = []
    for task, of in record.content["tasks"].items():
        count, share = of["counts"]["test/examples"], of["majority"].get("accuracy")
        results = [result for result in record.results if result.task == task]
        if share is None or not results:
            continue
        guess = max(share, 1 / len(get_task(task).labels))
        margin = 1.96 * (0.25 / count) ** 0.5
        within = [r.method for r in results if r.metrics["test/accuracy"] <= guess + margin]
        lines.append(
            f"{task}: {_listed(within)} (accuracy of at most {percent(guess)} by guessing, plus "
            f"{percent(margin)} for {count} examples)"
        )
    return bullets(lines)


def _majority_metrics(task: str, values: Row) -> str:
    tested = {f"test/{name}": value for name, value in values.items()}
    return metric_parts(scores_of(tested, "superglue", task, ""))


def _superglue_gaps(records: Sequence[Record]) -> list[str]:
    """Return sentences on what the records do not cover."""
    official = [record for record in records if record.source == "superglue"]
    tasks = {task for record in official for task in record.params["tasks"]}
    methods = {method for record in official for method in record.params["methods"]}
    protocols = {record.params["protocol"] for record in official}
    models = sorted({escaped(record.model) for record in records})
    hardware = [record.content["hardware"] for record in records]
    lines = [
        _missing("Tasks", task_names(), tasks),
        _missing("Methods", get_args(SuperGlueMethod), methods),
        _missing("Protocols", _PROTOCOLS, protocols),
        f"Models run: {_listed(models)}. The paper's Tables 4 and 5 are about BERT, GPT-2 and "
        "ALBERT-xxlarge: none of them was run unless it is named here.",
        f"GPUs used: {_listed(sorted({escaped(h['gpu']) for h in hardware if h['gpu']}))}.",
    ]
    if all(len(result.settings) == 1 for record in official for result in record.results):
        lines.append("No setting was searched: one learning rate, batch and template a method.")
    return lines


def _listed(values: Iterable[object]) -> str:
    return ", ".join(map(str, values)) or "none"
