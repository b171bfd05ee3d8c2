"""The cases of `benchmarks.bad_inputs`: a bad input, the command that reads it, what must come."""

import io
import itertools
import json
import math
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML

Prepare = Callable[[Path], object]
Expected = Literal["refused", "accepted", "either"]


@dataclass(frozen=True)
class Case:
    """A bad input.

    Attributes:
        command: run in the project's root.
        prepare: changes the project first.
        expected: what must come; `either` may be accepted, but not end badly.
        says: texts, separated by `|`, that the message (or, if accepted, the output) must contain.
        environment: variables of the command.
        within: holds while all of it runs, such as a small disk.
    """

    kind: str
    name: str
    command: tuple[str, ...]
    prepare: Prepare | None = None
    expected: Expected = "refused"
    says: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    within: Callable[[Path], AbstractContextManager[None]] | None = None


def all_cases(project: Path) -> list[Case]:
    """All cases for a project that was run once, kind by kind."""
    groups = [
        _params(project), _yaml(), _dvc(), _work(project), _models(), _data(), _raw(), _trained(),
        _predict(), _tables(), _archives(), _downloads(), _history(), _commands(), _injection(),
    ]  # fmt: skip
    if os.geteuid() == 0:
        groups += [_permissions(), _full_disks()]
    return list(itertools.chain.from_iterable(groups))


# A new process: what `make setup` installs runs before dvc.
_DVC = str(Path(sys.executable).with_name("dvc"))
_PTUNE = str(Path(sys.executable).with_name("ptune"))  # with its own encoding of output
_VALIDATE = ("python", "-m", "stages.validate", "--out", "data/params.valid2")
_MODEL = ("--model", "data/model")
_LAMA = (*_MODEL, "--splits", "data/splits/lama")
_RTE = (*_MODEL, "--splits", "data/splits/superglue/rte")
_NEW = ("--out", "models/new", "--curves", "curves/new.csv")
_TRAIN = ("python", "-m", "stages.train", "lama", "manual", *_LAMA, *_NEW)
_TRAIN_RTE = ("python", "-m", "stages.train", "superglue", "rte", "p-tuning", *_RTE, *_NEW)
_DOWNLOAD = ("python", "-m", "stages.download", "lama", "--out", "data/raw/new")
_DOWNLOAD_MODEL = ("python", "-m", "stages.download", "model", "--out", "data/new")
_SPLITS = (
    "python", "-m", "stages.splits", "lama", "--raw", "data/raw/lama", "--out", "data/splits/new",
    "--metrics", "metrics/splits/new.json",
)  # fmt: skip
_PREDICT = ("ptune", "predict", "lama", "P17", "Lyon")
_PREDICT_RTE = ("ptune", "predict", "rte", "--premise", "Lyon is", "--hypothesis", "Oslo is")
_REPORT = (
    "python", "-m", "stages.report", "build", "--metrics", "metrics", "--curves", "curves",
    "--evaluation", "evaluation", "--out", "report2",
)  # fmt: skip


def _evaluate(benchmark: str, folder: str, *splits: str) -> tuple[str, ...]:
    return (
        "python", "-m", "stages.evaluate", *benchmark.split(), "p-tuning", *splits,
        "--trained", f"models/{folder}", "--out", "evaluation/new", "--metrics", "metrics/new.json",
    )  # fmt: skip


_EVALUATE = _evaluate("lama", "lama/p-tuning", *_LAMA)
_EVALUATE_RTE = _evaluate("superglue rte", "superglue/rte/p-tuning", *_RTE)
# As dvc runs them, so that they resume; name of the stage -> command.
RESUMED = {
    "train-lama@p-tuning": (
        "python", "-m", "stages.train", "lama", "p-tuning", *_LAMA, "--out", "models/lama/p-tuning",
        "--curves", "curves/lama/p-tuning.csv",
    ),
    "train-superglue@rte-p-tuning": (
        "python", "-m", "stages.train", "superglue", "rte", "p-tuning", *_RTE, "--out",
        "models/superglue/rte/p-tuning", "--curves", "curves/superglue/rte/p-tuning.csv",
    ),
}  # fmt: skip


# Values in params.yaml

# For any key; each key gets some of them.
_VALUES = (
    None, "", "nonsense", -1, 0.5, 10**30, [], {"a": 1}, True, math.inf, math.nan, ["a", "a"],
    "x" * 300, "{mask", "\x1b[31m", 0, "../..", {1: 2}, [[]], -math.inf, 1e-320, "\ud83d\ude00 é",
)  # fmt: skip
_VALUES_PER_KEY = 2
_LONG = "xxxxxxxxxx" * 400
_NO_MATCH = "{premise} {hypothesis} {mask}"
_PROMPT = "superglue.prompts.rte"
_LEARNING = "superglue.training.defaults.model"
# Key, value, what must come, what the message must say.
_CHOSEN: list[tuple[str, Any, str, str]] = [
    ("model.name", _LONG, "refused", "model.name"),
    ("model.name", "/proc/self/mem", "refused", "model.name"),
    ("model.start", "[P]", "either", ""),
    ("data.mirror", "", "refused", "data.mirror"),
    ("data.mirror", "params.yaml", "refused", "data.mirror"),
    ("data.mirror", "~nobody-of-this-name/x", "refused", "data.mirror"),
    ("lama.templates", {"P17": "[X] is in [Y] ."}, "accepted", ""),
    ("lama.templates", {"P17": "[Y] is in [Y] ."}, "refused", "lama.templates.P17"),
    ("lama.templates", {"P17": "[X] and [X] [Y] ."}, "accepted", ""),
    ("lama.templates", {"P17": "no slot"}, "refused", "lama.templates.P17"),
    ("lama.templates", {"P999": "[X] is in [Y] ."}, "refused", "P999"),
    ("lama.prompts.p-tuning", f"[P*{'9' * 56}] {{subject}} {{mask}}", "refused", "[P*999"),
    ("lama.prompts.p-tuning", f"[P*{'9' * 5000}] {{subject}} {{mask}}", "refused", "p-tuning"),
    ("lama.prompts.p-tuning", "[P*99999999] {subject} {mask}", "refused", "[P*99999999]"),
    ("lama.prompts.p-tuning", "[P] [X] is in [Y]", "refused", "lama.prompts.p-tuning|{subject}"),
    ("lama.prompts.manual", "[X] is in [Y]", "refused", "lama.prompts.manual|{subject}"),
    ("lama.relations", ["P17", "P17"], "refused", "lama.relations"),
    ("lama.relations", "P17", "refused", "lama.relations"),
    ("lama.methods", "manual", "refused", "lama.methods"),
    ("lama.seeds", list(range(20_000)), "refused", "lama.seeds"),
    ("superglue.seeds", list(range(20_000)), "refused", "superglue.seeds"),
    ("superglue.seeds", [10**30], "refused", "superglue.seeds"),
    ("superglue.seeds", [2**63], "refused", "superglue.seeds"),
    ("seed", 10**30, "refused", "seed"),
    ("seed", 2**64, "refused", "seed"),
    ("lama.training.p-tuning.epochs", 10**12, "refused", "lama.training.p-tuning.epochs"),
    ("superglue.training.p-tuning.epochs", 10**12, "refused", "superglue.training.p-tuning.epochs"),
    ("superglue.training.defaults.patience", 10**30, "refused", "patience"),
    ("superglue.training.defaults.batch_size", 10**30, "refused", "batch_size"),
    (f"{_LEARNING}.max_grad_norm", math.inf, "refused", "max_grad_norm"),
    (f"{_LEARNING}.max_grad_norm", math.nan, "refused", "max_grad_norm"),
    (f"{_LEARNING}.learning_rate", math.nan, "refused", "learning_rate"),
    (f"{_LEARNING}.learning_rate", 5e-324, "either", "learning_rate"),
    (f"{_LEARNING}.gradient_accumulation_steps", 10**6, "refused", "gradient_accumulation_steps"),
    ("superglue.grid.p-tuning", {"epochs": [0]}, "refused", "superglue.grid.p-tuning.epochs"),
    ("superglue.grid.p-tuning", {"epochs": ["3"]}, "refused", "superglue.grid.p-tuning.epochs"),
    ("superglue.grid.p-tuning", {"epochs": [10**12]}, "refused", "superglue.grid.p-tuning.epochs"),
    ("superglue.grid.p-tuning", {"nonsense": [1]}, "refused", "superglue.grid.p-tuning.nonsense"),
    ("superglue.grid.p-tuning", {"max_length": [10**9]}, "refused", "max_length"),
    ("superglue.grid.p-tuning", {"epochs": [1, 1]}, "refused", "superglue.grid.p-tuning.epochs"),
    ("superglue.grid.p-tuning", {"verbalizer": ["yes-no", "true-false"]}, "accepted", ""),
    ("superglue.grid.p-tuning", {"epochs": list(range(1, 10**5))}, "refused", "superglue.grid"),
    (
        "superglue.grid.p-tuning",
        {f"prompt.{key}": [x / 1000 for x in range(1, 216)]
         for key in ("learning_rate", "weight_decay", "warmup_ratio")},
        "refused", "settings",
    ),
    (
        "superglue.overrides.rte",
        {"p-tuning": {"template": {"insert_into": "pet-1", "tokens": [10**9]}}},
        "refused", "superglue.overrides.rte.p-tuning.template",
    ),
    (
        "superglue.overrides.rte",
        {"p-tuning": {"template": {"insert_into": "pet-1", "tokens": list(range(1, 10**5))}}},
        "refused", "superglue.overrides.rte.p-tuning.template",
    ),
    ("superglue.overrides.rte", {"p-tuning": 3}, "refused", "superglue.overrides.rte.p-tuning"),
    (f"{_PROMPT}.verbalizer", {"entailment": "yes", "not_entailment": "yes"}, "refused", "yes"),
    (f"{_PROMPT}.verbalizer", {"entailment": "yes", "not_entailment": " yes"}, "refused", "yes"),
    (f"{_PROMPT}.verbalizer", {"entailment": "", "not_entailment": "no"}, "refused", "verbalizer"),
    (f"{_PROMPT}.verbalizer", {"entailment": "yes"}, "refused", "not_entailment"),
    (f"{_PROMPT}.verbalizer", {"entailment": " ", "not_entailment": "no"}, "refused", "verbalizer"),
    (f"{_PROMPT}.max_length", 10**12, "refused", "max_length"),
    (f"{_PROMPT}.max_length", 7, "refused", "max_length"),
    (f"{_PROMPT}.templates.p-tuning", _NO_MATCH, "refused", "[P]"),
    (f"{_PROMPT}.templates.p-tuning", "[P] {premise} [X] {mask}", "either", ""),
    (f"{_PROMPT}.templates.manual", "[X] [Y]", "refused", "templates.manual"),
    (f"{_PROMPT}.templates.p-tuning", "[P*0] {premise} {mask}", "refused", "[P*0]"),
    (f"{_PROMPT}.templates.p-tuning", "[P] {nothing} {mask}", "refused", "{nothing}"),
    (f"{_PROMPT}.templates.p-tuning", "[P] {premise", "refused", "templates.p-tuning"),
    (f"{_PROMPT}.templates.p-tuning", "[P] {premise} {mask} " * 3000, "refused", "p-tuning"),
    ("superglue.splits.train_examples", 10**30, "either", "train_examples"),
    ("superglue.splits.count", 10**9, "refused", "superglue.splits.count"),
    ("report.title", "![x](http://127.0.0.1:9/x.png) <img src=http://127.0.0.1:9/>", "either", ""),
    ("report.facts_shown", 10**12, "either", "facts_shown"),
    ("runtime.threads", 10**6, "refused", "runtime.threads"),
    ("runtime.threads", 0, "refused", "runtime.threads"),
    ("runtime.device", "cuda:99999999999999999999", "refused", "runtime.device"),
    ("runtime.device", "cuda:٣", "refused", "runtime.device"),
    ("runtime.checkpoint_seconds", math.inf, "refused", "checkpoint_seconds"),
    ("runtime.max_tokens_per_forward", "many", "refused", "max_tokens_per_forward"),
    ("lama.splits.train_facts", "all", "refused", "lama.splits.train_facts"),
    ("lama.stability.templates", 5, "refused", "lama.stability.templates"),
    ("tasks", {"../x": {}}, "refused", "tasks"),
    ("tasks", {"rte": {}}, "refused", "tasks.rte"),
    ("tasks", {"reviews": None}, "refused", "tasks.reviews"),
]  # fmt: skip


