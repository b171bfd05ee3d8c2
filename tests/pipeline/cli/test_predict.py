import csv
import io
import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file
from typer.testing import CliRunner, Result

from pipeline.cli import predict as commands
from pipeline.cli.app import app
from pipeline.data.lama import LamaSplits, Relation, write_lama
from pipeline.evaluation.evaluate import evaluate
from pipeline.files import read_json, write_json
from pipeline.models.dataset import PromptFormat
from pipeline.models.loading import load_model
from pipeline.prompts.store import StoredPrompt, load_prompts, save_prompts, weights_file
from pipeline.tasks import get_task, task_names
from tests.project import ROOT
from tests.worked import VOCABULARY

YES_NO = {"entailment": "yes", "not_entailment": "no"}
RTE = ["--premise", "Lyon is a city in France.", "--hypothesis", "Lyon is in Europe."]


def stored(template: str, dev_score: float, **more: Any) -> StoredPrompt:
    count = template.count("[P]")
    vectors = torch.randn(count, 32, generator=torch.Generator().manual_seed(0))
    return StoredPrompt(template, vectors if count else None, 1, dev_score, **more)


def trial(task: str, seed: int) -> str:
    return f"{task}/setting-1/split-1/seed-{seed}"


@pytest.fixture(scope="session")
def trained_project(
    tmp_path_factory: pytest.TempPathFactory, tiny_folders: dict[str, Path]
) -> Path:
    """What `ptune predict` reads of a project that has run: LAMA, RTE and COPA, a causal model."""
    root = tmp_path_factory.mktemp("project")
    text = (ROOT / "params.yaml").read_text()
    for found, wanted in (
        ("methods: [manual-fine-tuning, p-tuning]", "methods: [manual, p-tuning]"),
        ("start: auto", "start: none"),
    ):
        assert found in text
        text = text.replace(found, wanted)
    (root / "params.yaml").write_text(text)
    shutil.copytree(tiny_folders["gpt2"], root / "data/model")
    relations = {
        name: Relation(name, "[X] is in [Y] .", label)
        for name, label in (("P17", "country"), ("P30", "continent"))
    }
    facts: Any = {name: {"train": [], "dev": [], "test": []} for name in relations}
    write_lama(root / "data/splits/lama", LamaSplits(relations, facts, [*VOCABULARY, "Upper"], {}))
    for method, template, names in (
        ("manual", "{subject} is in {mask} .", ["P17", "P30"]),
        ("p-tuning", "[P] {subject} is in [P] {mask} .", ["P17"]),
    ):
        prompts = {trial(name, seed): stored(template, 0.425) for name in names for seed in (1, 2)}
        save_prompts(root / "models/lama" / method, method, prompts)
    for method, template in (
        ("manual", "{premise:shorten} {hypothesis}? {mask}."),
        ("p-tuning", "{premise:shorten} {hypothesis}? [P] {mask}."),
    ):
        prompts = {
            trial("rte", seed): stored(template, 0.4 + 0.1 * seed, verbalizer=YES_NO, max_length=90)
            for seed in ((1,) if method == "manual" else (1, 2))
        }
        save_prompts(root / "models/superglue/rte" / method, method, prompts)
    copa = {trial("copa", 1): stored("{premise} {joiner} {mask}.", 0.5)}
    save_prompts(root / "models/superglue/copa/manual", "manual", copa)
    return root


