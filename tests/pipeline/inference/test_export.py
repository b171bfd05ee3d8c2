"""Exported folders, used by their own model cards in a process that cannot import the project."""

import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline.data.lama import Fact, LamaSplits, Relation, write_lama
from pipeline.errors import ModelError, PipelineError
from pipeline.files import write_jsonl
from pipeline.inference import export as module
from pipeline.inference.export import export
from pipeline.inference.model_card import PROMPTS
from pipeline.inference.predictor import TrainedPrompt, predict
from pipeline.inference.registry import Candidate
from pipeline.models.loading import ModelCache, load_model
from pipeline.prompts.store import StoredPrompt, load_prompts, save_prompts, weights_file
from pipeline.tasks import Example, get_task
from pipeline.tasks.lama import fact_examples, lama_task
from pipeline.tasks.own import Definition
from tests.families import save_family
from tests.project import LAMA_FACTS, LAMA_TEMPLATES, LAMA_WORDS
from tests.tiny import FAMILIES, MASKED

RTE = [
    {"premise": f"{a} is in {b} .", "hypothesis": f"{a} is a city", "idx": n, "label": "entailment"}
    for n, (a, b) in enumerate((a, b) for a in ("Paris", "Lyon") for b in ("Asia", "Japan"))
]
VERBALIZER = {"entailment": "yes", "not_entailment": "no"}
# As the paper's for RTE; of prompt tuning; with braces, and text right behind a prompt.
TEMPLATES = (
    "{premise:shorten} Question: {statement}? [P*2] Answer: {mask}.",
    "[P*5] {premise:shorten} {hypothesis} {mask}",
    "{{ {premise} }}[P], in [P]is {hypothesis}[P] {mask} .",
    "{premise} {hypothesis}? {mask}",
)
OF_MASKED = ("{statement}? [P][SEP] {mask}, {premise:shorten}",)  # PET's
TRAINING = "rte/setting-1/split-1/seed-1"


def make_rte(
    root: Path, model: Path, template: str, *, start: str | None = None, method: str = "p-tuning"
) -> Candidate:
    """A training with random vectors."""
    network = load_model(model, device="cpu", start=start)
    count = template.count("[P]") + sum(n * template.count(f"[P*{n}]") for n in range(2, 6))
    vectors = torch.randn(count, network.embedding_size) if count else None
    prompt = StoredPrompt(template, vectors, 1, 0.5, VERBALIZER, 64)
    trained = root / "trained" / method
    trained.mkdir(parents=True)
    save_prompts(trained, method, {TRAINING: prompt})
    write_jsonl(root / "splits/test.jsonl", RTE)
    return make_candidate(root, model, "rte", start=start, method=method)


def make_candidate(
    root: Path, model: Path, task: str, *, start: str | None = None, method: str = "p-tuning"
) -> Candidate:
    folders = {"trained": root / "trained" / method, "model": model, "splits": root / "splits"}
    return Candidate(
        "superglue" if task else "lama",
        task,
        method,
        {name: str(path) for name, path in folders.items()},
        {"trained": "a1.dir", "model": "b2.dir", "splits": "c3.dir"},
        {"dtype": "auto", "start": start},
        0.75,
    )


def rte_examples() -> list[Example]:
    return [example for record in RTE for example in get_task("rte").examples(record)]


def expected_log_probs(candidate: Candidate, asked: dict[str, list[Example]]) -> list[Any]:
    """As `ptune predict` answers the examples of each training."""
    prompts = load_prompts(Path(candidate.folders["trained"]))
    source = Path(candidate.folders["model"])
    network = load_model(source, device="cpu", start=candidate.model["start"])
    models, found = ModelCache(lambda **_: network), []
    for name, examples in asked.items():
        task = get_task("rte") if candidate.task else lama_task(name.partition("/")[0], LAMA_WORDS)
        trained = TrainedPrompt(candidate.method, name, prompts[name])
        for answers in predict(models, trained, task, examples):
            found.append({answer: math.log(value) for answer, value in answers.items()})
    return found


def code_of(folder: Path) -> str:
    return (folder / "README.md").read_text().split("```python\n")[1].split("```")[0]


ALONE = """
import contextlib, io, json, os, sys
sys.modules["pipeline"] = None
found = []
for folder, code in json.load(sys.stdin):
    os.chdir(folder)
    names = {}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        exec(code, names)
    pairs = zip(names["answers"], names["log_probs"].tolist())
    found.append([dict(pairs), printed.getvalue()])
print(json.dumps(found))
"""