def _params(project: Path) -> Iterator[Case]:
    values = YAML(typ="safe", pure=True).load(project / "params.yaml")
    numbers = itertools.count()
    for place in _leaves(values):
        for _ in range(_VALUES_PER_KEY):
            value = _VALUES[next(numbers) % len(_VALUES)]
            name = f"{'.'.join(place)}: {value!r:.60}"
            yield Case(
                "params", name, _VALIDATE, partial(_set, place=place, value=value), "either",
                place[-1],
            )  # fmt: skip
    for dotted, value, expected, says in _CHOSEN:
        change = partial(_set, place=tuple(dotted.split(".")), value=value)
        name = f"{dotted}: {value!r:.60}"
        yield Case("params", name, _VALIDATE, change, expected, says)  # type: ignore[arg-type]
    for section in ("lama", "superglue", "model", "data", "runtime", "report", "tasks", "seed"):
        yield Case(
            "params", f"no {section}", _VALIDATE, partial(_remove, key=section), says=section
        )
    command = (*_TRAIN[:3], "lama", "manual", *_TRAIN[5:])
    for device in ("cuda:99999999999999999999", "cuda:7", "mps"):
        change = partial(_set, place=("runtime", "device"), value=device)
        yield Case("params", f"train on {device}", command, change, says="runtime.device")
    for threads in (10**6, 10**30):
        change = partial(_set, place=("runtime", "threads"), value=threads)
        yield Case("params", f"train with {threads} threads", command, change, says="threads")
    yield Case(
        "params", "a subject twice", _TRAIN,
        partial(_replace, file="data/splits/lama/relations.jsonl", old="[X]", new="[X], [X]"),
        "accepted",
    )  # fmt: skip
    yield Case(
        "params", "template without a fit", _TRAIN,
        partial(_replace, file="data/splits/lama/relations.jsonl", old="[Y]", new=""), says="P17",
    )  # fmt: skip