@pytest.fixture
def project(trained_project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder: a copy of such a project."""
    shutil.copytree(trained_project, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def invoke(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["predict", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def json_rows(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_words_of_each_method_stand_side_by_side(project: Path) -> None:
    result = invoke("lama", "P17", "Lyon", "the city of Oslo", "Lyon", "--top", "2")
    assert result.exit_code == 0
    assert result.stderr == ""
    lines = result.stdout.splitlines()
    assert lines[0] == "Lyon  (P17, country)"
    assert lines[1].split() == ["manual", "p-tuning"]
    assert lines[5] == "the city of Oslo  (P17, country)"
    assert lines[10:] == [
        "manual    {subject} is in {mask} .          dev P@1 42.5",
        "p-tuning  [P] {subject} is in [P] {mask} .  dev P@1 42.5",
    ]
    rows = json_rows(invoke("lama", "P17", "Lyon", "--json").stdout)
    assert len(rows) == 10
    for method, column in (("manual", 0), ("p-tuning", 2)):
        own = [row for row in rows if row["method"] == method]
        assert [row["rank"] for row in own] == [1, 2, 3, 4, 5]
        assert {row["answer"] for row in own} == set(VOCABULARY)
        assert sum(row["probability"] for row in own) == pytest.approx(1, abs=1e-5)
        for row, line in zip(own, lines[2:4], strict=False):
            shown = f"{100 * row['probability']:.1f}%"
            assert line.split()[column : column + 2] == [row["answer"], shown]


def test_a_method_that_was_not_trained_on_the_relation_is_left_out(project: Path) -> None:
    rows = json_rows(invoke("lama", "P30", "Lyon", "--json").stdout)
    assert {row["method"] for row in rows} == {"manual"}


def test_methods_can_be_chosen(project: Path) -> None:
    rows = json_rows(invoke("lama", "P17", "Lyon", "--method", "p-tuning", "--json").stdout)
    assert {row["method"] for row in rows} == {"p-tuning"}


def test_labels_are_shown_with_the_training_that_was_best_on_dev(project: Path) -> None:
    result = invoke("rte", *RTE)
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["method", "answer", "entailment", "not_entailment"]
    assert lines[4:] == [
        "manual    rte/setting-1/split-1/seed-1  dev 50.0",
        "p-tuning  rte/setting-1/split-1/seed-2  dev 60.0, the best of 2 trainings",
    ]
    for row, line in zip(json_rows(invoke("rte", *RTE, "--json").stdout), lines[1:3], strict=True):
        both = {name: row[f"p_{name}"] for name in YES_NO}
        assert row["label"] == max(both, key=lambda name: both[name])
        shown = [f"{100 * value:.1f}%" for value in both.values()]
        assert line.split() == [row["method"], row["label"], *shown]


def test_the_labels_of_copa_say_which_choice_they_are(project: Path) -> None:
    given = {field.name: field.example for field in get_task("copa").schema.fields}
    result = invoke("copa", *(part for key, value in given.items() for part in (f"--{key}", value)))
    header, answer = (line.split() for line in result.stdout.splitlines()[:2])
    assert header == ["method", "answer", "0", "(choice1)", "1", "(choice2)"]
    assert answer[:3] in (["manual", "0", "(choice1)"], ["manual", "1", "(choice2)"])


@pytest.fixture
def tuned_weights(project: Path, tiny_folders: dict[str, Path]) -> Path:
    """The weights of RTE's method manual, which tunes the model here."""
    tuned = load_model(tiny_folders["gpt2"], device="cpu")
    with torch.no_grad():
        for parameter in tuned.network.parameters():
            parameter.mul_(1.5)
    folder = Path("models/superglue/rte/manual")
    path = weights_file(folder, trial("rte", 1))
    path.parent.mkdir()
    save_file(dict(tuned.network.named_parameters()), path)
    save_prompts(folder, "manual", load_prompts(folder))
    return path


def test_tuned_weights_are_used(
    trained_project: Path, tuned_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    after = json_rows(invoke("rte", *RTE, "--method", "manual", "--json").stdout)
    monkeypatch.chdir(trained_project)
    before = json_rows(invoke("rte", *RTE, "--method", "manual", "--json").stdout)
    assert after[0]["p_entailment"] != pytest.approx(before[0]["p_entailment"], abs=1e-3)


def test_without_its_tuned_weights_a_method_does_not_answer(
    tuned_weights: Path, tiny_folders: dict[str, Path]
) -> None:
    frozen = load_model(tiny_folders["gpt2"], device="cpu")
    save_file(dict(frozen.network.named_parameters()), tuned_weights)
    result = invoke("rte", *RTE, "--method", "manual")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {tuned_weights}: replaced or altered: its SHA-256 is")
    tuned_weights.unlink()
    result = invoke("rte", *RTE)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith(f"error: {tuned_weights}: missing; the prompts were trained")
    assert "`dvc checkout`" in result.stderr


def test_without_digests_weights_are_missed_where_the_params_say_that_there_are_some(
    project: Path,
) -> None:
    for method in ("manual", "p-tuning"):
        path = Path("models/superglue/rte", method, "prompts.json")
        record = read_json(path)
        for entry in record["prompts"].values():
            del entry["weights"]
        write_json(path, record)
    assert invoke("rte", *RTE, "--method", "manual").exit_code == 0  # nothing is tuned
    result = invoke("rte", *RTE)
    assert result.exit_code == 1
    assert "p-tuning/weights/rte-setting-1-split-1-seed-1.safetensors: missing" in result.stderr


def test_a_method_without_an_output_is_named(project: Path) -> None:
    shutil.rmtree("models/superglue/rte/p-tuning")
    Path("rows.csv").write_text("premise,hypothesis\nOslo,Norway\n")
    result = invoke("rte", "--file", "rows.csv", "--json")
    assert result.exit_code == 0
    assert [row["method"] for row in json_rows(result.stdout)] == ["manual"]
    assert result.stderr == (
        "warning: models/superglue/rte/p-tuning: no trained prompts, so p-tuning does not answer; "
        "run `dvc repro`, or `dvc checkout` or `dvc pull` to restore earlier results\n"
    )
    assert invoke("rte", *RTE, "--method", "manual").stderr == ""


def test_a_csv_of_subjects_is_answered_line_by_line(project: Path) -> None:
    Path("rows.csv").write_text("subject,relation,note\nLyon,P17,x\nOslo,,\nLyon,P30,\n")
    result = invoke("lama", "P17", "--file", "rows.csv", "--out", "out/answers.csv", "--top", "1")
    assert result.exit_code == 0
    assert result.stdout == ""
    assert result.stderr == "out/answers.csv: 5 rows\n"
    rows = list(csv.DictReader(io.StringIO(Path("out/answers.csv").read_text())))
    keys = ["line", "relation", "subject", "method", "rank", "answer", "probability"]
    assert list(rows[0]) == keys
    assert [[row[key] for key in keys[:5]] for row in rows] == [
        ["2", "P17", "Lyon", "manual", "1"],
        ["2", "P17", "Lyon", "p-tuning", "1"],
        ["3", "P17", "Oslo", "manual", "1"],
        ["3", "P17", "Oslo", "p-tuning", "1"],
        ["4", "P30", "Lyon", "manual", "1"],
    ]
    for typed in json_rows(invoke("lama", "P17", "Lyon", "Oslo", "--top", "1", "--json").stdout):
        (row,) = (
            row
            for row in rows[:4]
            if (row["subject"], row["method"]) == (typed["subject"], typed["method"])
        )
        assert row["answer"] == typed["answer"]
        assert float(row["probability"]) == pytest.approx(typed["probability"], abs=1e-5)


def official_rte() -> list[dict[str, Any]]:
    return [
        {"premise": premise, "hypothesis": "Oslo is a city", "idx": 10 + n, "label": "entailment"}
        for n, premise in enumerate(("Oslo", "Norway is in Europe.", "a city? No, Oslo"))
    ]


def test_official_records_are_answered_as_by_evaluation(project: Path) -> None:
    Path("rows.jsonl").write_text("".join(json.dumps(r) + "\n" for r in official_rte()))
    result = invoke("rte", "--file", "rows.jsonl", "--out", "answers.jsonl", "--method", "p-tuning")
    assert result.exit_code == 0
    asked = [one for record in official_rte() for one in get_task("rte").examples(record)]
    prompt = stored("{premise:shorten} {hypothesis}? [P] {mask}.", 0, verbalizer=YES_NO)
    form = PromptFormat.from_prompt(get_task("rte"), prompt)
    evaluated = evaluate(
        load_model(project / "data/model", device="cpu"),
        form,
        prompt.vectors,
        {"train": asked, "test": asked},
        max_tokens_per_forward=9,
    ).predictions
    rows = json_rows(Path("answers.jsonl").read_text())
    assert [row["line"] for row in rows] == [1, 2, 3]
    for row, record, own in zip(rows, official_rte(), evaluated, strict=True):
        assert (row["example"], row["label"]) == (own["example"], own["answer"])
        assert row["premise"] == record["premise"]
        log_prob = torch.tensor(row[f"p_{row['label']}"]).log()
        assert float(log_prob) == pytest.approx(own["log_prob"], abs=1e-3)


def test_answers_to_a_file_are_printed_where_no_other_place_is_named(project: Path) -> None:
    Path("rows.csv").write_text("premise,hypothesis\nOslo,Norway\n")
    printed = invoke("rte", "--file", "rows.csv").stdout
    (manual, tuned) = csv.DictReader(io.StringIO(printed))
    assert (manual["method"], tuned["training"]) == ("manual", trial("rte", 2))
    as_json = json_rows(invoke("rte", "--file", "rows.csv", "--json").stdout)
    assert [{key: str(v) for key, v in row.items()} for row in as_json] == [manual, tuned]


def test_a_bar_counts_the_answers(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bars = []

    class Bar(commands.tqdm):  # type: ignore[type-arg]
        def __init__(self, **options: Any) -> None:
            bars.append(self)
            super().__init__(**{**options, "disable": options["disable"] is True})

    monkeypatch.setattr(commands, "tqdm", Bar)
    Path("rows.csv").write_text("subject\nLyon\nOslo\n")
    result = invoke("lama", "P17", "--file", "rows.csv")
    assert (bars[0].n, bars[0].total) == (4, 4)
    assert "p-tuning" in result.stderr
    assert "%" not in result.stdout
    assert invoke("lama", "P17", "Lyon").stderr == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("lama P18 Lyon", "relation P18 was not trained; trained are P17, P30 (lama.relations in"),
        ("lama P30 Lyon --method p-tuning", "relation P30 was not trained; trained are P17 (lama"),
        ("lama", "lama: give a relation and a subject, such as P17 Lyon; or --file with a column"),
        ("lama P30", "lama: give a relation and a subject, such as P30 Lyon; or --file"),
        ("lama P17 ' '", "subject is empty"),
        ("lama P17 Lyon --method x --method manual", "models/lama: no trained prompts for x; "
         "available: manual, p-tuning"),
        ("lama P17 Lyon --file rows.csv", "--file holds the inputs, so leave out Lyon"),
        ("lama P17 Lyon --out a.csv", "--out needs --file; predictions for a typed input are"),
        ("lama P17 --file rows.csv --out a.txt", "--out a.txt: name a file that ends in"),
        ("lama P17 --file rows.csv --out a.csv --json", "--json is for printing;"),
        ("lama P17 --file none.csv", "none.csv: no such file"),
        ("lama --file rows.csv", "rows.csv: no column relation; the first line names the columns"),
        ("rte --premise a", "rte: no --hypothesis; give that, or --file"),
        ("rte", "rte: no --premise and no --hypothesis; give that, or --file"),
        ("rte --premise a --hypothesis ''", "rte: hypothesis is empty"),
        ("rte --premise a --file rows.csv", "--file holds the inputs, so leave out --premise"),
        ("rte --file rows.csv", "rows.csv: no column premise, hypothesis; the first line names"),
        ("rte --premise a --hypothesis b --method classifier", "models/superglue/rte: no trained "
         "prompts for classifier; available: manual, p-tuning"),
        ("cb --premise a --hypothesis b", "cb was not trained; trained are copa, rte (superglue."),
        ("copa --premise a --choice1 b --choice2 c --question why", "copa: question 'why' is not "
         "one of cause, effect"),
    ],
)  # fmt: skip
def test_what_is_wrong_ends_in_its_message(project: Path, arguments: str, said: str) -> None:
    Path("rows.csv").write_text("subject\nLyon\n")
    result = invoke(*shlex.split(arguments))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {said}")
    assert result.stdout == ""
    assert not list(project.glob("a.*"))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("rows.jsonl", '{"relation": "P17"}', "rows.jsonl: 1 invalid line; nothing was "
         "read; correct the file\n  line 1: no subject (found relation)"),
        ("rows.csv", "subject,relation\nLyon,P17\n,P17\nOslo,P9\n", "rows.csv: 2 invalid lines; "
         "nothing was read; correct the file\n  line 3: subject is empty\n"
         "  line 4: relation P9 was not trained; trained are P17, P30 ("),
        ("rows.jsonl", '{"subject": "Lyon"}\n{"subject": 3}\n{"subject": ["x"]\n', "rows.jsonl: 2 "
         "invalid lines; nothing was read; correct the file\n  line 2: subject is 3, not "
         "text\n  line 3: not JSON ("),
        ("rows.jsonl", '{"subject": "Lyon", "relation": ["P17"]}', "rows.jsonl: 1 invalid line; "
         "nothing was read; correct the file\n  line 1: relation ['P17'] was not trained"),
        ("rows.csv", f"subject\nLyon\n{'long ' * 40}\nOslo\n", "rows.csv: line 3: template '{subj"),
    ],
)  # fmt: skip
def test_a_bad_line_is_named(project: Path, name: str, text: str, said: str) -> None:
    Path(name).write_text(text)
    result = invoke("lama", "P17", "--file", name, "--out", "answers.csv")
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {said}")
    assert not Path("answers.csv").exists()