def run_alone(cards: list[tuple[Path, str]], away: Path) -> list[tuple[dict[str, float], str]]:
    """Run the code of model cards in their folders; the answers' scores, and what was printed."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE],
        input=json.dumps([(str(folder), code) for folder, code in cards]),
        cwd=away, env=environment, capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(scores, printed) for scores, printed in json.loads(done.stdout.splitlines()[-1])]


def test_the_code_of_the_card_answers_as_predict_does_without_this_project(
    tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    torch.manual_seed(1)
    cases: list[tuple[Path, str, dict[str, float]]] = []
    settings: list[tuple[str, str | None, str]] = [
        *((family, "auto", template) for family in FAMILIES for template in TEMPLATES[:2]),
        *(
            (family, "auto", template)
            for family in ("albert", "llama")
            for template in TEMPLATES[2:]
        ),
        *((family, None, template) for family in MASKED for template in OF_MASKED),
        *((family, "none", TEMPLATES[0]) for family in ("gpt2", "llama")),
    ]
    for number, (family, start, template) in enumerate(settings):
        root = tmp_path / f"{number}-{family}"
        candidate = make_rte(root, tiny_folders[family], template, start=start)
        compared = export(candidate, root / "out")
        assert compared.examples == len(RTE)
        assert compared.difference < 1e-5
        first, *_, last = rte_examples()
        code = other = code_of(root / "out")
        for field, value in first.values.items():
            other = other.replace(f"{field}={value!r}", f"{field}={last.values[field]!r}")
        expected = expected_log_probs(candidate, {TRAINING: [first, last]})
        cases += zip([root / "out"] * 2, [code, other], expected, strict=True)
    found = run_alone([(folder, code) for folder, code, _ in cases], tmp_path)
    for (folder, _, expected), (scores, printed) in zip(cases, found, strict=True):
        assert scores == pytest.approx(expected, abs=1e-5), folder
        assert f"'{max(expected, key=lambda answer: expected[answer])}'" in printed


@pytest.mark.parametrize("family", ["gemma3_text", "gemma3", "opt", "mobilebert", "cohere"])
def test_scaled_embeddings_and_other_heads_give_the_same_scores(
    tmp_path: Path, family: str
) -> None:
    """Gemma's embedding layer scales, OPT's and MobileBERT's vectors have another size."""
    candidate = make_rte(tmp_path, save_family(family, tmp_path / "model"), TEMPLATES[0])
    assert export(candidate, tmp_path / "out").difference < 1e-5