def _leaves(values: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    if isinstance(values, dict) and values and path[-1:] != ("templates",):
        for key, value in values.items():
            if "prompts" not in path or key in ("rte", "lama") or path[0] == "lama" or path[2:]:
                yield from _leaves(value, (*path, key))
    else:
        yield path


def _set(root: Path, *, place: tuple[str, ...], value: Any) -> None:
    values = YAML(typ="safe", pure=True).load(root / "params.yaml")
    section = values
    for name in place[:-1]:
        section = section.setdefault(name, {})
    section[place[-1]] = value
    # JSON is YAML but for these two.
    text = json.dumps(values).replace("Infinity", ".inf").replace("NaN", ".nan")
    (root / "params.yaml").write_text(text)


def _remove(root: Path, *, key: str) -> None:
    values = YAML(typ="safe", pure=True).load(root / "params.yaml")
    del values[key]
    (root / "params.yaml").write_text(json.dumps(values))


def _replace(root: Path, *, file: str, old: str, new: str) -> None:
    path = root / file
    text = path.read_text()
    assert old in text, (file, old)
    path.write_text(text.replace(old, new))


# Files that are no params.yaml

_LAUGHS = "\n".join(
    ["a0: &a0 [x,x,x,x,x,x,x,x,x]"]
    + [f"a{n}: &a{n} [{','.join(9 * [f'*a{n - 1}'])}]" for n in range(1, 10)]
)
_FILES: dict[str, bytes] = {
    "empty": b"",
    "only a comment": b"# nothing\n",
    "a list": b"- 1\n- 2\n",
    "a number": b"5\n",
    "text": b"hello\n",
    "NULs": bytes(5000),
    "binary": bytes(range(256)) * 20,
    "UTF-16": "seed: 1\n".encode("utf-16"),
    "Latin-1": "seed: é\n".encode("latin-1"),
    "a tab": b"model:\n\tname: x\n",
    "unclosed": b"model: {name: x\n",
    "two documents": b"seed: 1\n---\nseed: 2\n",
    "a tag": b"seed: !!python/object/apply:os.system [id]\n",
    "an unknown alias": b"seed: *nothing\n",
    "deep nesting []": b"seed: " + b"[" * 10_000 + b"]" * 10_000,
    "deep nesting {}": b"seed: " + b"{a: " * 10_000 + b"1" + b"}" * 10_000,
    "deep nesting by lines": b"".join(b" " * n + b"a:\n" for n in range(5_000)),
    "an integer of 5,000 digits": b"seed: " + b"9" * 5_000 + b"\n",
    "billion laughs": _LAUGHS.encode(),
    "an alias of itself": b"&a [*a]\n",
    "20 MB": b"# " + b"x" * 78 + b"\n" + b"a: [" + b"1, " * 7_000_000 + b"1]\n",
}
_ENDS: dict[str, tuple[bytes, str]] = {
    "an octal number": (b"\nseed: 0o777777777777777777777777\n", "seed"),
    "a key twice": (b"\nseed: 34\n", "seed"),
    "a date": (b"\nseed: 2026-01-01\n", "seed"),
    "a merge": (b"\n<<: *x\n", "YAML"),
}


def _yaml() -> Iterator[Case]:
    for name, content in _FILES.items():
        yield Case("yaml", name, _VALIDATE, partial(_write, file="params.yaml", content=content),
                   says="params.yaml")  # fmt: skip
    for name, (end, says) in _ENDS.items():
        yield Case("yaml", name, _VALIDATE, partial(_end_with, end=end), says=says)
    # All three are YAML: line ends of old files, and decimal numbers in version 1.2.
    yield Case("yaml", "CR only", _VALIDATE, partial(_line_ends, ends=b"\r"), "accepted")
    yield Case("yaml", "leading zeros", _VALIDATE, partial(_end_with, end=b"\nseed: 0034\n"),
               "accepted")  # fmt: skip
    yield Case("yaml", "CR LF", _VALIDATE, partial(_line_ends, ends=b"\r\n"), "accepted")
    for name, make in {
        "missing": _nothing,
        "a folder": lambda path: path.mkdir(),
        "a FIFO": os.mkfifo,
        "a dangling link": lambda path: path.symlink_to("nowhere"),
        "a link to itself": lambda path: path.symlink_to("params.yaml"),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
    }.items():
        for command in (_VALIDATE, ("ptune", "doctor")):
            yield Case("yaml", f"{name}: {command[1]}", command,
                       partial(_in_place, file="params.yaml", make=make), says="params.yaml",
                       )  # fmt: skip
    for name in ("billion laughs", "deep nesting []", "deep nesting {}", "an alias of itself"):
        prepare = partial(_write, file="presets/bad.yaml", content=_FILES[name])
        yield Case("yaml", f"preset: {name}", ("ptune", "preset", "apply", "bad"), prepare,
                   says="bad.yaml")  # fmt: skip
    for value in ("9" * 5_000, "[" * 10_000, "*a", "{", "", "!!binary x", "&a [*a]"):
        yield Case("yaml", f"--set seed={value[:20]}",
                   ("ptune", "preset", "apply", "some", "--set", f"seed={value}"),
                   partial(_write, file="presets/some.yaml", content=b"seed: 35\n"),
                   says="seed")  # fmt: skip


def _write(root: Path, *, file: str, content: bytes) -> None:
    path = root / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def _end_with(root: Path, *, end: bytes) -> None:
    path = root / "params.yaml"
    lines = [line for line in path.read_bytes().split(b"\n") if not line.startswith(b"seed:")]
    twice = [b"seed: 34"] if end == b"\nseed: 34\n" else []
    path.write_bytes(b"\n".join(lines + twice) + end)


def _line_ends(root: Path, *, ends: bytes) -> None:
    path = root / "params.yaml"
    path.write_bytes(path.read_bytes().replace(b"\n", ends))


def _in_place(root: Path, *, file: str, make: Callable[[Path], object]) -> None:
    """Have something else where a file or folder is."""
    path = root / file
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    make(path)


def _nothing(_: Path) -> None:
    pass


_AS_FOLDER: Callable[[Path], object] = Path.mkdir


def _as_file(path: Path) -> None:
    path.write_text("no folder")


# params.yaml as DVC reads it, before any stage runs


def _dvc() -> Iterator[Case]:
    wrong: dict[str, Prepare] = {
        "empty": partial(_write, file="params.yaml", content=b""),
        "a list": partial(_write, file="params.yaml", content=b"- 1\n"),
        "not YAML": partial(_write, file="params.yaml", content=b"a: [\n"),
        "missing": partial(_in_place, file="params.yaml", make=_nothing),
        "billion laughs": partial(_write, file="params.yaml", content=_FILES["billion laughs"]),
        "deep nesting": partial(_write, file="params.yaml", content=_FILES["deep nesting []"]),
        "no lama": partial(_remove, key="lama"),
        "no superglue": partial(_remove, key="superglue"),
        "no tasks": partial(_remove, key="tasks"),
    }
    for dotted, value in (
        ("lama.methods", "manual"), ("lama.methods", None), ("lama.methods", {"manual": 1}),
        ("lama.methods", ["nonsense"]), ("superglue.tasks", [["rte"]]), ("superglue.tasks", "rte"),
        ("superglue.tasks", ["nonsense"]), ("superglue.methods", None), ("lama.seeds", "x"),
        ("lama.stability.methods", 3), ("tasks", None), ("tasks", []), ("lama", None),
        ("superglue", []), ("lama.training", None), ("lama.prompts", None), ("model", None),
    ):  # fmt: skip
        place = tuple(dotted.split("."))
        wrong[f"{dotted}: {value!r}"] = partial(_set, place=place, value=value)
    for name, prepare in wrong.items():
        for command in ((_DVC, "repro"), ("ptune", "repro")):
            yield Case(
                "dvc",
                f"{Path(command[0]).name}: {name}",
                command,
                prepare,
                says="error: params.yaml",
            )


# Progress that a killed stage left


def _pickle() -> bytes:
    return b"cos\nsystem\n(S'touch data/attacked'\ntR."


_DAMAGE: dict[str, bytes | None] = {
    "empty": b"",
    "NULs": bytes(3000),
    "garbage": b"no such thing \xff\xfe" * 100,
    "a list": b"[1, 2]",
    "another object": b'{"a": 1}',
    "a pickle": _pickle(),
    "cut": None,
}


def _damage(root: Path, *, file: str, content: bytes | None) -> None:
    path = root / file
    old = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(old[: len(old) // 2] if content is None else content)


def _work(project: Path) -> Iterator[Case]:
    work = project / ".work"
    files = [path for path in sorted(work.rglob("*")) if path.is_file()]
    names = [path.relative_to(project).as_posix() for path in files if path.suffix != ".lock"]
    commands = [(command, {"DVC_STAGE": stage}) for stage, command in RESUMED.items()]
    for file in names:
        for damage, content in _DAMAGE.items():
            for command, environment in commands:
                yield Case("work", f"{file[:14]}...{file[-30:]} {damage}", command,
                           partial(_damage, file=file, content=content), "accepted", "",
                           environment)  # fmt: skip
        yield Case("work", f"{file[-30:]} a folder", commands[0][0],
                   partial(_in_place, file=file, make=_AS_FOLDER), "accepted", "", commands[0][1],
                   )  # fmt: skip
    folders = [".work", ".work/units", ".work/unsent"]
    folders += [p.relative_to(project).as_posix() for p in sorted(work.glob(64 * "[0-9a-f]"))]

    def stage_of(folder: str) -> str:
        run_id = (project / folder / "run_id.txt").read_text()
        query = f"select value from tags where key='dvc.stage' and run_uuid='{run_id}'"
        with closing(sqlite3.connect(project / "mlflow.db")) as store:
            return str(store.execute(query).fetchone()[0])

    for folder in folders:
        for command, environment in commands:
            # A folder of another stage is not read.
            read = folder in folders[:3] or stage_of(folder) == environment["DVC_STAGE"]
            expected: Any = "refused" if read else "accepted"
            yield Case("work", f"{folder[:20]} a file", command,
                       partial(_in_place, file=folder, make=_as_file), expected,
                       folder if read else "", environment)  # fmt: skip


# Folders of models


def _config(root: Path, **values: Any) -> None:
    path = root / "data/model/config.json"
    config = json.loads(path.read_text())
    path.unlink()
    path.write_text(json.dumps({**config, **values}))


def _tokenizer(root: Path, *, change: Callable[[dict[str, Any]], object]) -> None:
    path = root / "data/model/tokenizer.json"
    values = json.loads(path.read_text())
    change(values)
    path.unlink()
    path.write_text(json.dumps(values))


_CONFIGS: dict[str, dict[str, Any]] = {
    "GPTQ": {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 128}},
    "AWQ": {"quantization_config": {"quant_method": "awq", "bits": 4, "version": "gemm"}},
    "bitsandbytes": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}},
    "an unknown quantization": {"quantization_config": {"quant_method": "nothing"}},
    "quantization a number": {"quantization_config": 5},
    "architectures of numbers": {"architectures": [1, 2]},
    "architectures a number": {"architectures": 1},
    "no architectures": {"architectures": None},
    "an encoder-decoder": {"architectures": ["T5ForConditionalGeneration"], "model_type": "t5"},
    "a classifier": {"architectures": ["GPT2ForSequenceClassification"]},
    "n_embd text": {"n_embd": "many"},
    "n_embd 0": {"n_embd": 0},
    "n_embd negative": {"n_embd": -4},
    "n_head 5": {"n_head": 5},
    "n_layer 10^6": {"n_layer": 10**6},
    "n_layer text": {"n_layer": "2"},
    "n_layer null": {"n_layer": None},
    "vocab_size 10^12": {"vocab_size": 10**12},
    "vocab_size text": {"vocab_size": "161"},
    "vocab_size smaller": {"vocab_size": 10},
    "n_positions 10^12": {"n_positions": 10**12},
    "an unknown dtype": {"dtype": "foo", "torch_dtype": "foo"},
    "dtype a number": {"dtype": 7},
    "an unknown model_type": {"model_type": "brandnew9"},
    "model_type a list": {"model_type": []},
    "its own code": {
        "model_type": "brandnew9", "auto_map": {"AutoConfig": "c.C", "AutoModelForCausalLM": "m.M"}
    },
    "an unknown activation": {"activation_function": "nothing"},
}  # fmt: skip
_TOKENIZERS: dict[str, Callable[[dict[str, Any]], object]] = {
    "a model of a newer version": lambda v: v["model"].update(type="Future"),
    "a pre-tokenizer of a newer version": lambda v: v.update(pre_tokenizer={"type": "Future"}),
    "no model": lambda v: v.pop("model"),
    "an empty vocabulary": lambda v: v["model"].update(vocab={}, merges=[]),
    "negative ids": lambda v: v["model"]["vocab"].update(Paris=-3),
    "huge ids": lambda v: v["model"]["vocab"].update(Paris=10**15),
}
_MODEL_FILES = ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json")
_JSON: dict[str, bytes] = {
    "empty": b"",
    "NULs": bytes(2000),
    "a list": b"[]",
    "a number": b"7",
    "binary": b"\xff\xfe\x00" * 300,
    "deep nesting": b"[" * 100_000,
    "a big integer": b'{"a": ' + b"9" * 5_000 + b"}",
    "null": b"null",
}


