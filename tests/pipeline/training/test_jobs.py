import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.config.schema import MethodParams, RuntimeParams
from pipeline.data.lama import Fact
from pipeline.engine.units import Progress, Serial, Unit
from pipeline.errors import DataError, ModelError, TemplateError
from pipeline.evaluation.metrics import accuracy
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import ModelCache, load_model
from pipeline.models.scoring import score_examples
from pipeline.prompts.store import weights_file
from pipeline.prompts.template import parse_template
from pipeline.tasks import Example, get_task
from pipeline.tasks.lama import apply_layout, manual_template
from pipeline.training import jobs
from pipeline.training.jobs import (
    BankOutcome,
    BankStarted,
    EpochEnded,
    Trial,
    TrialRunner,
    TrialSelection,
    group_trials,
    make_job,
    select_settings,
)
from pipeline.training.loop import EpochRecord, TrainingJob, TrainingResult, train
from tests.jobs import (
    ADAM,
    changed,
    diverge_above,
    fact_job,
    fact_trial,
    method,
    task_trial,
    train_jobs,
)
from tests.tiny import FAMILIES
from tests.worked import VOCABULARY, hand_row, ids, make_facts, slow_answer

RTE = get_task("rte")
HYBRID = parse_template("[P*2] {subject} is in [P] {mask} .", ["subject"])
PATTERN = parse_template("{premise:shorten}? [P] {mask}, {hypothesis}.", RTE.fields)
YES_NO = {"entailment": "yes", "not_entailment": "no"}
RUNTIME = RuntimeParams(
    engine="serial", device="cpu", threads=None, max_tokens_per_forward=16, checkpoint_seconds=99
)


# From a trial to a job


def fact(subject: str, object_: str) -> Fact:
    return Fact("P17", subject, object_)


def example(premise: str, hypothesis: str, label: str) -> Example:
    return Example("0", {"premise": premise, "hypothesis": hypothesis}, label)


def rte_job(
    model: PromptedModel,
    examples: Mapping[str, list[Example]],
    verbalizer: dict[str, str] = YES_NO,
    max_length: int = 64,
) -> TrainingJob:
    trial = task_trial("rte", PATTERN, examples, verbalizer=verbalizer, max_length=max_length)
    return make_job(model, trial)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("encoder", ["lstm", "mlp", "embedding"])
def test_a_prompt_that_starts_from_the_template_is_its_words_before_training(
    tiny_models: dict[str, PromptedModel], family: str, encoder: str
) -> None:
    model = tiny_models[family]
    facts = {split: [fact("Oslo", "Norway")] for split in ("train", "dev")}
    training = method(epochs=1, encoder=encoder, start="manual")
    job = make_job(model, fact_trial("P17", HYBRID, facts, ["Norway"], training=training))
    scores = iter([1.0, 0.0])  # the first epoch, before training, is the best

    result = train_jobs(
        model, [job], epochs=1, encoder=encoder, start="manual",
        job={"score": lambda *_: next(scores)},
    )["P17"]  # fmt: skip

    words = torch.tensor(ids(family, model.codec, "_is _in _is"))
    assert result.vectors is not None
    torch.testing.assert_close(
        result.vectors, model.input_embeddings(words).detach(), rtol=1e-4, atol=1e-4
    )
    assert not make_job(model, fact_trial("P17", HYBRID, facts, ["Norway"])).start_words