def test_all_relations_of_lama_share_a_folder(
    tmp_path: Path, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    facts = {
        relation: {name: [Fact(relation, *pair) for pair in own] for name, own in splits.items()}
        for relation, splits in LAMA_FACTS.items()
    }
    relations = {name: Relation(name, text, name) for name, text in LAMA_TEMPLATES.items()}
    write_lama(tmp_path / "splits", LamaSplits(relations, facts, LAMA_WORDS, {}))
    trained = tmp_path / "trained/p-tuning"
    trained.mkdir(parents=True)
    # One is read without a space in front of the answer.
    layouts = ("[P*3] {subject} is in [P*3] {mask} .", "[P] {subject} [P*2] is ({mask} ) .")
    prompts = {
        f"{name}/setting-1/split-1/seed-1": StoredPrompt(
            layouts[name == "P30"], torch.randn(3 if name == "P30" else 6, 32), 1, 0.5
        )
        for name in LAMA_TEMPLATES
    }
    save_prompts(trained, "p-tuning", prompts)
    candidate = make_candidate(tmp_path, tiny_folders["bert"], "")
    assert export(candidate, tmp_path / "out").examples == 2 * len(LAMA_TEMPLATES)
    description = json.loads((tmp_path / "out" / PROMPTS).read_text())
    assert description["prompts"]["P17"]["text"] == (
        "[P17.1][P17.2][P17.3] {subject} is in[P17.4][P17.5][P17.6][MASK] ."
    )
    monkeypatch.chdir(tmp_path / "out")
    code = code_of(tmp_path / "out")
    for name in LAMA_TEMPLATES:
        example = fact_examples(facts[name]["test"])[-1]
        own = code.replace("'P36'", repr(name)).replace("'Japan'", repr(example.name))
        found: dict[str, Any] = {}
        exec(own, found)  # noqa: S102 - as a reader of the card does
        scores = dict(zip(found["answers"], found["log_probs"].tolist(), strict=True))
        training = f"{name}/setting-1/split-1/seed-1"
        (expected,) = expected_log_probs(candidate, {training: [example]})
        assert scores == pytest.approx(expected, abs=1e-5)


def test_a_task_of_the_user_is_exported(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    candidate = make_rte(tmp_path, tiny_folders["bert"], "{premise} [P] {hypothesis}? {mask}")
    labels = ["entailment", "not_entailment"]
    own = Definition("own", ["premise", "hypothesis"], labels, ["accuracy"])
    own.write(tmp_path / "splits")
    trained = Path(candidate.folders["trained"])
    save_prompts(
        trained, "p-tuning", {"own/setting-1/split-1/seed-1": load_prompts(trained)[TRAINING]}
    )
    export(replace(candidate, benchmark="tasks", task="own"), tmp_path / "out")
    assert "own: {premise}[P1] {hypothesis}?[MASK]" in (tmp_path / "out/README.md").read_text()


def test_tuned_weights_are_exported(tmp_path: Path, tiny_folders: dict[str, Path]) -> None:
    torch.manual_seed(1)
    candidate = make_rte(tmp_path, tiny_folders["bert"], TEMPLATES[0])
    trained = Path(candidate.folders["trained"])
    network = load_model(tiny_folders["bert"], device="cpu").network
    weights = {k: w.detach() + 0.1 * torch.randn_like(w) for k, w in network.named_parameters()}
    path = weights_file(trained, TRAINING)
    path.parent.mkdir()
    save_file(weights, path)
    save_prompts(trained, "p-tuning", load_prompts(trained))
    assert export(candidate, tmp_path / "out").difference < 1e-5
    name = "bert.encoder.layer.0.output.dense.weight"
    assert torch.equal(load_file(tmp_path / "out/model.safetensors")[name], weights[name])


def test_the_card_names_templates_words_scores_and_lineage(
    tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    export(make_rte(tmp_path, tiny_folders["bert"], TEMPLATES[0]), tmp_path / "out")
    card = (tmp_path / "out/README.md").read_text()
    assert "rte: {premise} Question: {statement}?[P1][P2] Answer:[MASK]." in card
    assert r"| not\_entailment | no |" in card
    assert "`score`: dev 50.0, test 75.0, the means over trainings." in card
    assert f"`{TRAINING}`, with the best dev score: 50.0" in card
    assert "| the data | `c3.dir` |" in card


@pytest.mark.parametrize(("before", "token"), [("", 9), ("(", 10)])
def test_what_the_tokenizer_cannot_spell_is_refused(
    tmp_path: Path, tiny_folders: dict[str, Path], before: str, token: int
) -> None:
    """In the first Llamas, text behind a special token begins with a space."""
    candidate = make_rte(
        tmp_path, tiny_folders["llama"], f"{{premise}} [P]{before}{{hypothesis}} {{mask}}"
    )
    with pytest.raises(
        ModelError, match=f"from token {token}, ▁Paris ▁is ▁a instead of Paris ▁is ▁a"
    ):
        export(candidate, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_answers_otherwise_is_refused(
    tmp_path: Path, tiny_folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    candidate = make_rte(tmp_path, tiny_folders["bert"], TEMPLATES[0])
    set_embeddings = module._set_embeddings

    def set_others(model: Any, vocabulary: Any) -> None:
        vocabulary.vectors[0] = -vocabulary.vectors[0]
        set_embeddings(model, vocabulary)

    monkeypatch.setattr(module, "_set_embeddings", set_others)
    with pytest.raises(ModelError, match="other scores: log-probabilities differ by"):
        export(candidate, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_existing_folder_is_replaced_only_if_it_is_an_export(
    tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    candidate = make_rte(tmp_path, tiny_folders["bert"], TEMPLATES[0])
    export(candidate, tmp_path / "out")
    with pytest.raises(PipelineError, match=r"out: exists; .* --force"):
        export(candidate, tmp_path / "out")
    (tmp_path / "out/README.md").write_text("old")
    export(candidate, tmp_path / "out", force=True)
    assert (tmp_path / "out/README.md").read_text() != "old"
    with pytest.raises(PipelineError, match="not an export"):
        export(candidate, tmp_path / "splits", force=True)
    assert (tmp_path / "splits/test.jsonl").is_file()


def test_what_is_more_than_added_tokens_is_refused(
    tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    candidate = make_rte(tmp_path, tiny_folders["bert"], TEMPLATES[0], method="classifier")
    with pytest.raises(PipelineError, match=r"classifier of rte: .* choose another method"):
        export(candidate, tmp_path / "out")
    shutil.copytree(tmp_path / "trained/classifier", tmp_path / "trained/p-tuning")
    with pytest.raises(PipelineError, match="copa: its answers are the examples' own texts"):
        export(make_candidate(tmp_path, tiny_folders["bert"], "copa"), tmp_path / "out")
    quantized = replace(candidate, method="p-tuning", model={"quantization": "4bit"})
    with pytest.raises(PipelineError, match=r"trained with model\.quantization: 4bit"):
        export(quantized, tmp_path / "out")


def test_inputs_that_are_all_shortened_cannot_be_compared(
    tmp_path: Path, tiny_folders: dict[str, Path]
) -> None:
    candidate = make_rte(tmp_path, tiny_folders["bert"], TEMPLATES[0])
    write_jsonl(tmp_path / "splits/test.jsonl", [{**RTE[0], "premise": "a " * 80}])
    with pytest.raises(PipelineError, match="each of 1 test examples is shortened"):
        export(candidate, tmp_path / "out")