def _models() -> Iterator[Case]:
    bad: dict[str, Prepare] = {
        name: partial(_config, **values) for name, values in _CONFIGS.items()
    }
    bad |= {f"tokenizer: {n}": partial(_tokenizer, change=c) for n, c in _TOKENIZERS.items()}
    for file in _MODEL_FILES:
        path = f"data/model/{file}"
        for name, content in _JSON.items():
            if (file, name) != ("tokenizer_config.json", "a big integer"):
                bad[f"{file} {name}"] = partial(_write, file=path, content=content)
        bad[f"{file} cut"] = partial(_damage, file=path, content=None)
        if file != "tokenizer_config.json":
            bad[f"{file} missing"] = partial(_in_place, file=path, make=_nothing)
        bad[f"{file} a folder"] = partial(_in_place, file=path, make=_AS_FOLDER)
    bad["only a pickle"] = _only_pickle
    for name, prepare in bad.items():
        expected: Any = "either" if name in _MAY_LOAD else "refused"
        yield Case("model", f"train: {name}", _TRAIN, prepare, expected, "data/model")
        yield Case("model", f"download: {name}", _DOWNLOAD_MODEL,
                   partial(_as_source, change=prepare), expected, "source-model")  # fmt: skip
    for name in ("GPTQ", "an unknown dtype", "n_layer 10^6", "config.json a list", "only a pickle"):
        yield Case("model", f"doctor: {name}", ("ptune", "doctor"), bad[name], says="data/model")


# transformers takes the defaults of what these files lack, or ignores them, and the model works.
_MAY_LOAD = {
    "vocab_size smaller", "dtype a number", "an unknown dtype", "tokenizer_config.json empty",
    "tokenizer_config.json a list", "tokenizer_config.json null", "tokenizer_config.json a number",
    "n_head 5", "tokenizer: huge ids", "tokenizer_config.json a folder",
}  # fmt: skip


def _as_source(root: Path, *, change: Prepare) -> None:
    """Have the changed model folder as `model.name`."""
    change(root)
    (root / "data/model").rename(root / "source-model")
    _set(root, place=("model", "name"), value="source-model")


def _only_pickle(root: Path) -> None:
    (root / "data/model/model.safetensors").unlink()
    (root / "data/model/pytorch_model.bin").write_bytes(_pickle())


# Files that stages read


def _data() -> Iterator[Case]:
    for file in (
        "P17/train.jsonl", "P17/dev.jsonl", "relations.jsonl", "vocabulary.txt", "prompts.json",
    ):  # fmt: skip
        for name, content in _JSON.items():
            path = f"data/splits/lama/{file}"
            says = path
            if (file.startswith("P17/") and name == "empty") or (
                file == "vocabulary.txt" and name not in ("empty", "binary")
            ):
                says = "P17"  # what is no word of the model is left out: the relation has none
            expected: Any = "refused"
            if (file, name) == ("relations.jsonl", "empty"):
                expected, says = "accepted", ""  # without relations, no prompt is trained
            yield Case("data", f"{path} {name}", _TRAIN,
                       partial(_write, file=path, content=content), expected, says)  # fmt: skip
    for name in ("missing", "a folder"):
        make = _nothing if name == "missing" else _AS_FOLDER
        for file in ("P17/train.jsonl", "relations.jsonl", "vocabulary.txt"):
            path = f"data/splits/lama/{file}"
            yield Case("data", f"{path} {name}", _TRAIN, partial(_in_place, file=path, make=make),
                       says=path)  # fmt: skip
    rows = {
        "no label": b'{"premise": "a", "hypothesis": "b", "idx": 1}\n',
        "another label": b'{"premise": "a", "hypothesis": "b", "idx": 1, "label": "maybe"}\n',
        "a number for a text": b'{"premise": 1, "hypothesis": "b", "idx": 1, "label": "no"}\n',
        "half a character": b'{"premise": "\\ud800", "hypothesis": "b", "idx": 1}\n',
        "a list": b"[1]\n",
    }
    for name, row in rows.items():
        path = "data/splits/superglue/rte/1/train.jsonl"
        yield Case("data", f"{path} {name}", _TRAIN_RTE, partial(_write, file=path, content=row),
                   says="rte")  # fmt: skip
    for name, content in _JSON.items():
        for path in ("metrics/lama/p-tuning.json", "evaluation/lama/p-tuning/trials.csv"):
            yield Case("data", f"{path} {name}", _REPORT,
                       partial(_write, file=path, content=content), "either", path)  # fmt: skip


def _raw() -> Iterator[Case]:
    for file in ("cities15000.json", "countries.json", "us_states.json"):
        for name, content in {**_JSON, "an object of numbers": b'{"a": 1}'}.items():
            path = f"data/raw/lama/{file}"
            yield Case("raw", f"{path} {name}", _SPLITS,
                       partial(_write, file=path, content=content), says=file)  # fmt: skip
    yield Case("raw", "cities without a name", _SPLITS, partial(
        _write, file="data/raw/lama/cities15000.json",
        content=b'{"1": {"geonameid": 1, "countrycode": "FR", "population": 5}}'),
        says="cities15000.json")  # fmt: skip
    for file in ("relations.jsonl", "P17/test.jsonl", "29k-vocab.json", "SHA256SUMS"):
        for name, content in {
            **_JSON, "relation a number": b'{"relation": 5, "template": 7, "label": 1}\n'
        }.items():  # fmt: skip
            expected: Any = "either" if (file, name) == ("SHA256SUMS", "empty") else "refused"
            yield Case("raw", f"mirror: {file} {name}", _DOWNLOAD,
                       partial(_mirrored, file=file, content=content), expected, file)  # fmt: skip


def _mirrored(root: Path, *, file: str, content: bytes) -> None:
    """Copy the mirror, with another file, and have LAMA fetched from it."""
    old = YAML(typ="safe", pure=True).load(root / "params.yaml")["data"]["mirror"]
    shutil.copytree(old, root / "mirror")
    place = root / "mirror" / (file if file == "SHA256SUMS" else f"lama/{file}")
    place.write_bytes(content)
    _set(root, place=("data", "mirror"), value="mirror")
    _set(root, place=("lama", "source"), value="lama")


# What was trained


def _entry(root: Path, **values: Any) -> None:
    path = root / "models/lama/p-tuning/prompts.json"
    record = json.loads(path.read_text())
    for entry in record["prompts"].values():
        entry.update(values)
    path.unlink()
    path.write_text(json.dumps(record))


def _trained() -> Iterator[Case]:
    file = "models/lama/p-tuning/prompts.json"
    shapes = {
        **_JSON, "no prompts": b'{"method": "p-tuning"}', "prompts a list": b'{"prompts": []}',
        "prompts a number": b'{"prompts": 5}', "an entry a list": b'{"prompts": {"P17": []}}',
        "an entry empty": b'{"prompts": {"P17/setting-1": {}}}',
        "vectors a number": b'{"vectors": 5, "prompts": {}}',
    }  # fmt: skip
    changes: dict[str, Prepare] = {
        f"prompts.json {name}": partial(_write, file=file, content=content)
        for name, content in shapes.items()
    }
    entries: dict[str, dict[str, Any]] = {
        "an unknown key": {"nothing": 1}, "dev_score text": {"dev_score": "high"},
        "dev_score null": {"dev_score": None}, "prompt_tokens text": {"prompt_tokens": "9"},
        "template a number": {"template": 5}, "template bad": {"template": "{nothing} {mask}"},
        "max_length text": {"max_length": "8"}, "verbalizer a list": {"verbalizer": [1]},
        "weights outside": {"weights": {"file": "../../../params.yaml", "sha256": "0" * 64}},
        "weights a number": {"weights": 3},
    }  # fmt: skip
    changes |= {name: partial(_entry, **values) for name, values in entries.items()}
    for name, prepare in changes.items():
        says = "template" if name == "template bad" else "models/lama/p-tuning/prompts."
        for command in (_PREDICT, _EVALUATE):
            yield Case("trained", f"{name}: {command[1][:14]}", command, prepare, says=says)
    # What must be named; `promote` compares the folder with dvc.lock first.
    commands = {
        _PREDICT_RTE: "", _EVALUATE_RTE: "",
        ("ptune", "promote", "rte"): "models/superglue/rte/p-tuning: differs from dvc.lock",
    }  # fmt: skip
    for file in ("prompts.safetensors", "weights/rte-setting-1-split-1-seed-34.safetensors"):
        path = f"models/superglue/rte/p-tuning/{file}"
        for name, content in {"empty": b"", "garbage": b"x" * 999, "cut": None}.items():
            for command, says in commands.items():
                yield Case("trained", f"{path} {name}: {command[1][:14]}", command,
                           partial(_damage, file=path, content=content), says=says or path,
                           )  # fmt: skip
        for command, says in commands.items():
            yield Case("trained", f"{path} missing: {command[1][:14]}", command,
                       partial(_in_place, file=path, make=_nothing), says=says or path,
                       )  # fmt: skip
    yield Case("trained", "the method's folder a file", _PREDICT,
               partial(_in_place, file="models/lama/p-tuning", make=_as_file), "either",
               "p-tuning")  # fmt: skip