@pytest.mark.parametrize("family", FAMILIES)
def test_a_relation_becomes_a_job_over_the_whole_vocabulary(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    facts = {
        "train": [fact("Oslo", "Norway"), fact("Lyon", "Zanzibar"), fact("Paris", "France")],
        "dev": [fact("Japan", "Asia")],
    }

    job = fact_job(model, "P17", HYBRID, facts, ["Asia", "France", "Norway", "Zanzibar"])

    assert (job.name, job.prompt_tokens, job.open_vocabulary) == ("P17", 3, True)
    assert job.train.rows == [
        hand_row(family, model, "P P _Oslo _is _in P M _ ."),
        hand_row(family, model, "P P _Paris _is _in P M _ ."),
    ]
    assert job.train.targets.tolist() == [2, 1]
    assert job.dev.rows == [hand_row(family, model, "P P _Japan _is _in P M _ .")]
    assert job.dev.targets.tolist() == [0]
    for dataset in (job.train, job.dev):
        assert dataset.word_ids.tolist() == ids(family, model.codec, "_Asia _France _Norway")


@pytest.mark.parametrize("family", FAMILIES)
def test_objects_of_several_tokens_are_learned_by_their_mean_log_probability(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    """Each token competes with the vocabulary; on dev, the objects compete."""
    model = tiny_models[family]
    objects = ["Asia", "France in Europe", "Norway"]
    names = [("Oslo", "Norway"), ("Paris", "France in Europe"), ("Japan", "Asia")]
    facts = {split: [fact(*pair) for pair in names] for split in ("train", "dev")}
    trial = fact_trial("P17", HYBRID, facts, VOCABULARY, objects=objects)
    job = make_job(model, trial)
    assert job.sizes == {"train": 3, "dev": 3}
    # The vectors hardly move, so that the loss of the epoch is that of the start.
    slow = changed(ADAM, learning_rate=1e-9)
    result = train_jobs(model, [job], epochs=1, batch_size=2, prompt_optimizer=slow)["P17"]
    losses, hits, dev_losses = [], 0, []
    for subject, object_ in names:
        sentence = f"P P _{subject} _is _in P M _ ."
        scores = [
            slow_answer(family, model, sentence, spelled(name), result.vectors) for name in objects
        ]
        right = objects.index(object_)
        losses.append(-scores[right])
        dev_losses.append(-float(torch.tensor(scores).log_softmax(0)[right]))
        hits += max(scores) == scores[right]
    assert result.history[1].train_loss == pytest.approx(sum(losses) / 3, abs=1e-3)
    assert result.history[1].dev_loss == pytest.approx(sum(dev_losses) / 3, abs=1e-3)
    assert result.history[1].dev_score == hits / 3


def spelled(name: str) -> str:
    return " ".join(f"_{word}" for word in name.split())


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_objects_of_one_token_are_learned_alike_whatever_competes_on_dev(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    facts = {"train": make_facts(5), "dev": make_facts(2)}
    losses = []
    for objects in ((), VOCABULARY):
        trial = fact_trial("P17", HYBRID, facts, VOCABULARY, objects=objects)
        job = make_job(tiny_models[family], trial)
        history = train_jobs(tiny_models[family], [job], epochs=2)["P17"].history
        losses.append([(record.train_loss, record.dev_loss) for record in history[1:]])
    assert losses[0] == [pytest.approx(pair, rel=1e-4) for pair in losses[1]]


@pytest.mark.parametrize("empty", ["train", "dev"])
@pytest.mark.parametrize("facts", [[], [fact("Lyon", "Zanzibar")]])
def test_a_relation_without_a_single_answer_is_an_error_that_names_it(
    tiny_models: dict[str, PromptedModel], empty: str, facts: list[Fact]
) -> None:
    splits = {"train": [fact("Oslo", "Norway")], "dev": [fact("Oslo", "Norway")]} | {empty: facts}
    with pytest.raises(DataError, match=f"P17: no {empty} example has an answer that is one token"):
        fact_job(tiny_models["bert"], "P17", HYBRID, splits, ["Norway", "Zanzibar"])


def test_a_field_that_a_causal_model_never_sees_is_an_error(
    tiny_models: dict[str, PromptedModel],
) -> None:
    examples = {split: [example("Paris", "no", "entailment")] for split in ("train", "dev")}
    with pytest.raises(TemplateError, match=r"\{hypothesis\} follows \{mask\}, where a causal"):
        rte_job(tiny_models["llama"], examples)


def test_prompt_tokens_that_a_causal_model_never_sees_are_an_error(
    tiny_models: dict[str, PromptedModel],
) -> None:
    facts = {split: [fact("Oslo", "Norway")] for split in ("train", "dev")}
    after = parse_template("{subject} is in {mask} [P*3] .", ["subject"])
    with pytest.raises(TemplateError, match=r"P17, .*all prompt tokens follow \{mask\}"):
        fact_job(tiny_models["gpt2"], "P17", after, facts, ["Norway"])
    assert fact_job(tiny_models["bert"], "P17", after, facts, ["Norway"]).prompt_tokens == 3
    both = parse_template("{subject} [P] is in {mask} [P*3] .", ["subject"])
    assert fact_job(tiny_models["gpt2"], "P17", both, facts, ["Norway"]).prompt_tokens == 4


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_task_becomes_a_job_over_its_label_words(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    examples = {
        "train": [example("Paris", "no", "not_entailment"), example("Oslo", "yes", "entailment")],
        "dev": [example("Lyon", "a", "entailment")],
    }

    job = rte_job(model, examples, dict(reversed(YES_NO.items())))

    assert (job.name, job.prompt_tokens, job.open_vocabulary) == ("rte", 1, False)
    assert job.train.answers == ["entailment", "not_entailment"]
    assert job.train.word_ids.tolist() == ids(family, model.codec, "_yes _no")
    assert job.train.targets.tolist() == [1, 0]
    assert job.dev.rows == [hand_row(family, model, "^Lyon ? P M , _a .")]
    assert job.score(torch.tensor([0]), job.dev.targets) == 1.0


def test_the_premise_of_a_task_is_cut_to_max_length(tiny_models: dict[str, PromptedModel]) -> None:
    model = tiny_models["bert"]
    examples = [example("Paris Lyon Oslo France", "a", "entailment")]
    job = rte_job(model, {"train": examples, "dev": examples}, max_length=10)
    assert job.train.rows == [hand_row("bert", model, "^Paris _Lyon ? P M , _a .")]


def test_a_task_without_examples_is_an_error(tiny_models: dict[str, PromptedModel]) -> None:
    examples = {"train": [example("Paris", "no", "entailment")], "dev": []}
    with pytest.raises(DataError, match="rte: no dev example"):
        rte_job(tiny_models["bert"], examples)


def test_a_verbalizer_of_several_tokens_is_an_error(tiny_models: dict[str, PromptedModel]) -> None:
    examples = [example("Paris", "no", "entailment")]
    with pytest.raises(TemplateError, match="'certainly' of label 'entailment' is 9 tokens"):
        rte_job(
            tiny_models["bert"],
            {"train": examples, "dev": examples},
            YES_NO | {"entailment": "certainly"},
        )


def test_a_template_that_does_not_fit_the_model_is_an_error(
    tiny_models: dict[str, PromptedModel],
) -> None:
    template = parse_template("{mask}: {subject}", ["subject"])
    facts = [fact("Oslo", "Norway")]
    with pytest.raises(TemplateError, match=r"precedes {mask}"):
        fact_job(tiny_models["gpt2"], "P17", template, {"train": facts, "dev": facts}, ["Norway"])


# Selection


FROZEN = method(encoder="mlp")
TRIALS = [
    replace(
        task_trial(task, PATTERN, {}, verbalizer=YES_NO, setting=setting, split=split),
        task=task,
    )
    for task in ("rte",)
    for setting in (1, 2, 3)
    for split in (1, 2)
]


def scored(score: float) -> TrainingResult:
    return TrainingResult(history=[EpochRecord(0, None, 1.0, score)])


def results_of(scores: tuple[float, ...]) -> dict[Trial, TrainingResult]:
    """Scores by setting; the two splits lie around them."""
    return {
        trial: scored(scores[trial.config.number - 1] + (0.1 if trial.split == 1 else -0.1))
        for trial in TRIALS
    }


@pytest.mark.parametrize(
    ("scores", "number"),
    [((0.5, 0.25, 0.25), 1), ((0.25, 0.25, 0.5), 3), ((0.25, 0.5, 0.5), 2), ((0.5, 0.5, 0.5), 1)],
)
def test_the_best_mean_over_the_splits_is_selected_the_first_of_several(
    scores: tuple[float, ...], number: int
) -> None:
    chosen, rejected = select_settings(TRIALS, results_of(scores))
    assert chosen == {"rte": number}
    assert rejected == [trial for trial in TRIALS if trial.config.number != number]
    kept = TrialSelection(results_of(scores), chosen).kept
    assert list(kept) == [trial for trial in TRIALS if trial.config.number == number]


def test_each_split_may_select_its_own_setting() -> None:
    scores = {(1, 1): 0.5, (1, 2): 0.2, (2, 1): 0.4, (2, 2): 0.6, (3, 1): 0.5, (3, 2): 0.6}
    results = {t: scored(scores[t.config.number, t.split]) for t in TRIALS}
    chosen, rejected = select_settings(TRIALS, results, by_split=True)
    assert chosen == {"rte": {1: 1, 2: 2}}
    selection = TrialSelection(results, chosen)
    assert [(t.split, t.config.number) for t in selection.kept] == [(1, 1), (2, 2)]
    assert set(rejected) == set(TRIALS) - set(selection.kept)
    assert selection.describe()["tasks"]["rte"]["chosen"] == {1: 1, 2: 2}


def test_a_setting_with_a_trial_to_come_is_not_selected_and_not_rejected() -> None:
    results = results_of((0.25, 0.5, 0.9))
    del results[TRIALS[-1]]
    chosen, rejected = select_settings(TRIALS, results)
    assert chosen == {"rte": 2}
    assert rejected == TRIALS[:2]


def test_dev_selects_for_each_task() -> None:
    other = [replace(trial, task="cb") for trial in TRIALS[:4]]
    results = results_of((0.25, 0.5, 0.1)) | {trial: scored(0.5) for trial in other}
    chosen, _ = select_settings([*TRIALS, *other], results)
    assert chosen == {"rte": 2, "cb": 1}


def test_trials_are_described_by_task_and_setting() -> None:
    content = TrialSelection(results_of((0.5, 0.25, 0.25)), {"rte": 1}).describe()
    assert list(content["tasks"]) == ["rte"]
    task = content["tasks"]["rte"]
    assert task["chosen"] == 1
    assert [setting["number"] for setting in task["settings"]] == [1, 2, 3]
    assert task["settings"][1]["trials"] == [
        {
            "name": f"rte/setting-2/split-{split}/seed-7",
            "split": split,
            "seed": 7,
            "best_epoch": 0,
            "dev_score": score,
        }
        for split, score in ((1, 0.35), (2, 0.15))
    ]


def test_a_description_has_the_examples_and_the_steps_that_training_took() -> None:
    results = results_of((0.5, 0.25, 0.25))
    trial, result = next(iter(results.items()))
    batch = trial.config.training.batch_size
    history = [EpochRecord(epoch, None, 1.0, 0.5) for epoch in range(4)]
    result = replace(result, history=history, examples={"train": 2 * batch + 1, "dev": 5})
    sizes = {"examples_train": 2 * batch + 1, "examples_dev": 5, "steps": 3 * 3}
    assert trial.sizes(result) == sizes
    content = TrialSelection({trial: result}, {"rte": 1}).describe()
    (described,) = content["tasks"]["rte"]["settings"][0]["trials"]
    assert sizes.items() <= described.items()


# Banks


def test_equal_settings_and_seed_make_a_bank_over_tasks_and_splits() -> None:
    faster = method(prompt_optimizer=changed(ADAM, learning_rate=2e-2))

    def trial(task: str, setting: int, split: int, seed: int, training: MethodParams) -> Trial:
        found = task_trial(
            "rte", PATTERN, {}, verbalizer=YES_NO, training=training, setting=setting,
            split=split, seed=seed,
        )  # fmt: skip
        return replace(found, task=task)

    trials = [
        trial(task, setting, split, seed, training)
        for task in ("rte", "cb")
        for setting, training in ((1, method()), (2, faster))
        for split in (1, 2)
        for seed in (34, 35)
    ]
    banks = {bank.name: [one.name for one in bank.trials] for bank in group_trials(trials)}
    assert list(banks) == ["bank-1/seed-34", "bank-1/seed-35", "bank-2/seed-34", "bank-2/seed-35"]
    assert banks["bank-2/seed-34"] == [
        f"{task}/setting-2/split-{split}/seed-34" for task in ("rte", "cb") for split in (1, 2)
    ]
    tuned = [trial("rte", 1, 1, seed, method(model_optimizer=ADAM)) for seed in (34, 35)]
    assert [bank.name for bank in group_trials(tuned)] == [one.name for one in tuned]


# The runner


@dataclass
class Log:
    """A reporter that remembers."""

    run_id: str = "first"
    lines: list[str] = field(default_factory=list)
    progress: list[tuple[str, int, int]] = field(default_factory=list)
    metrics: list[tuple[str, int | None]] = field(default_factory=list)
    on_metrics: Callable[[int], None] = lambda _: None

    @contextlib.contextmanager
    def child(self, _: str, __: Mapping[str, Any]) -> Iterator["Log"]:
        yield self

    def echo(self, text: str) -> None:
        self.lines.append(text)

    def show_progress(self, text: str, done: int, total: int) -> None:
        self.progress.append((text, done, total))

    def log_metrics(self, metrics: Mapping[str, float], epoch: int | None = None) -> None:
        self.metrics += [(name, epoch) for name in metrics]
        self.on_metrics(len(self.lines))


def runner(folder: Path, load: Callable[..., PromptedModel], log: Log | None = None) -> TrialRunner:
    def unit_folder(_: str, content: Mapping[str, Any]) -> Path:
        unit = folder / jobs.__name__ / str(abs(hash(repr(content))))
        unit.parent.mkdir(parents=True, exist_ok=True)
        return unit

    return TrialRunner(ModelCache(load), unit_folder, log or Log(), Serial(), RUNTIME)


def bank_trials(
    names: tuple[str, ...] = ("P17", "P30", "P47", "P17/2", "P1001"),
    layout: str = "paper-v2",
    training: MethodParams | None = None,
    *,
    masked: bool = True,
    **more: Any,
) -> list[Trial]:
    """Trials of relations with different numbers of facts."""
    template = apply_layout(layout, manual_template("[X] is in [Y] ."), masked=masked)
    return [
        fact_trial(
            name,
            template,
            {"train": make_facts(4 + place), "dev": make_facts(5, start=place)},
            VOCABULARY,
            training=training or method(encoder="mlp", patience=9),
            **more,
        )
        for place, name in enumerate(names)
    ]


def assert_same(ours: TrainingResult, other: TrainingResult, tolerance: float = 0.0) -> None:
    assert ours.best_epoch == other.best_epoch
    assert [r.dev_score for r in ours.history] == [r.dev_score for r in other.history]
    assert ours.vectors is not None
    assert other.vectors is not None
    torch.testing.assert_close(ours.vectors, other.vectors, rtol=0, atol=tolerance)


@pytest.mark.parametrize("fitting", [1, 2, 5, 99])
def test_banks_of_any_size_give_the_same_prompts(
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    fitting: int,
) -> None:
    model = tiny_models["bert"]
    trials = bank_trials()
    sizes = []

    def watched(model: PromptedModel, some: list[TrainingJob], *more: Any, **named: Any) -> Any:
        sizes.append(len(some))
        return train(model, some, *more, **named)

    expected = train(
        model, [make_job(model, trial) for trial in trials], trials[0].config.training,
        max_tokens_per_forward=16, best_checkpoint_path=tmp_path / "none", checkpoint=None,
        on_epoch=lambda *_: None,
    )  # fmt: skip
    monkeypatch.setattr(jobs, "estimate_bank_size", lambda *_: fitting)
    monkeypatch.setattr(jobs, "train", watched)
    selection = runner(tmp_path, lambda **_: model).run(trials, select=True)

    assert sizes == {1: [1] * 5, 2: [2, 2, 1], 5: [5], 99: [5]}[fitting]
    assert list(selection.results) == trials
    for ours, other in zip(selection.results.values(), expected, strict=True):
        assert_same(ours, other, 1e-4)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_prompts_that_are_not_trained_are_scored_in_one_bank(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "estimate_bank_size", lambda *_: pytest.fail("no encoder to count"))
    trials = bank_trials(layout="manual", training=method(encoder=None, epochs=0), masked=False)
    selection = runner(tmp_path, lambda **_: tiny_models["gpt2"]).run(trials, select=True)
    assert [len(result.history) for result in selection.results.values()] == [1] * len(trials)
    assert all(result.vectors is None for result in selection.results.values())


def test_the_longest_prompt_decides_how_many_fit(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = []

    def noted(_: PromptedModel, encoder: str, tokens: int) -> int:
        counted.append((encoder, tokens))
        return 9

    monkeypatch.setattr(jobs, "estimate_bank_size", noted)
    training = method(encoder="mlp", epochs=1)
    trials = [
        bank_trials((name,), layout, training)[0]
        for name, layout in {"P17": "[P*2] {subject} {mask}", "P30": "paper-v2"}.items()
    ]
    runner(tmp_path, lambda **_: tiny_models["bert"]).run(trials, select=True)
    assert counted == [("mlp", 9)]


def test_without_trials_nothing_is_trained(tmp_path: Path) -> None:
    selection = runner(tmp_path, lambda **_: pytest.fail("loaded")).run([], select=True)
    assert selection.results == {}
    assert selection.describe() == {"tasks": {}}


def test_a_seed_that_is_added_trains_only_its_bank_and_changes_no_other(
    tiny_models: dict[str, PromptedModel], tmp_path: Path
) -> None:
    def trials(*seeds: int) -> list[Trial]:
        return [trial for seed in seeds for trial in bank_trials(("P17", "P30"), seed=seed)]

    loaded = []

    def load(**_: Any) -> PromptedModel:
        loaded.append(1)
        return tiny_models["bert"]

    first = runner(tmp_path, load).run(trials(1, 2), select=True)
    log = Log("second")
    again = runner(tmp_path, load, log)
    both = again.run(trials(1, 2, 3), select=True)
    assert again.seconds_reused > 0
    assert log.lines[:2] == ["bank-1/seed-1: trained before", "bank-1/seed-2: trained before"]
    assert all("seed-3" in line for line in log.lines[2:])
    # The log has every epoch of every trial, of reused ones too.
    names = {name for name, _ in log.metrics if name.startswith("dev/p_at_1/")}
    assert names == {f"dev/p_at_1/{trial.name}" for trial in trials(1, 2, 3)}
    for old, new in zip(first.results.items(), list(both.results.items())[:4], strict=True):
        assert old[0].name == new[0].name
        assert old[1].history == new[1].history
        assert_same(new[1], old[1])
    unused = runner(tmp_path, lambda **_: pytest.fail("loaded")).run(trials(1, 2, 3), select=True)
    assert len(unused.results) == 6


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("name", ["fine-tuning", "p-tuning"])
def test_each_relation_tunes_the_model_as_it_was_loaded(
    tiny_folders: dict[str, Path], tmp_path: Path, family: str, name: str
) -> None:
    """Also where prompt and model are tuned together."""

    def load(**_: Any) -> PromptedModel:
        return load_model(tiny_folders[family], device="cpu", tuned=True)

    adam = changed(ADAM, learning_rate=1e-3, max_grad_norm=None)
    training = method(
        encoder="lstm" if name == "p-tuning" else None, prompt_optimizer=adam,
        model_optimizer=adam, patience=9,
    )  # fmt: skip
    start = load()
    layout = "{subject} {mask}" if name == "fine-tuning" else "paper-v2"
    trials = bank_trials(("P17", "P17/2", "P1001"), layout, training, masked=start.masked)
    run = runner(tmp_path, load)
    selection = run.save_weights(run.run(trials, select=True), tmp_path / "out")

    assert sorted(path.name for path in (tmp_path / "out/weights").iterdir()) == sorted(
        f"{one}-setting-1-split-1-seed-7.safetensors" for one in ("P17", "P17-2", "P1001")
    )
    for trial, result in selection.results.items():
        alone = tmp_path / "alone.safetensors"
        model = load()
        job = make_job(model, trial)
        (expected,) = train(
            model, [job], training, max_tokens_per_forward=16, best_checkpoint_path=alone,
            checkpoint=None, on_epoch=lambda *_: None,
        )  # fmt: skip
        file = weights_file(tmp_path / "out", trial.name)
        assert result.history == expected.history
        assert file.read_bytes() == alone.read_bytes()
        # Evaluation loads the weights of the file with the vectors of the same epoch.
        fresh = load_model(tiny_folders[family], device="cpu", weights=file)
        log_probs = score_examples(
            fresh, job.dev.rows, result.vectors, job.dev.word_ids, max_tokens_per_forward=16
        )
        assert accuracy(log_probs.argmax(dim=1), job.dev.targets) == result.best_score
        loss = float(torch.nn.functional.nll_loss(log_probs, job.dev.targets))
        assert loss == pytest.approx(result.history[result.best_epoch].dev_loss, abs=1e-5)


class Killed(Exception):
    """In place of kill -9."""


def dying(after: int) -> Callable[[int], None]:
    def count(lines: int) -> None:
        if lines == after:
            raise Killed

    return count


@pytest.mark.parametrize("after", [1, 4, 7, 8])
def test_a_part_of_a_bank_that_is_done_is_not_repeated_after_a_kill(
    tiny_models: dict[str, PromptedModel],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: int,
) -> None:
    monkeypatch.setattr(jobs, "estimate_bank_size", lambda *_: 1)
    model = tiny_models["bert"]
    trials = bank_trials(("P17", "P30", "P47"))
    whole = runner(tmp_path / "whole", lambda **_: model).run(trials, select=True)
    with pytest.raises(Killed):
        runner(tmp_path / "killed", lambda **_: model, Log(on_metrics=dying(after))).run(
            trials, select=True
        )
    log = Log()
    again = runner(tmp_path / "killed", lambda **_: model, log).run(trials, select=True)
    for one, other in zip(again.results.values(), whole.results.values(), strict=True):
        assert one.history == other.history
        assert_same(one, other)
    # Three epochs a part; the part that was under way begins again.
    done = (after - 1) // 3
    assert {line.partition("/")[0] for line in log.lines} == {"P17", "P30", "P47"} - set(
        ("P17", "P30", "P47")[:done]
    )


def tuned_trials(scores: Mapping[int, float]) -> list[Trial]:
    return [
        fact_trial("P17", HYBRID, {}, VOCABULARY, setting=number, training=method(
            model_optimizer=changed(ADAM, learning_rate=score / 100)))
        for number, score in scores.items()
    ]  # fmt: skip


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Training that only writes weights: the score is the learning rate; what is trained."""
    trained: list[str] = []

    def train_bank(
        _: PromptedModel, some: list[Any], config: MethodParams, *, folder: Path, **more: Any
    ) -> list[TrainingResult]:
        assert config.model is not None
        trained.append(f"{config.model.learning_rate:.3f}")
        (folder / "weights.safetensors").write_text(f"of {len(trained)}")
        return [
            TrainingResult(
                vectors=torch.full((1, 2), float(len(trained))),
                history=[EpochRecord(0, None, 1.0, config.model.learning_rate)],
            )
        ]

    monkeypatch.setattr(jobs, "train_bank", train_bank)
    monkeypatch.setattr(jobs, "make_job", lambda *_: None)
    monkeypatch.setattr(jobs, "estimate_max_tokens", lambda *_, **__: 8)
    return trained


def weights(folder: Path) -> list[str]:
    return sorted(path.read_text() for path in folder.rglob("weights.safetensors"))


def test_weights_that_can_no_longer_be_selected_are_deleted(
    tmp_path: Path, scripted: list[str]
) -> None:
    run = runner(tmp_path, lambda **_: None)  # type: ignore[arg-type,return-value]
    selection = run.run(tuned_trials({1: 0.2, 2: 0.5, 3: 0.3}), select=True)
    assert selection.chosen == {"P17": 2}
    assert weights(tmp_path) == ["of 2"]
    kept = runner(tmp_path / "all", lambda **_: None)  # type: ignore[arg-type,return-value]
    every = kept.run(tuned_trials({1: 0.2, 2: 0.5}), select=False)
    assert every.chosen == {"P17": None}
    assert len(every.kept) == 2
    assert len(weights(tmp_path / "all")) == 2


def test_vectors_and_scores_are_those_of_the_weights_that_are_kept(
    tmp_path: Path, scripted: list[str]
) -> None:
    """The weights of setting 1 were deleted when setting 2 won; without it, they are needed."""
    both, one = tuned_trials({1: 0.2, 2: 0.5}), tuned_trials({1: 0.2})
    runner(tmp_path, lambda **_: None).run(both, select=True)  # type: ignore[arg-type,return-value]
    run = runner(tmp_path, lambda **_: None)  # type: ignore[arg-type,return-value]
    selection = run.run(one, select=True)
    assert scripted == ["0.002", "0.005"]
    selection = run.save_weights(selection, tmp_path / "out")
    assert scripted == ["0.002", "0.005", "0.002"]
    (result,) = selection.kept.values()
    assert result.vectors is not None
    assert result.vectors[0, 0] == 3
    assert weights_file(tmp_path / "out", one[0].name).read_text() == "of 3"


def test_weights_that_were_altered_through_the_output_are_trained_again(
    tmp_path: Path, scripted: list[str]
) -> None:
    (one,) = tuned_trials({1: 0.2})
    run = runner(tmp_path, lambda **_: None)  # type: ignore[arg-type,return-value]
    run.save_weights(run.run([one], select=True), tmp_path / "out")
    output = weights_file(tmp_path / "out", one.name)
    output.write_text("altered")
    assert weights(tmp_path) == ["altered"]  # a link
    selection = run.save_weights(run.run([one], select=True), tmp_path / "again")
    assert scripted == ["0.002", "0.002"]
    assert weights_file(tmp_path / "again", one.name).read_text() == "of 2"
    assert output.read_text() == "altered"
    (result,) = selection.kept.values()
    assert result.vectors is not None
    assert result.vectors[0, 0] == 2


def test_a_bank_that_diverges_costs_no_finished_bank(
    tiny_models: dict[str, PromptedModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverge_above(monkeypatch, 0.5)
    wild = method(encoder="embedding", prompt_optimizer=changed(ADAM, learning_rate=0.9))
    good, bad = bank_trials(("P17",)), bank_trials(("P17",), training=wild, setting=2)
    log = Log()
    with pytest.raises(ModelError, match=rf"^{bad[0].name}: epoch 1, .*training diverged"):
        runner(tmp_path, lambda **_: tiny_models["bert"], log).run([*good, *bad], select=True)
    # Nothing of the epoch is logged.
    assert max(epoch or 0 for name, epoch in log.metrics if "setting-2" in name) == 0
    log = Log("second")
    runner(tmp_path, lambda **_: pytest.fail("loaded"), log).run(good, select=True)
    assert log.lines == [f"bank-1/seed-{good[0].seed}: trained before"]


def test_a_bank_is_cut_into_units_of_consecutive_prompts() -> None:
    def sizes(per_unit: int | None, **more: Any) -> dict[str, list[str]]:
        training = method(encoder="mlp", prompts_per_unit=per_unit, **more)
        banks = group_trials([*bank_trials(training=training, seed=1)])
        return {bank.name: [trial.task for trial in bank.trials] for bank in banks}

    assert sizes(None) == {"bank-1/seed-1": ["P17", "P30", "P47", "P17/2", "P1001"]}
    assert sizes(2) == {
        "bank-1/seed-1/unit-1": ["P17", "P30"],
        "bank-1/seed-1/unit-2": ["P47", "P17/2"],
        "bank-1/seed-1/unit-3": ["P1001"],
    }
    assert [len(tasks) for tasks in sizes(9).values()] == [5]
    tuned = sizes(2, model_optimizer=ADAM)
    assert [len(tasks) for tasks in tuned.values()] == [1] * 5
    assert not [name for name in tuned if "unit" in name]


class Elsewhere:
    """An engine whose units are pickled, end in reverse order, and run again after a kill."""

    def __init__(self, kill_at: int) -> None:
        self.kill_at = kill_at

    def run(
        self, units: Sequence[Unit], on_report: Callable[[str, Any], None]
    ) -> Iterator[tuple[str, Future[Any]]]:
        for unit in reversed(units):
            left = self.kill_at

            def report(event: Any, name: str = unit.name) -> None:
                nonlocal left
                left -= isinstance(event, EpochEnded)
                if left == 0:
                    raise Killed
                on_report(name, event)

            with contextlib.suppress(Killed):
                unit.do(report)
            left = -1
            yield from Serial().run([Unit(unit.name, unit.do)], on_report)


def test_units_that_end_in_any_order_and_run_twice_select_the_same(
    tiny_folders: dict[str, Path], tmp_path: Path
) -> None:
    adam = changed(ADAM, learning_rate=1e-3)
    trials = [
        trial
        for setting, rate in enumerate((1e-3, 2e-3, 1e-4), 1)
        for trial in bank_trials(
            ("P17", "P30"),
            training=method(
                epochs=4, encoder="mlp", model_optimizer=changed(adam, learning_rate=rate)
            ),
            setting=setting,
        )
    ]

    def load(**_: Any) -> PromptedModel:
        return load_model(tiny_folders["bert"], device="cpu", tuned=True)

    runs = {}
    for name, engine in {"here": Serial(), "elsewhere": Elsewhere(kill_at=3)}.items():
        log = Log()
        run = replace(runner(tmp_path / name, load, log), engine=engine)
        out = tmp_path / name / "out"
        selection = run.save_weights(run.run(trials, select=True), out)
        files = {path.name: path.read_bytes() for path in sorted(out.rglob("*.safetensors"))}
        runs[name] = selection, files, log
        assert len(list((tmp_path / name / jobs.__name__).rglob("weights.safetensors"))) == 2
    (here, files, log), (elsewhere, others, other_log) = runs.values()
    assert here.chosen == elsewhere.chosen
    assert here.describe() == elsewhere.describe()
    assert files == others
    assert len(files) == 2
    assert sorted(log.metrics) == sorted(other_log.metrics)
    lost = [line for line in other_log.lines if "its machine was lost" in line]
    assert len(lost) == len(trials)
    assert sorted(log.lines) == sorted(set(other_log.lines) - set(lost))


def test_of_units_that_run_together_all_steps_are_shown(tmp_path: Path) -> None:
    class Together:
        def run(
            self, units: Sequence[Unit], on_report: Callable[[str, Any], None]
        ) -> Iterator[tuple[str, Future[Any]]]:
            for done in (1, 2):
                for unit in units:
                    on_report(unit.name, Progress(done, 5))
            for unit in units:
                on_report(unit.name, BankStarted(reused=False))
                on_report(unit.name, Progress(5, 5))
                outcome: Future[Any] = Future()
                outcome.set_result(BankOutcome([scored(0.5)], 0.0))
                yield unit.name, outcome

    log = Log()
    training = method(encoder="mlp", prompts_per_unit=1)
    run = replace(runner(tmp_path, lambda **_: None, log), engine=Together())  # type: ignore[arg-type,return-value]
    run.run(bank_trials(("P17", "P30"), training=training), select=False)
    name = "bank-1/seed-7/unit-"
    assert log.progress == [
        (f"{name}1", 1, 5), ("2 units", 2, 10), ("2 units", 3, 10), ("2 units", 4, 10),
        ("2 units", 7, 10), (f"{name}2", 5, 5),
    ]  # fmt: skip