@pytest.mark.parametrize(
    ("lost", "command", "said"),
    [
        ("data/model", "lama P17 Lyon", "data/model: not there; run `dvc repro`, or `dvc check"),
        ("data/splits/lama", "lama P17 Lyon", "data/splits/lama: not there; run `dvc repro`"),
        ("models", "lama P17 Lyon", "models/lama: nothing has been trained; run `dvc repro`, or"),
        ("models", "cb --premise a --hypothesis b", "models/superglue/cb: nothing has been"),
        ("params.yaml", "lama P17 Lyon", "params.yaml: no such file; run from the root of the"),
    ],
)  # fmt: skip
def test_what_was_not_made_yet_is_named(project: Path, lost: str, command: str, said: str) -> None:
    path = project / lost
    path.unlink() if path.is_file() else shutil.rmtree(path)
    result = invoke(*shlex.split(command))
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {said}")


def test_an_option_of_another_task_is_refused(project: Path) -> None:
    result = invoke("rte", "--passage", "a")
    assert result.exit_code == 2
    assert "No such option: --passage" in result.stderr


def examples_of(command: str) -> list[list[str]]:
    """The commands that a help shows, as a shell reads them."""
    text = invoke(command, "--help").stdout.partition("Examples:")[2].partition(" A file")[0]
    lines = "\n".join(line.strip() for line in text.splitlines()).replace("\\\n", "")
    return [shlex.split(line) for line in lines.splitlines() if line]