# Inputs of ptune predict


def _predict() -> Iterator[Case]:
    tables: dict[str, tuple[str, bytes]] = {
        "empty": ("rows.csv", b""),
        "only a header": ("rows.csv", b"subject\n"),
        "another column": ("rows.csv", b"object\nLyon\n"),
        "a column twice": ("rows.csv", b"subject,relation,subject\nLyon,P17,Oslo\n"),
        "Latin-1": ("rows.csv", "subject\nMünchen\n".encode("latin-1")),
        "NULs": ("rows.csv", b"subject\n\0\0\0\n"),
        "a long cell": ("rows.csv", b"subject\n" + b"Lyon " * 40_000 + b"\n"),
        "a quote unclosed": ("rows.csv", b'subject\n"Lyon\n' + b"x\n" * 100_000),
        "more cells": ("rows.csv", b"subject\nLyon,2,3\n"),
        "blank": ("rows.csv", b"subject\n   \n"),
        "binary": ("rows.csv", bytes(range(256)) * 20),
        "no JSON": ("rows.jsonl", b"{subject: Lyon}\n"),
        "a key twice": ("rows.jsonl", b'{"subject": "Lyon", "subject": "Oslo"}\n'),
        "a list": ("rows.jsonl", b"[1]\n"),
        "a number": ("rows.jsonl", b'{"subject": 5}\n'),
        "half a character": ("rows.jsonl", b'{"subject": "\\ud800"}\n'),
        "deep nesting": ("rows.jsonl", b'{"subject": ' + b"[" * 100_000 + b"\n"),
        "a big integer": ("rows.jsonl", b'{"subject": ' + b"9" * 5_000 + b"}\n"),
        "no Parquet": ("rows.parquet", b"PAR1 no"),
        "another suffix": ("rows.xlsx", b"x"),
    }
    for name, (file, content) in tables.items():
        yield Case("predict", name, ("ptune", "predict", "lama", "P17", "--file", file),
                   partial(_write, file=file, content=content), says=file)  # fmt: skip
    rows = partial(_write, file="rows.csv", content=b"subject\nLyon\n")
    ask = ("ptune", "predict", "lama", "P17", "--file", "rows.csv", "--out")
    yield Case("predict", "--out is the input", (*ask, "rows.csv"), rows, says="rows.csv")
    for out in ("answers.txt", "data", "nowhere", "x" * 300 + ".csv", "params.yaml/x.csv"):
        yield Case("predict", f"--out {out[:20]}", (*ask, out), rows, says=out[:11])
    yield Case("predict", "--out a file that exists", (*ask, "old.csv"),
               lambda root: (rows(root), (root / "old.csv").write_text("kept")), says="old.csv",
               )  # fmt: skip
    yield Case("predict", "--file a folder", (*ask[:5], "data.csv"),
               lambda root: (root / "data.csv").mkdir(), says="data.csv")  # fmt: skip
    for command in (
        ("lama", "P999", "Lyon"), ("lama",), ("lama", "P17", ""), ("lama", "P17", "Lyon "* 9999),
        ("lama", "P17", "Lyon", "--top", "0"), ("lama", "P17", "Lyon", "--method", "nonsense"),
        ("nonsense",), ("rte",), ("rte", "--premise", "a"), ("cb", "--premise", "a"),
    ):  # fmt: skip
        yield Case("predict", " ".join(command)[:50], ("ptune", "predict", *command))
    polish = partial(_write, file="rows.csv", content="subject\nŁódź\n".encode())
    for more in ((), ("--file", "rows.csv"), ("--json",)):
        subject = () if "--file" in more else ("Łódź",)
        yield Case("predict", f"a Latin-1 terminal {more}",
                   (_PTUNE, "predict", "lama", "P17", *subject, *more), polish, "accepted", "",
                   {"PYTHONIOENCODING": "latin-1"})  # fmt: skip
    for file, content in (
        ("data/splits/lama/vocabulary.txt", "Łódź\n".encode("iso-8859-2")),
        ("data/splits/lama/relations.jsonl", b"{}\n"),
        ("data/splits/lama/vocabulary.txt", b""),
        ("data/splits/lama/vocabulary.txt", b"Zanzibar\n"),
    ):
        yield Case("predict", f"{file} {content!r}", _PREDICT,
                   partial(_write, file=file, content=content), says=file.rpartition("/")[2],
                   )  # fmt: skip


# Tables of the user's own: examples of a new task, and facts


def _csv(*lines: str, rows: int = 20) -> bytes:
    """A table of rows with a text and one of two labels, and more lines below."""
    texts = [f"words {number},{('bad', 'good')[number % 2]}" for number in range(rows)]
    return "".join(f"{line}\n" for line in ("Text,Label", *texts, *lines)).encode()


def _json_rows(*rows: Any) -> bytes:
    """The same in JSON Lines."""
    texts = [{"Text": f"words {n}", "Label": ("bad", "good")[n % 2]} for n in range(20)]
    return "".join(f"{json.dumps(row)}\n" for row in (*texts, *rows)).encode()


