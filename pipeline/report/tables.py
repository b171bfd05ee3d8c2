"""Tables and sentences as Markdown."""

import re
from collections.abc import Mapping, Sequence

from pipeline.report.paper import RELATIONS
from pipeline.report.results import LamaResults, Row, TaskResults

# Key in a relation's row and, behind `test/`, in a metrics file -> name.
CONTROLS = {"majority": "majority class", "naive_bayes": "naive Bayes"}

_SPLITS = ("train", "dev", "test")


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table; columns of numbers are aligned to the right."""
    rule = ["---:" if all(map(_is_number, cells)) else "---" for cells in zip(*rows, strict=True)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (columns, rule, *rows)) + "\n"


def lama_title(source: str, subset: str, relations: int) -> str:
    """Return a heading that says what facts were asked, and whether of all relations."""
    return f"Knowledge probing: {data_name(source, subset)}, {relation_count(source, relations)}"


def data_name(source: str, subset: str) -> str:
    """Return what the facts are called; only LAMA itself has subsets."""
    return f"`{source}` {subset}" if source == "lama" else f"`{source}`"


def relation_count(source: str, relations: int) -> str:
    """Return a number of relations, with LAMA's number where it is not reached."""
    if source == "lama" and relations != RELATIONS:
        return f"{relations} of {RELATIONS} relations"
    return f"{relations} relation{'' if relations == 1 else 's'}"


def lama_methods(results: LamaResults) -> str:
    """Return the methods with their mean P@1, and the controls beneath."""
    rows = [
        [
            method,
            percent(metrics["test/p_at_1"]),
            percent(metrics["dev/p_at_1"]),
            str(metrics["test/facts"]),
        ]
        for method, metrics in results.methods.items()
    ]
    rows += _control_rows(results.methods, CONTROLS, "test/facts")
    return markdown_table(["method", "test P@1", "dev P@1", "test facts"], rows)


def lama_counts(metrics: Row, splits: Row) -> str:
    """Return sentences on the facts that were asked, and on those that were not.

    Args:
        metrics: a method's metrics file; what is left out is the same for all of one model.
        splits: the metrics file of the splits.
    """
    text = (
        f"Of {metrics['test/facts'] + metrics['test/left_out']} test facts, "
        f"{metrics['test/left_out']} were left out: their object is not one token of this model."
    )
    if "train/overlap" not in splits:
        return text
    outside = ", ".join(f"{splits[f'{split}/outside_vocabulary']} {split}" for split in _SPLITS)
    return (
        f"{text} Removed before: {splits['train/overlap']} train and {splits['dev/overlap']} dev "
        "facts whose subject and object stand in a later split too, and those whose object is "
        f"outside the allowed vocabulary ({outside})."
    )


def lama_relations(methods: Sequence[str], relations: Sequence[Row]) -> str:
    """Return the controls and P@1 of each relation; empty where a method was not asked.

    Args:
        methods: the columns.
        relations: as `join_relations` makes them.
    """
    rows = [
        [
            escaped(f"{row['relation']} {row['label']}"),
            str(row["facts"]),
            str(row["left_out"]),
            *(percent(row[control]) for control in CONTROLS),
            *(percent_or_empty(row.get(method)) for method in methods),
        ]
        for row in relations
    ]
    columns = ["relation", "facts", "left out", *CONTROLS.values(), *methods]
    return markdown_table(columns, rows)


def lama_answers(results: LamaResults) -> str:
    """Return some facts with each method's answer; right answers are bold."""
    methods = list(results.methods)
    rows = [
        [
            row["relation"],
            escaped(row["subject"]),
            escaped(row["object"]),
            *(_marked(row.get(method, ""), row["object"]) for method in methods),
        ]
        for row in results.answers
    ]
    return markdown_table(["relation", "subject", "object", *methods], rows)


def task_methods(results: Sequence[TaskResults]) -> str:
    """Return each task's methods with their score and metrics, and the majority class beneath.

    Of several trainings, scores are the mean and the sample standard deviation.
    """
    rows = []
    for result in results:
        for method, metrics in result.methods.items():
            rows.append(
                [
                    result.task,
                    method,
                    _spread(metrics, "test/score"),
                    _spread(metrics, "dev/score"),
                    score_parts(metrics, "test/"),
                    str(metrics["test/trainings"]),
                    str(metrics["test/examples"]),
                ]
            )
        first = next(iter(result.methods.values()))
        rows.append(
            [
                result.task,
                CONTROLS["majority"],
                percent(first["test/majority"]),
                "",
                score_parts(first, "test/majority_"),
                "",
                str(first["test/examples"]),
            ]
        )
    return markdown_table(
        ["task", "method", "test score", "dev score", "of it", "trainings", "test examples"], rows
    )