@pytest.mark.parametrize("command", ["lama", *task_names()])
def test_help_shows_examples_that_fit_the_command(
    project: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(commands, "predict_facts", lambda *given: asked.append(given))
    monkeypatch.setattr(commands, "predict_examples", lambda *given: asked.append(given))
    shown = examples_of(command)
    assert len(shown) == (3 if command == "lama" else 2)
    for words in shown:
        assert words[:3] == ["ptune", "predict", command]
        assert invoke(*words[2:]).exit_code == 0
    if command == "lama":
        assert asked[1][:3] == ("P17", ["New York", "Oslo"], 3)
        return
    given = {name: value for name, value in asked[0][2].items() if value is not None}
    fields = get_task(command).schema.fields
    assert given == {field.name: field.example for field in fields if field.required}
    assert asked[1][3].out == Path("answers.csv")


def test_the_examples_of_rte_run(project: Path) -> None:
    typed, from_file = examples_of("rte")
    assert invoke(*typed[2:]).exit_code == 0
    Path("rows.csv").write_text("premise,hypothesis\nOslo,Norway\n")
    assert invoke(*from_file[2:]).exit_code == 0
    assert Path("answers.csv").exists()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.cli.app import app\n"
        "try: app(['predict', 'rte', '--help'])\n"
        "finally: assert not {'torch', 'transformers', 'mlflow', 'dvc'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_paths_are_those_of_dvc_yaml() -> None:
    stages = YAML(typ="safe").load(ROOT / "dvc.yaml")["stages"]

    def made_by(stage: str) -> str:
        (path,) = stages[stage]["outs"]
        return str(path)

    assert str(commands.MODEL) == made_by("download-model")
    assert str(commands.LAMA_SPLITS) == made_by("splits-lama")
    assert f"{commands.LAMA_TRAINED}/${{item.method}}" == made_by("train-lama")
    for folder, benchmark in (
        (commands.TASKS_TRAINED, "superglue"),
        (commands.OWN_TRAINED, "tasks"),
    ):
        assert f"{folder}/${{item.task}}/${{item.method}}" == made_by(f"train-{benchmark}")
    (own,) = stages["splits-tasks"]["do"]["outs"]
    assert f"{commands.OWN_SPLITS}/${{key}}" == own


def test_a_file_that_exists_is_never_replaced(project: Path) -> None:
    rows = Path("kept.csv")
    rows.write_text("subject\nLyon\n")
    result = invoke("lama", "P17", "--file", "kept.csv", "--out", "kept.csv")
    assert result.exit_code == 1
    assert "--out kept.csv: exists; name another file" in result.output
    assert rows.read_text() == "subject\nLyon\n"