# Name -> file, content, what must come of `ptune task new`.
_TABLES: dict[str, tuple[str, bytes, Expected]] = {
    "empty": ("rows.csv", b"", "refused"),
    "only a header": ("rows.csv", b"Text,Label\n", "refused"),
    "one column": ("rows.csv", b"Text\n" + b"words\n" * 20, "refused"),
    "one label": ("rows.csv", _csv().replace(b"good", b"bad"), "refused"),
    "a label for each row": ("rows.csv", b"a,b\n" + b"".join(b"x %d,y%d\n" % (n, n)
                             for n in range(99)), "refused"),
    "one row": ("rows.csv", _csv(rows=1), "refused"),
    "numbers only": ("rows.csv", b"a,b\n" + b"1,0\n2,1\n" * 9, "refused"),
    "Latin-1": ("rows.csv", _csv("é,bad").decode().encode("latin-1"), "refused"),
    "UTF-16 without a mark": ("rows.csv", _csv().decode().encode("utf-16-le"), "refused"),
    "NULs": ("rows.csv", _csv("a\0b,bad"), "refused"),
    "a long cell": ("rows.csv", _csv("x" * 200_000 + ",bad"), "refused"),
    "a quote unclosed": ("rows.csv", _csv('"a,bad'), "refused"),
    "more cells": ("rows.csv", _csv("a,bad,b"), "refused"),
    "fewer cells": ("rows.csv", _csv("a"), "refused"),
    "no label in a row": ("rows.csv", _csv("a,"), "refused"),
    "no text in a row": ("rows.csv", _csv(" ,bad"), "refused"),
    "a column twice": ("rows.csv", _csv().replace(b"Label", b"Text"), "refused"),
    "bars": ("rows.csv", _csv().replace(b",", b"|"), "refused"),
    "binary": ("rows.csv", bytes(range(256)) * 20, "refused"),
    "another suffix": ("rows.xlsx", b"x", "refused"),
    "no Parquet": ("rows.parquet", b"PAR1 no", "refused"),
    "no JSON": ("rows.jsonl", b"{Text: a}\n", "refused"),
    "a key twice": ("rows.jsonl", b'{"Text": "a", "Text": "b"}\n', "refused"),
    "a list": ("rows.jsonl", _json_rows([1]), "refused"),
    "deep nesting": ("rows.jsonl", b'{"Text": ' + b"[" * 100_000 + b"\n", "refused"),
    "a big integer": ("rows.jsonl", b'{"Text": ' + b"9" * 5_000 + b"}\n", "refused"),
    "half a character": ("rows.jsonl", _json_rows({"Text": "\ud800", "Label": "bad"}), "refused"),
    "no label key in a row": ("rows.jsonl", _json_rows({"Text": "a"}), "refused"),
    "a label of null": ("rows.jsonl", _json_rows({"Text": "a", "Label": None}), "refused"),
    "a text that is a list": ("rows.jsonl", _json_rows({"Text": [1], "Label": "bad"}), "refused"),
    "semicolons": ("rows.csv", _csv().replace(b",", b";"), "accepted"),
    "tabs": ("rows.tsv", _csv().replace(b",", b"\t"), "accepted"),
    "a byte order mark": ("rows.csv", b"\xef\xbb\xbf" + _csv(), "accepted"),
    "UTF-16": ("rows.csv", _csv().decode().encode("utf-16"), "accepted"),
    "line ends of Windows": ("rows.csv", _csv().replace(b"\n", b"\r\n"), "accepted"),
    "a label with a comma": ("rows.csv", _csv('a,"very, very bad"'), "accepted"),
    "a label with a line break": ("rows.csv", _csv('a,"very\nbad"'), "either"),
    "a label that is markup": ("rows.csv", _csv("a,[bold]bad[/]"), "accepted"),
    "a label that is a slot": ("rows.csv", _csv("a,{mask}"), "either"),
    "labels that are true and null": ("rows.csv", _csv().replace(b"good", b"true")
                                      .replace(b"bad", b"null"), "accepted"),
    "a header of braces": ("rows.csv", _csv().replace(b"Text", b"{mask}"), "accepted"),
    "a header of markup": ("rows.csv", _csv().replace(b"Text", b"[/red]"), "accepted"),
    "a header of a line break": ("rows.csv", _csv().replace(b"Text", b'"a\nb"'), "accepted"),
    "a header of any script": ("rows.csv", _csv().replace(b"Text", "日本".encode()), "accepted"),
    "a header of a reserved name": ("rows.csv", _csv().replace(b"Text", b"label_"), "accepted"),
    "a column without a name": ("rows.csv", b"".join(b"%d,%s\n" % (n, line) if n else b"," + line
                                + b"\n" for n, line in enumerate(_csv().splitlines())),
                                "accepted"),
    "a key that rows lack": ("rows.jsonl", _json_rows({"Text": "a", "Label": "bad", "Note": "b"}),
                             "accepted"),
    "lists beside texts": ("rows.jsonl", _json_rows({"Text": "a", "Label": "bad", "Tags": ["b"]}),
                           "accepted"),
    "numbers as texts": ("rows.jsonl", _json_rows({"Text": 7.0, "Label": "bad"}), "accepted"),
}  # fmt: skip
# Name -> file of facts, content, what must come of a check of params.yaml.
_FACTS: dict[str, tuple[str, bytes, Expected]] = {
    "empty": ("x.csv", b"", "refused"),
    "no template": ("x.csv", b"subject,object\nLyon,France\n", "refused"),
    "a template without slots": ("x.csv", b"subject,object,template\nLyon,France,is in\n",
                                 "refused"),
    "two templates": ("x.csv", b"subject,object,template\na,b,[X] in [Y]\nc,d,[X] at [Y]\n",
                      "refused"),
    "no object in a row": ("x.csv", b"subject,object,template\nLyon,,[X] in [Y]\n", "refused"),
    "a file name that is no id": ("x y!.csv", b"subject,object,template\na,b,[X] in [Y]\n",
                                  "refused"),
    "a relation that is a path": (
        "x.csv", b"relation,subject,object,template\n../a,b,c,[X] in [Y]\n", "refused"),
    "a subject that is a list": (
        "x.jsonl", b'{"subject": [1], "object": "b", "template": "[X] in [Y]"}\n', "refused"),
    "a row without a subject": ("x.jsonl", b'{"object": "b", "template": "[X] in [Y]"}\n',
                                "refused"),
    "half a character": (
        "x.jsonl", b'{"subject": "\\ud800", "object": "b", "template": "[X] in [Y]"}\n',
        "refused"),
    "binary": ("x.csv", bytes(range(256)) * 20, "refused"),
    "no Parquet": ("x.parquet", b"PAR1 no", "refused"),
    "semicolons": ("x.csv", b"subject;object;template\nLyon;France;[X] in [Y]\n", "accepted"),
    "a key that rows lack": (
        "x.jsonl", b'{"subject": "a", "object": "b", "template": "[X] in [Y]", "n": [1]}\n'
        b'{"subject": "c", "object": "d"}\n', "accepted"),
}  # fmt: skip


def _facts(root: Path, *, file: str, content: bytes) -> None:
    _set(root, place=("lama", "source"), value="facts")
    _set(root, place=("lama", "relations"), value="all")
    _set(root, place=("lama", "facts"), value="own")
    _write(root, file=f"own/{file}", content=content)


def _tables() -> Iterator[Case]:
    new = ("ptune", "task", "new")
    for name, (file, content, expected) in _TABLES.items():
        yield Case("table", f"task new: {name}", (*new, "own", "--from", file),
                   partial(_write, file=file, content=content), expected, file)  # fmt: skip
    rows = partial(_write, file="rows.csv", content=_csv())
    for name in (
        "rte", "lama", "tasks", "", "a b", "../x", "x" * 300, "-x", "Ünï", "a.b", "null", "1a",
    ):  # fmt: skip
        yield Case("table", f"task new {name[:20]}", (*new, "--from", "rows.csv", "--", name), rows,
                   "either")  # fmt: skip
    for options in (
        ("--label", "Rating"), ("--text", "Rating"), ("--label", ""), ("--text", ""),
        ("--text", "Label", "--label", "Label"), ("--text", "Label"), ("--params", "none.yaml"),
        ("--params", "data"),
    ):  # fmt: skip
        yield Case("table", f"task new {' '.join(options)}",
                   (*new, "own", "--from", "rows.csv", *options), rows)  # fmt: skip
    for source in ("none.csv", "data", "", "/proc/self/mem", "params.yaml", "/dev/null"):
        yield Case("table", f"task new --from {source}", (*new, "own", "--from", source),
                   says=source)  # fmt: skip
    for name, (file, content, expected) in _FACTS.items():
        yield Case("table", f"facts: {name}", _VALIDATE,
                   partial(_facts, file=file, content=content), expected,
                   file if expected == "refused" else "")  # fmt: skip


# Archives and downloads, by the functions that the stages call


def _python(code: str) -> tuple[str, ...]:
    head = (
        "import sys\nfrom pathlib import Path\nfrom pipeline.cli.console import report_errors\n"
        "import typer\ntry:\n  with report_errors():\n"
    )
    lines = "".join(f"    {line}\n" for line in code.splitlines())
    return "python", "-c", f"{head}{lines}except typer.Exit as end:\n  sys.exit(end.exit_code)\n"


def _archives() -> Iterator[Case]:
    extract = (
        "from pipeline.sources.archives import extract_members\n"
        "Path('unpacked').mkdir()\n"
        "extract_members(Path('a.zip'), Path('unpacked'), [{path!r}])\n"
    )
    contents: dict[str, bytes] = {
        "empty": b"", "text": b"hello", "a cut zip": _zip("a/b.txt")[:60],
        "a cut gzip": b"\x1f\x8b\x08\x00", "another member": _zip("a/c.txt"),
        "NULs": bytes(1000), "a damaged zip": _zip("a/b.txt").replace(b"hello", b"jello"),
    }  # fmt: skip
    for name, content in contents.items():
        yield Case("archive", name, _python(extract.format(path="b.txt")),
                   partial(_write, file="a.zip", content=content), says="a.zip")  # fmt: skip
    for length in (300, 5000):
        path = "a" * length
        yield Case("archive", f"a name of {length}", _python(extract.format(path=path)),
                   partial(_write, file="a.zip", content=_zip(path)), says="a.zip")  # fmt: skip
        yield Case("archive", f"another name of {length}", _python(extract.format(path="b.txt")),
                   partial(_write, file="a.zip", content=_zip("b.txt", f"x/{path}")), "accepted",
                   )  # fmt: skip
    for name in ("/etc/b.txt", "../../b.txt", "..\\b.txt/b.txt"):
        yield Case("archive", name, _python(extract.format(path="b.txt")),
                   partial(_write, file="a.zip", content=_zip(name)), "either")  # fmt: skip


def _zip(*names: str) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name in names:
            archive.writestr(name, "hello" * 10)
    return content.getvalue()


_SERVER = """
import threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import pipeline.sources.http as module
module.BACKOFF_SECONDS = 0.01
class Handler(BaseHTTPRequestHandler):
  def do_GET(self):
    ANSWER
  def log_message(self, *_): pass
server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=server.serve_forever, daemon=True).start()
module.download(f"http://127.0.0.1:{server.server_address[1]}/file.bin", Path("fetched/file.bin"))
"""
_ANSWERS = {
    "404": "self.send_error(404)",
    "500": "self.send_error(500)",
    "a negative length": "self.send_response(200); self.send_header('Content-Length', '-5');"
    " self.end_headers(); self.wfile.write(b'hello')",
    "a length that is no number": "self.send_response(200);"
    " self.send_header('Content-Length', 'many'); self.end_headers(); self.wfile.write(b'hello')",
    "half of it": "self.send_response(200); self.send_header('Content-Length', '10');"
    " self.end_headers(); self.wfile.write(b'hello')",
    "no HTTP": "self.wfile.write(b'hello')",
    "redirects without end": "self.send_response(302); self.send_header('Location', self.path);"
    " self.end_headers()",
    "a redirect to a file": "self.send_response(302);"
    " self.send_header('Location', 'file:///etc/passwd'); self.end_headers()",
    "an endless header": "self.wfile.write(b'HTTP/1.0 200 OK\\r\\nX: ' + b'x' * 10**6)",
    "an error page of 204": "self.send_response(204); self.end_headers()",
}


