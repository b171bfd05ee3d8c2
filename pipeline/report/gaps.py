"""What the records do not hold, so that nobody reads more into the results than was run."""

from collections.abc import Collection, Iterable, Sequence

from pipeline.data.geonames.facts import GEONAMES_RELATIONS
from pipeline.data.lama import TEST_FACTS
from pipeline.report.beside import METHODS
from pipeline.report.paper import TABLE_3, paper_name, published_models
from pipeline.report.records import Run
from pipeline.report.tables import escaped

_RELATIONS = {"lama": tuple(TEST_FACTS), "geonames": tuple(GEONAMES_RELATIONS)}


def not_run(runs: Sequence[Run]) -> str:
    """Return a list of the methods, relations, models and seeds that no run covers."""
    probing = [run for run in runs if run.methods]
    lama = [run for run in probing if run.source == "lama"]
    lines = [
        _missing("Methods", METHODS, {method for run in probing for method in run.methods}),
        *_relations(probing),
        *_caps(runs),
        _missing("Subsets of LAMA", TABLE_3, {run.lama["subset"] for run in lama}),
    ]
    for subset in TABLE_3:
        models = {paper_name(run.model) for run in lama if run.lama["subset"] == subset}
        what = f"Models of the paper's Table 3 on {subset}"
        lines.append(_missing(what, published_models(subset), models))
    steady = {method for run in runs for method in run.stability}
    lines += [
        _missing("Methods in stability over templates", METHODS, steady),
        _gpus(runs),
        *_seeds(runs),
    ]
    return "".join(f"- {line}\n" for line in lines)


def _missing(what: str, everything: Iterable[str], done: Collection[str | None]) -> str:
    missing = [name for name in everything if name not in done]
    return f"{what} not run: {', '.join(missing) or 'none'}."


def _relations(runs: Sequence[Run]) -> list[str]:
    """Say of each model and source which relations no run asked, methods alike in one line."""
    asked: dict[tuple[str, str, str], dict[str, set[str]]] = {}
    for run in runs:
        methods = asked.setdefault((run.model, run.source, run.data), {})
        for method, results in run.methods.items():
            found = (row["relation"] for row in results["relations"])
            methods.setdefault(method, set()).update(found)
    lines = []
    for (model, source, data), methods in asked.items():
        alike: dict[tuple[str, ...], list[str]] = {}
        for method, own in methods.items():
            alike.setdefault(tuple(r for r in _RELATIONS[source] if r not in own), []).append(
                method
            )
        lines += [
            f"Relations of {data} not run with {escaped(model)}, {', '.join(names)}: "
            f"{len(missing)} of {len(_RELATIONS[source])} ({', '.join(missing)})."
            for missing, names in alike.items()
            if missing
        ]
    return lines


def _caps(runs: Sequence[Run]) -> list[str]:
    lines = []
    for run in runs:
        sizes = {key.removesuffix("_facts"): size for key, size in run.lama["splits"].items()}
        capped = [f"{size} {split}" for split, size in sizes.items() if size is not None]
        if capped:
            lines.append(f"Facts in {run.name}: at most {', '.join(capped)} of a relation.")
    return lines


def _gpus(runs: Sequence[Run]) -> str:
    gpus = {run.name: run.record["hardware"]["gpu"] for run in runs}
    used = [f"{escaped(gpu)} in {name}" for name, gpu in gpus.items() if gpu]
    return f"A GPU was used: {', '.join(used)}." if used else "No GPU was used in any run."


def _seeds(runs: Sequence[Run]) -> list[str]:
    """Say which trained methods have one seed alone."""
    seeds: dict[tuple[str, str, str], set[int]] = {}
    for run in runs:
        for method in {**run.methods, **run.stability}:
            if method != "manual":
                seeds.setdefault((run.model, run.data, method), set()).add(run.seed)
    alike: dict[tuple[str, str, int], list[str]] = {}
    for (model, data, method), own in seeds.items():
        if len(own) == 1:
            alike.setdefault((model, data, min(own)), []).append(method)
    return [
        f"One seed alone ({seed}), so no spread over seeds is known, with {escaped(model)} on "
        f"{data}: {', '.join(methods)}."
        for (model, data, seed), methods in alike.items()
    ]