def task_trainings(results: Sequence[TaskResults]) -> str:
    """Return each training of the methods that have several; empty where none has."""
    rows = [
        [
            result.task,
            method,
            *(str(own[key]) for key in ("setting", "split", "seed", "best_epoch")),
            percent(own["dev_score"]),
            percent(own["test_score"]),
        ]
        for result in results
        for method, trainings in result.trainings.items()
        if len(trainings) > 1
        for own in trainings
    ]
    columns = ["task", "method", "setting", "split", "seed", "best epoch", "dev score"]
    return markdown_table([*columns, "test score"], rows) if rows else ""


def task_settings_tried(results: Sequence[TaskResults]) -> str:
    """Return each setting of the methods that had several to choose from; empty if none had."""
    rows = [
        [
            result.task,
            method,
            str(own["setting"]),
            escaped(own["tried"]),
            escaped(own["template"]),
            str(own["trainings"]),
            percent_and_std(own["dev_score"], own["dev_score_std"]),
            percent_and_std(own["test_score"], own["test_score_std"]),
            "yes" if own["chosen"] else "",
        ]
        for result in results
        for method, settings in result.settings.items()
        if len(settings) > 1
        for own in settings
    ]
    columns = ["task", "method", "setting", "tried", "template", "trainings"]
    if not rows:
        return ""
    return markdown_table([*columns, "dev score", "test score", "chosen"], rows)


def work_table(work: Mapping[str, Row]) -> str:
    """Return how much was trained.

    Args:
        work: name of a metrics file, without its ending -> what `training_budget` returns.
    """
    rows = [
        [*name.rsplit("/", 1), str(own["trainings"]), str(own["epochs"])]
        for name, own in work.items()
    ]
    return markdown_table(["benchmark", "method", "trainings", "epochs"], rows)


def _spread(metrics: Row, key: str) -> str:
    return percent_and_std(metrics[key], metrics.get(f"{key}_std"))


# Key in a metrics file -> name.
_TASK_METRICS = {"accuracy": "accuracy", "f1": "macro F1", "f1a": "F1a", "em": "EM"}


def score_parts(metrics: Row, prefix: str) -> str:
    """Return the metrics whose mean the score is, from keys behind a prefix such as `test/`."""
    return ", ".join(
        f"{name} {_spread(metrics, prefix + key)}"
        for key, name in _TASK_METRICS.items()
        if prefix + key in metrics
    )


def training_budget(training: Row) -> str:
    """Return in words what a method's section of `params.yaml` tunes, and for how long."""
    search = training.get("search")
    if search is not None:
        if search["prompts"] == "gradient":
            return f"search, {search['iterations']} iterations"
        return f"best of {escaped(search['prompts'])}"
    if not training["tune"]:
        return "none"
    tuned = [f"{part} at {training[part]['learning_rate']:g}" for part in training["tune"]]
    batch_size = training.get("batch_size", training.get("batch"))  # the key of older records
    return f"{', '.join(tuned)}, at most {training['epochs']} epochs, batch {batch_size}"


def _control_rows(
    methods: Mapping[str, Row], controls: Mapping[str, str], count: str
) -> list[list[str]]:
    first = next(iter(methods.values()))
    return [
        [name, percent(first[f"test/{control}"]), "", str(first[count])]
        for control, name in controls.items()
    ]


def _is_number(cell: str) -> bool:
    return not cell or all(part.replace(".", "", 1).isdigit() for part in cell.split(" ± "))


def _marked(answer: str, right: str) -> str:
    return f"**{escaped(answer)}**" if answer == right else escaped(answer)


def escaped(text: str) -> str:
    """Return text that Markdown shows as it is, in one line."""
    return re.sub(r"([\\|*_`~$\[\]<>&])", r"\\\1", " ".join(text.split()))


def percent(share: float) -> str:
    """Return a share in percent."""
    return f"{100 * share:.1f}"


def percent_or_empty(share: float | None) -> str:
    """Return a share in percent, and nothing of nothing."""
    return "" if share is None else percent(share)


def percent_and_std(mean: float | None, std: float | None) -> str:
    """Return a share in percent, with its standard deviation where there is one."""
    return percent_or_empty(mean) + ("" if std is None else f" ± {percent(std)}")