def _downloads() -> Iterator[Case]:
    for name, answer in _ANSWERS.items():
        expected: Any = "either" if name.startswith("a length") else "refused"
        yield Case("download", name, _python(_SERVER.replace("ANSWER", answer)),
                   lambda root: (root / "fetched").mkdir(), expected, "127.0.0.1")  # fmt: skip
    fetch = "from pipeline.sources.http import download\nimport pipeline.sources.http as m\n"
    fetch += "m.BACKOFF_SECONDS = 0.01\ndownload({url!r}, Path('fetched/file.bin'))"
    for url in (
        "http://no-such-host.invalid/x", "http://127.0.0.1:1/x", "ftp://127.0.0.1/x", "file:///etc",
        "nonsense", "", "http://", "http://[::1", "http://127.0.0.1:99999/x", "data:text/plain,x",
    ):  # fmt: skip
        yield Case("download", url, _python(fetch.format(url=url)), says=url.strip("/")[:24])
    for place in ("fetched/file.bin", "fetched/file.bin.partial"):
        yield Case("download", f"{place} a folder", _python(fetch.format(url="http://127.0.0.1:1/")),
                   lambda root, place=place: (root / place).mkdir(parents=True),
                   says="fetched/file.bin")  # fmt: skip
    yield Case("download", "a file in the folder's place",
               _python(fetch.format(url="http://127.0.0.1:1/")),
               partial(_write, file="fetched", content=b""), says="fetched")  # fmt: skip


# The history


def _sql(root: Path, *, statement: str) -> None:
    with closing(sqlite3.connect(root / "mlflow.db")) as connection, connection:
        connection.execute(statement)


def _spool(root: Path, *, content: bytes = b"", sent: bytes | None = None) -> None:
    folder = root / ".work/unsent" / ("0" * 32)
    folder.mkdir(parents=True, exist_ok=True)
    line = {"kind": "metrics", "run": "0" * 32, "time": 1, "values": {"step": 0, "metrics": {}}}
    good = f'{{"store": "mlflow.db", "name": "x"}}\n{json.dumps(line)}\n'.encode()
    (folder / "entries.jsonl").write_bytes(content or good)
    if sent is not None:
        (folder / "sent.txt").write_bytes(sent)


def _history() -> Iterator[Case]:
    damaged: dict[str, Prepare] = {
        "no database": partial(_write, file="mlflow.db", content=b"hello" * 999),
        "NULs": partial(_write, file="mlflow.db", content=bytes(9000)),
        "cut": partial(_damage, file="mlflow.db", content=None),
        "a folder": partial(_in_place, file="mlflow.db", make=_AS_FOLDER),
        "a dangling link": partial(
            _in_place, file="mlflow.db", make=lambda path: path.symlink_to("/no/such/dir/x.db")
        ),
        "another schema": partial(
            _sql, statement="update alembic_version set version_num='cc1f77228345'"
        ),
        "no schema": partial(_sql, statement="delete from alembic_version"),
        "no runs": partial(_sql, statement="drop table runs"),
        "no experiments": partial(_sql, statement="drop table experiments"),
        "a deleted experiment": partial(
            _sql, statement="update experiments set lifecycle_stage='deleted'"
        ),
    }
    commands = (
        _VALIDATE, ("ptune", "results", "--all"), ("ptune", "doctor"), ("ptune", "sync"),
        ("ptune", "lineage", "metrics/lama/p-tuning.json"),
    )  # fmt: skip
    for name, prepare in damaged.items():
        for command in commands:
            expected: Any = "refused"
            says = "mlflow.db" if name != "a dangling link" else ""
            if name == "a deleted experiment" and command[1] in ("results", "lineage"):
                expected, says = "accepted", ""  # its runs can be read
            yield Case(
                "history", f"mlflow.db {name}: {command[1]}", command, prepare, expected, says
            )
    for address in (
        "sqlite:////no/such/dir/x.db", "http://127.0.0.1:1", "nonsense://x", "http://[::1",
        "sqlite:///params.yaml", "postgresql://u:secret@127.0.0.1:1/x", "http://u:secret@127.0.0.1:1",
        "http://127.0.0.1:1/?password=secret", "databricks", "file:///proc/x", "s3://bucket/x",
    ):  # fmt: skip
        for command in (_VALIDATE, ("ptune", "results", "--all"), ("ptune", "doctor")):
            yield Case("history", f"{address}: {command[1]}", command,
                       environment={"MLFLOW_TRACKING_URI": address})  # fmt: skip
    spools: dict[str, Prepare] = {
        "binary": partial(_spool, content=bytes(range(256))),
        "NULs": partial(_spool, content=bytes(99) + b"\n"),
        "a list": partial(_spool, content=b"[1]\n[2]\n"),
        "an unknown kind": partial(
            _spool, content=b'{"store": "mlflow.db", "name": "x"}\n{"kind": "nothing"}\n'
        ),
        "another event": partial(
            _spool, content=b'{"store": "mlflow.db", "name": "x"}\n{"kind": 5, "run": []}\n'
        ),
    }
    for name, prepare in spools.items():
        yield Case("history", f"unsent events: {name}", ("ptune", "send"), prepare, says="unsent")
    for name, sent in {"garbage": b"x", "empty": b"", "NULs": bytes(5), "negative": b"-5",
                       "digits": "²".encode(), "huge": b"9" * 5000}.items():  # fmt: skip
        yield Case("history", f"position: {name}", ("ptune", "send"), partial(_spool, sent=sent),
                   "either")  # fmt: skip
    for command in (
        ("lineage", "nonsense"), ("lineage", ""), ("lineage", "../.."), ("lineage", "x" * 5000),
        ("reproduce", "nonsense"), ("reproduce", ""), ("reproduce", "--", "-x"),
        ("compare", "nonsense", "HEAD"), ("compare", "-x", "HEAD"), ("compare", "HEAD"),
        ("send", "--drop", "nonsense"), ("results", "--experiment", "nonsense"),
    ):  # fmt: skip
        yield Case("history", " ".join(command)[:40], ("ptune", *command))


# Other commands


def _commands() -> Iterator[Case]:
    for command in (
        ("nonsense",), ("preset",), ("preset", "apply", "nonsense"), ("preset", "apply", "../x"),
        ("preset", "apply", "lama-29k-bert-base", "--set", "x"),
        ("preset", "apply", "lama-29k-bert-base", "--set", "nonsense.x=5"),
        ("repro", "nonsense"), ("repro", "-j", "0"), ("repro", "--", "-x"),
        ("repro", "--jobs", "x"), ("repro", "--gpus", "x"),
        ("promote", "nonsense"), ("promote", "cb"), ("export", "nonsense", "x"),
        ("export", "rte", "data"), ("export", "rte", "params.yaml"), ("show", "nonsense"),
        ("report", "nonsense"), ("task", "new", "reviews"),
        ("task", "new", "../x", "--from", "rows.csv"), ("task", "new", "rte", "--from", "rows.csv"),
        ("task", "new", "reviews", "--from", "nowhere.csv"),
        ("task", "new", "reviews", "--from", "params.yaml"),
        ("task", "new", "reviews", "--from", "data"),
    ):  # fmt: skip
        rows = partial(_write, file="rows.csv", content=b"text,label\na,b\n")
        yield Case("command", " ".join(command), ("ptune", *command), rows)
    for name, content in {**_JSON, "one row": b"text,label\na,b\n", "one label":
                          b"text,label\n" + b"a,b\n" * 30}.items():  # fmt: skip
        yield Case("command", f"task new: {name}",
                   ("ptune", "task", "new", "reviews", "--from", "rows.csv"),
                   partial(_write, file="rows.csv", content=content), says="rows.csv")  # fmt: skip
    for file in ("dvc.lock", "dvc.yaml", ".dvc/config"):
        for name, content in {"a list": b"- 1\n", "binary": b"\xff\xfe\x00", "not YAML": b"a: [\n",
                              "text": b"hello\n"}.items():  # fmt: skip
            # Of the stages, one that is short: a damaged dvc.lock is repaired, and all would run.
            for command in (("ptune", "results"), ("ptune", "doctor"),
                            ("ptune", "repro", "validate"),
                            ("ptune", "lineage", "metrics/lama/p-tuning.json")):  # fmt: skip
                yield Case("command", f"{file} {name}: {command[1]}", command,
                           partial(_write, file=file, content=content), "either", file,
                           )  # fmt: skip
    for command in (("ptune", "doctor"), ("ptune", "repro", "validate"), _VALIDATE):
        environment = {} if command != _VALIDATE else {"DVC_STAGE": "validate"}
        yield Case("command", f"rwlock cut: {command[1]}", command,
                   partial(_write, file=".dvc/tmp/rwlock", content=b'{"/x": {"wri'), "either",
                   "rwlock", environment)  # fmt: skip


