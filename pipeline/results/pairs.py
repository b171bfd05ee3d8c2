"""Two runs, or the runs of two experiments or commits, side by side."""

from collections.abc import Callable, Sequence
from typing import Any

from pipeline.errors import TrackingError
from pipeline.history.executions import RUN_ID, tags_below
from pipeline.history.results import Result, latest
from pipeline.report.scores import CONTROLS, LABELS, percent, scores_of
from pipeline.report.significance import Answers, compare_answers
from pipeline.report.tables import Table
from pipeline.workflow.git import git_text

WORKSPACE = "workspace"
_Row = dict[str, str]


def find_results(target: str, results: Sequence[Result]) -> list[Result]:
    """Return the evaluations that a name refers to, one of each task and method.

    Args:
        target: `workspace` for those of `dvc.lock`; the id of an evaluation's or a training's run,
            or how it begins; the name of an experiment of `dvc exp`; a commit of git.
        results: all evaluations, newest first.

    Raises:
        TrackingError: no evaluation is found, or the digits are those of several runs.
    """
    if target == WORKSPACE:
        found = [result for result in results if result.current]
    else:
        found = _of_run(target, results)
        found = found or [r for r in results if r.tags.get("dvc.experiment") == target]
        found = found or _of_commit(target, results)
    if not found:
        raise TrackingError(
            f"{target}: no evaluation is found. Give the id of a run (`ptune results --all`), the "
            "name of an experiment of dvc, a commit that was run without changes, or workspace"
        )
    return latest(found)


def pair_up(first: Sequence[Result], second: Sequence[Result]) -> list[tuple[Result, Result]]:
    """Pair evaluations of the same task and method; single ones of a task whatever their methods.

    Raises:
        TrackingError: nothing can be paired.
    """
    of = {(result.name, result.method): result for result in second}
    pairs = [(one, of[key]) for one in first if (key := (one.name, one.method)) in of]
    if not pairs and len(first) == len(second) == 1 and first[0].name == second[0].name:
        pairs = [(first[0], second[0])]
    if not pairs:
        have = [", ".join(f"{r.method} {r.name}" for r in side) for side in (first, second)]
        raise TrackingError(f"nothing to compare: {have[0]} and {have[1]} have no task in common")
    return pairs


def pair_tables(
    first: Result, second: Result, answers_of: Callable[[Result], Answers | None]
) -> list[Table]:
    """Return tables of two evaluations: scores with a paired test, settings, and relations.

    `answers_of` returns which test examples an evaluation got right, if its run has them.
    """
    names = [f"{r.method} {r.run_id[:8]}" for r in (first, second)]
    title = f"{first.name}: {names[0]} and {names[1]}"
    settings = _setting_rows(first, second)
    notes = _notes(first, second, answers_of)
    tables = [Table(title, _score_rows(first, second), notes)]
    if settings:
        tables.append(Table("Settings that differ", settings, []))
    else:
        notes.append("Settings, data and model are the same.")
    relations = [
        _row("relation", key.removeprefix("test/p_at_1/"), first.metrics[key], second.metrics[key])
        for key in first.metrics
        if key.startswith("test/p_at_1/") and key in second.metrics
    ]
    return tables + ([Table("Test P@1 by relation", relations, [])] if relations else [])


def setting_differences(first: Result, second: Result) -> dict[str, tuple[str, str]]:
    """Return key of `params.yaml` -> both values, where they differ; `-` is one that is not set."""
    keys = dict.fromkeys([*first.params, *second.params])
    values = {key: (first.params.get(key, "-"), second.params.get(key, "-")) for key in keys}
    return {key: pair for key, pair in values.items() if pair[0] != pair[1]}


def _of_run(target: str, results: Sequence[Result]) -> list[Result]:
    if RUN_ID.fullmatch(target) is None:
        return []
    found = [
        result
        for result in results
        if result.run_id.startswith(target)
        or any(
            path.startswith("models/") and run.startswith(target)
            for path, run in tags_below(result.tags, "made_from.").items()
        )
    ]
    runs = sorted(result.run_id[:10] for result in found if result.run_id.startswith(target))
    if len(runs) > 1:
        raise TrackingError(f"{target}: several runs begin so: {', '.join(runs)}; add more digits")
    return found


def _of_commit(target: str, results: Sequence[Result]) -> list[Result]:
    commit = git_text(
        "rev-parse", "--verify", "--quiet", "--end-of-options", f"{target}^{{commit}}"
    )
    if commit is None:
        return []
    tags = {"mlflow.source.git.commit": commit.strip(), "git.dirty": "false"}
    return [result for result in results if tags.items() <= result.tags.items()]


def _score_rows(first: Result, second: Result) -> list[_Row]:
    numbers = [
        {
            f"{score.split} {LABELS[score.metric]}": score.mean
            for score in scores_of(of.metrics, of.benchmark, of.task, of.method)
            if score.method not in CONTROLS.values()
        }
        for of in (first, second)
    ]
    return [_row("metric", name, numbers[0][name], numbers[1].get(name)) for name in numbers[0]]


def _row(column: str, name: str, first: float | None, second: float | None) -> _Row:
    both = first is not None and second is not None
    difference = f"{100 * (second - first):+.1f}" if both else ""  # type: ignore[operator]
    values = {"first": percent(first), "second": percent(second), "difference": difference}
    return {column: name, **values}


def _setting_rows(first: Result, second: Result) -> list[_Row]:
    rows = [
        {"setting": key, "first": values[0], "second": values[1]}
        for key, values in setting_differences(first, second).items()
    ]
    for part in dict.fromkeys([*first.contents, *second.contents]):
        hashes = [of.contents.get(part, "-")[:10] for of in (first, second)]
        if hashes[0] != hashes[1]:
            rows.append({"setting": f"content of {part}", "first": hashes[0], "second": hashes[1]})
    return rows


def _notes(
    first: Result, second: Result, answers_of: Callable[[Result], Answers | None]
) -> list[str]:
    answers: Any = [answers_of(of) for of in (first, second)]
    if None in answers:
        return [
            "No paired test: the predictions are not in the history (`ptune sync`, older runs)."
        ]
    if "test/accuracy" not in first.metrics and first.task:
        return ["No paired test: the task has no accuracy."]
    found = compare_answers(first.task, dict(zip(("first", "second"), answers, strict=True)))
    if not found:
        return ["No paired test: they were scored on other examples."]
    cells = found[0].cells
    return [
        f"Second minus first, on the test examples: {cells['difference']} points, 95 % interval "
        f"{cells['95 % interval']}, p = {cells['p']} ({cells['test']}).".replace("= <", "<")
    ]