# Text that a browser, a spreadsheet or a terminal would act on

_SCRIPT = "<script>alert(1)</script>"


def _injection() -> Iterator[Case]:
    title = partial(_set, place=("report", "title"), value=f"\x1b[31m{_SCRIPT}![x](http://x/y.png)")
    check = (
        "import subprocess\n"
        "from html.parser import HTMLParser\n"
        "from markdown_it import MarkdownIt\n"
        "assert subprocess.call([sys.executable, *{command!r}]) == 0\n"
        "page = Path('report2/index.html').read_text()\n"
        "page += MarkdownIt('commonmark').render(Path('report2/report.md').read_text())\n"
        "class Parser(HTMLParser):\n"
        "  def handle_starttag(self, tag, attributes):\n"
        "    assert 'http://x/y.png' not in map(str, dict(attributes).values()), attributes\n"
        "  def handle_data(self, data):\n"
        "    assert not self.cdata_elem or 'alert' not in data, data\n"
        "Parser().feed(page)"
    )
    yield Case("injection", "report.title", _python(check.format(command=_REPORT[1:])), title,
               "accepted")  # fmt: skip
    formula = partial(_write, file="rows.csv", content=b"subject\n=1+1\n@x\n+1\n-1\n")
    answers = (
        "import subprocess, csv\n"
        "text = subprocess.check_output(['ptune', 'predict', 'lama', 'P17', '--file', 'rows.csv'],"
        " text=True)\n"
        "rows = list(csv.reader(text.splitlines()))\n"
        "assert rows and not [c for row in rows for c in row if c[:1] in tuple('=@+-')], rows[:3]"
    )
    yield Case("injection", "formulas in CSV", _python(answers), formula, "accepted")
    escape = (
        "import subprocess\n"
        "done = subprocess.run({command!r}, capture_output=True, text=True)\n"
        "text = done.stdout + done.stderr\n"
        "assert text and '\\x1b' not in text and '\\x07' not in text, repr(text[:300])"
    )
    subject = ["ptune", "predict", "lama", "P17", "\x1b]0;x\x07Lyon"]
    yield Case("injection", "a typed subject", _python(escape.format(command=subject)),
               None, "accepted")  # fmt: skip
    relation = ["ptune", "predict", "lama", "\x1b[31mP17", "Lyon"]
    yield Case("injection", "a typed relation", _python(escape.format(command=relation)),
               None, "accepted")  # fmt: skip
    tags = partial(_sql, statement="update tags set value=char(27)||'[31m'||value where key like "
                   "'mlflow.run%' or key='branch'")  # fmt: skip
    for command in (
        ["ptune", "results", "--all"],
        ["ptune", "lineage", "metrics/lama/manual.json"],
    ):
        yield Case("injection", f"tags: {command[1]}", _python(escape.format(command=command)),
                   tags, "accepted")  # fmt: skip


# Other users' files, and disks of limited size: as root only

_NOBODY = 65534


def _as_nobody(*command: str) -> tuple[str, ...]:
    """The command of a user who is not root."""
    program, *arguments = command
    name = arguments[1] if program == "python" else f"{program}.cli"
    rest = arguments[2:] if program == "python" else arguments
    run = (
        f"runpy.run_module({name!r}, run_name='__main__', alter_sys=True)"
        if program == "python"
        else "from pipeline.cli.app import app; app()"
    )
    code = (
        # The interpreter's folder may be closed to them: what is imported late is imported now.
        "import encodings.cp437, os, runpy, sys\n"
        "import pipeline.cli.app, stages.runtime\n"
        f"os.setgroups([]); os.setgid({_NOBODY}); os.setuid({_NOBODY})\n"
        f"sys.argv[1:] = {rest!r}\n{run}"
    )
    return "python", "-c", code


def _owned(root: Path, *, file: str, mode: int, owner: int) -> None:
    """Give all files to the user but one, which gets another mode or owner."""
    root.parent.chmod(0o755)
    root.parent.parent.chmod(0o755)
    (root / ".work").mkdir(exist_ok=True)
    for path in (root, *root.rglob("*")):
        os.chown(path, _NOBODY, _NOBODY, follow_symlinks=False)
    place = root / file
    place.chmod(mode)
    os.chown(place, owner, owner)


def _permissions() -> Iterator[Case]:
    for file, mode, owner, command, expected in (
        (".work", 0o500, _NOBODY, _TRAIN, "either"),
        (".work", 0o755, 0, _VALIDATE, "either"),
        ("mlflow.db", 0o444, _NOBODY, _TRAIN, "refused"),
        ("mlflow.db", 0o644, 0, _VALIDATE, "refused"),
        ("mlflow.db", 0o000, _NOBODY, _VALIDATE, "refused"),
        ("mlflow.db", 0o000, _NOBODY, ("ptune", "send"), "refused"),
        ("mlflow.db", 0o000, _NOBODY, ("ptune", "results", "--all"), "refused"),
        ("mlflow.db", 0o000, _NOBODY, ("ptune", "doctor"), "refused"),
        ("dvc.lock", 0o000, _NOBODY, ("ptune", "results"), "refused"),
        ("dvc.lock", 0o000, _NOBODY, _TRAIN, "either"),
        ("params.yaml", 0o000, _NOBODY, _VALIDATE, "refused"),
        ("params.yaml", 0o000, _NOBODY, ("ptune", "doctor"), "refused"),
        (".git", 0o000, _NOBODY, _TRAIN, "either"),
        ("data/model", 0o000, _NOBODY, _TRAIN, "refused"),
        ("data/model/config.json", 0o000, _NOBODY, _TRAIN, "refused"),
        ("data/model/model.safetensors", 0o000, _NOBODY, _TRAIN, "refused"),
        ("data/splits/lama", 0o000, _NOBODY, _TRAIN, "refused"),
        ("data/splits/lama/relations.jsonl", 0o000, _NOBODY, _TRAIN, "refused"),
        ("data/raw/lama", 0o000, _NOBODY, _SPLITS, "refused"),
        ("models", 0o500, _NOBODY, _TRAIN, "refused"),
        ("curves", 0o500, _NOBODY, _TRAIN, "refused"),
        ("data", 0o500, _NOBODY, _VALIDATE, "refused"),
        ("data", 0o500, _NOBODY, _DOWNLOAD, "accepted"),  # what is below may be written
        ("data/raw", 0o500, _NOBODY, _DOWNLOAD, "refused"),
        ("models/lama", 0o000, _NOBODY, _PREDICT, "refused"),
        ("models/lama/p-tuning/prompts.json", 0o000, _NOBODY, _PREDICT, "refused"),
        ("mlartifacts", 0o500, _NOBODY, _VALIDATE, "either"),
    ):  # fmt: skip
        yield Case("permissions", f"{file} {mode:o} of {owner}: {' '.join(command[:3])}",
                   _as_nobody(*command), partial(_owned, file=file, mode=mode, owner=owner),
                   expected, file if expected == "refused" else "")  # type: ignore[arg-type]  # fmt: skip


@contextmanager
def _small_disk(root: Path, *, free: int) -> Iterator[None]:
    """The project on a disk with so many bytes free."""
    content = root.with_name("content")
    root.rename(content)
    root.mkdir()
    used = int(subprocess.check_output(["du", "-sk", content]).split()[0])
    size = (used + 4000) * 1024
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", root], check=True)
    try:
        shutil.copytree(content, root, symlinks=True, dirs_exist_ok=True)
        shutil.rmtree(content)
        (root / ".work").mkdir(exist_ok=True)
        stat = os.statvfs(root)
        filled = max(0, stat.f_bavail * stat.f_frsize - free)
        (root / "filler").write_bytes(bytes(filled))
        yield
    finally:
        subprocess.run(["umount", root], check=True)


def _full_disks() -> Iterator[Case]:
    for free in (0, 40_000, 160_000, 600_000):
        for name, command in {
            "validate": _VALIDATE, "download model": _DOWNLOAD_MODEL, "download lama": _DOWNLOAD,
            "splits lama": _SPLITS, "train lama": RESUMED["train-lama@p-tuning"],
            "train rte": _TRAIN_RTE, "evaluate lama": _EVALUATE, "evaluate rte": _EVALUATE_RTE,
            "report": _REPORT,
        }.items():  # fmt: skip
            yield Case("disk", f"{name}, {free // 1000} kB free", command, None, "either", "",
                       within=partial(_small_disk, free=free))  # fmt: skip
