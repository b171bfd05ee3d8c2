from operator import eq
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipeline.data.lama import Fact
from pipeline.errors import DataError, ModelError
from pipeline.evaluation.evaluate import Evaluation, evaluate
from pipeline.evaluation.words import nearest_words
from pipeline.models.dataset import PromptFormat
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model
from pipeline.prompts.store import StoredPrompt, load_prompts, save_prompts, weights_file
from pipeline.prompts.template import parse_template
from pipeline.tasks import Example, get_task
from pipeline.tasks.lama import apply_layout, fact_examples, lama_task, manual_template
from pipeline.training.jobs import make_job
from tests.jobs import ADAM, fact_job, task_trial, train_jobs
from tests.tiny import FAMILIES, load_broken
from tests.worked import VOCABULARY, hand_row, ids, make_facts, slow_answer, slow_scores

SUBJECTS = {
    "Paris": "_Paris",
    "Oslo": "_Oslo",
    "Lyon city": "_Lyon _city",
    "the city of Lyon": "_the _city _of _Lyon",
    "Japan": "_Japan",
    "a capital in Asia": "_a _capital _in _Asia",
}
RTE = get_task("rte")
YES_NO = {"entailment": "yes", "not_entailment": "no"}


@pytest.fixture(params=["bert", "gpt2"])
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def model(tiny_models: dict[str, PromptedModel], family: str) -> PromptedModel:
    return tiny_models[family]


def stored(model: PromptedModel, count: int, template: str, **more: Any) -> StoredPrompt:
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(count, model.embedding_size, generator=generator) if count else None
    return StoredPrompt(template, vectors, 3, 0.75, **more)


def evaluate_relation(
    model: PromptedModel,
    prompt: StoredPrompt,
    facts: dict[str, list[Fact]],
    words: list[str],
    *,
    max_tokens_per_forward: int = 9,
) -> Evaluation:
    """Evaluate a prompt of P17, over these allowed words."""
    examples = {split: fact_examples(own) for split, own in facts.items()}
    form = PromptFormat.from_prompt(lama_task("P17", words), prompt)
    return evaluate(
        model, form, prompt.vectors, examples, max_tokens_per_forward=max_tokens_per_forward
    )


def evaluate_rte(
    model: PromptedModel, prompt: StoredPrompt, examples: dict[str, list[Example]], rows: int
) -> Evaluation:
    form = PromptFormat.from_prompt(RTE, prompt)
    return evaluate(model, form, prompt.vectors, examples, max_tokens_per_forward=rows)


# Objects of one, two and four tokens, two of which begin alike.
OBJECTS = ["Asia", "Europe", "France in Europe", "France in the city", "Norway"]


@pytest.mark.parametrize("max_tokens_per_forward", [1, 1000])
@pytest.mark.parametrize("packs", [True, False])
def test_objects_of_several_tokens_compete_by_their_mean_log_probability(
    model: PromptedModel,
    family: str,
    packs: bool,
    max_tokens_per_forward: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(model, "max_packed_length", 128 if packs else 0)
    prompt = stored(model, 3, "[P*2] {subject} is in [P] {mask} .")
    facts = {
        "train": [Fact("P17", "Oslo", "Norway"), Fact("P17", "Lyon city", "France in Europe")],
        "test": [Fact("P17", subject, name) for subject in list(SUBJECTS)[:3] for name in OBJECTS],
    }
    examples = {split: fact_examples(own) for split, own in facts.items()}
    task = lama_task("P17", VOCABULARY, OBJECTS)
    found = evaluate(
        model,
        PromptFormat.from_prompt(task, prompt),
        prompt.vectors,
        examples,
        max_tokens_per_forward=max_tokens_per_forward,
    )
    assert (found.num_examples, found.num_skipped) == (15, 0)
    hits = []
    for fact, record in zip(facts["test"], found.predictions, strict=True):
        scores = []
        for name in OBJECTS:
            spelled = " ".join(f"_{word}" for word in name.split())
            sentence = f"P P {SUBJECTS[fact.sub_label]} _is _in P M _ ."
            with torch.no_grad():
                scores.append(slow_answer(family, model, sentence, spelled, prompt.vectors))
        scores = torch.tensor(scores).log_softmax(0).tolist()
        best = max(range(len(scores)), key=lambda i: scores[i])
        right = scores[OBJECTS.index(fact.obj_label)]
        assert record["answer"] == OBJECTS[best]
        assert record["log_prob"] == pytest.approx(scores[best], abs=1e-3)
        assert record["rank"] == sum(score > right for score in scores) + 1
        hits.append(OBJECTS[best] == fact.obj_label)
    assert 0 < sum(hits) < len(hits)
    assert found.metrics == {"p_at_1": sum(hits) / len(hits)}
    assert found.controls["constant"]["score"] == 3 / 15
    # The same prompt on the objects of one token, over the vocabulary.
    apart = evaluate_relation(model, prompt, facts, VOCABULARY)
    assert found.one_token == {"facts": 9, "p_at_1": apart.score}
    assert apart.one_token == {}


def test_an_evaluation_names_the_words_nearest_to_each_vector(model: PromptedModel) -> None:
    prompt = stored(model, 3, "[P*2] {subject} is in [P] {mask} .")
    assert prompt.vectors is not None
    found = evaluate_relation(model, prompt, relation_facts(), VOCABULARY)
    expected = nearest_words(model, prompt.vectors, 3)
    assert found.nearest == [[word for word, _ in row] for row in expected]
    manual = stored(model, 0, "{subject} is in {mask} .")
    assert evaluate_relation(model, manual, relation_facts(), VOCABULARY).nearest == []


def test_a_relation_without_objects_of_one_token_is_scored_among_them(model: PromptedModel) -> None:
    prompt = stored(model, 0, "{subject} is in {mask} .")
    facts = {split: [Fact("P17", "Oslo", "France in Europe")] for split in ("train", "test")}
    examples = {split: fact_examples(own) for split, own in facts.items()}
    form = PromptFormat.from_prompt(lama_task("P17", VOCABULARY, ["France in Europe"]), prompt)
    found = evaluate(model, form, None, examples, max_tokens_per_forward=9)
    assert found.one_token == {"facts": 0, "p_at_1": None}
    assert found.metrics == {"p_at_1": 1.0}


def relation_facts() -> dict[str, list[Fact]]:
    """Every subject with every object, and objects that are several tokens among them."""
    test = [Fact("P17", subject, word) for subject in SUBJECTS for word in VOCABULARY]
    test.insert(1, Fact("P17", "Paris", "Zanzibar"))
    # As many of each, but for two: neither right nor wrong answers come by chance alone.
    del test[-7:-3]
    train = [Fact("P17", "Oslo", word) for word in ("Norway", "Asia", "Zanzibar", "Asia")]
    return {"train": train, "test": test}


def slow_answers(
    family: str, model: PromptedModel, spelled: str, vectors: Tensor | None
) -> list[Any]:
    """Ask one fact at a time: (fact, answer, log-probability, rank)."""
    words = ids(family, model.codec, " ".join(f"_{word}" for word in VOCABULARY))
    answers = []
    for fact in relation_facts()["test"]:
        if fact.obj_label not in VOCABULARY:
            continue
        row = hand_row(family, model, spelled.format(SUBJECTS[fact.sub_label]))
        with torch.no_grad():
            scores = slow_scores(model, row, vectors, words).tolist()
        best = max(range(len(scores)), key=lambda i: scores[i])
        right = scores[VOCABULARY.index(fact.obj_label)]
        answers.append((fact, VOCABULARY[best], scores[best], sum(s > right for s in scores) + 1))
    return answers


@pytest.mark.parametrize("max_tokens_per_forward", [1, 4, 64])
@pytest.mark.parametrize("count", [0, 3])
def test_a_relation_scores_as_by_one_fact_at_a_time(
    model: PromptedModel, family: str, count: int, max_tokens_per_forward: int
) -> None:
    template = "[P*2] {subject} is in [P] {mask} ." if count else "a: {subject} is in {mask} ."
    spelled = "P P {} _is _in P M _ ." if count else "^a : {} _is _in M _ ."
    prompt = stored(model, count, template)
    slow = slow_answers(family, model, spelled, prompt.vectors)

    found = evaluate_relation(
        model,
        prompt,
        relation_facts(),
        [*VOCABULARY, "Zanzibar"],
        max_tokens_per_forward=max_tokens_per_forward,
    )

    hits = [answer == fact.obj_label for fact, answer, _, _ in slow]
    assert 0 < sum(hits) < len(hits)
    assert found.metrics["p_at_1"] == sum(hits) / len(hits)
    assert found.num_examples == len(slow) == 26
    assert found.num_skipped == 1
    assert len(found.predictions) == len(slow)
    for record, (fact, answer, log_prob, rank) in zip(found.predictions, slow, strict=True):
        assert record.pop("log_prob") == pytest.approx(log_prob, abs=1e-3)
        assert record == {
            "relation": "P17",
            "subject": fact.sub_label,
            "object": fact.obj_label,
            "answer": answer,
            "rank": rank,
            # The most frequent object of train is also what naive Bayes makes of every subject.
            "hard": fact.obj_label != "Asia",
        }
    hard = [hit for hit, (fact, *_) in zip(hits, slow, strict=True) if fact.obj_label != "Asia"]
    assert found.hard == {"facts": len(hard), "p_at_1": sum(hard) / len(hard)}


# Against transformers alone, with nothing of this project but the tokenizer's files and weights


def natural_ids(tokenizer: Any, template: str, subject: str, word: str) -> list[int]:
    """Tokenize the sentence as anyone would write it."""
    sentence = template.replace("[X]", subject).replace("[Y]", word)
    ids_: list[int] = tokenizer(sentence)["input_ids"]
    return ids_


def natural_answer(
    model: PromptedModel, template: str, subject: str, words: list[str]
) -> tuple[str, dict[str, int]]:
    """Fill in one fact, look at all scores at its object; return the answer and the words' ids.

    A word is one token where putting it in another's place changes one id alone.
    """
    tokenizer = model.codec.tokenizer
    written = {word: natural_ids(tokenizer, template, subject, word) for word in words}
    one, other = written["France"], written["Norway"]
    (place,) = (i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    allowed = {
        word: own[place]
        for word, own in written.items()
        if own[:place] + own[place + 1 :] == one[:place] + one[place + 1 :]
        and own[place] != tokenizer.unk_token_id
    }
    asked = [*one[:place], tokenizer.mask_token_id, *one[place + 1 :]]
    if not model.masked:
        place, asked = place - 1, one[:place]
    with torch.no_grad():
        logits = model.network(input_ids=torch.tensor([asked])).logits[0, place]
    assert len(logits) == model.vocabulary_size
    return max(allowed, key=lambda word: float(logits[allowed[word]])), allowed


@pytest.mark.parametrize("asked_of", FAMILIES)
@pytest.mark.parametrize("max_tokens_per_forward", [3, 64])
def test_manual_p_at_1_is_exactly_that_of_plain_transformers_fact_by_fact(
    tiny_models: dict[str, PromptedModel], asked_of: str, max_tokens_per_forward: int
) -> None:
    model = tiny_models[asked_of]
    lamas = "the capital of [X] is located in [Y] ."
    template = apply_layout("manual", manual_template(lamas), masked=model.masked)
    words = ["Zanzibar", *VOCABULARY, "Upper Volta", "Paris", "Oslo", "city", "東"]
    facts = [
        Fact("P17", s, words[(3 * i + j) % 11]) for i, s in enumerate(SUBJECTS) for j in range(11)
    ]
    answers = {s: natural_answer(model, lamas, s, words) for s in SUBJECTS}
    allowed = answers["Paris"][1]
    assert set(words) - set(allowed) == {"Zanzibar", "Upper Volta", "東"}
    kept = [fact for fact in facts if fact.obj_label in allowed]
    right = sum(answers[fact.sub_label][0] == fact.obj_label for fact in kept)

    found = evaluate_relation(
        model,
        StoredPrompt(template.source, None, 0, 0.0),
        {"train": facts[:3], "test": facts},
        words,
        max_tokens_per_forward=max_tokens_per_forward,
    )

    assert [record["answer"] for record in found.predictions] == [
        answers[fact.sub_label][0] for fact in kept
    ]
    assert [(r["subject"], r["object"]) for r in found.predictions] == [
        (fact.sub_label, fact.obj_label) for fact in kept
    ]
    assert 0 < right < len(kept)
    assert found.metrics["p_at_1"] == right / len(kept)
    assert (found.num_examples, found.num_skipped) == (len(kept), len(facts) - len(kept))


def test_the_control_is_the_most_frequent_object_of_train_on_the_asked_facts(
    model: PromptedModel,
) -> None:
    facts = relation_facts()
    found = evaluate_relation(
        model,
        stored(model, 0, "{subject} {mask}"),
        facts,
        VOCABULARY,
        max_tokens_per_forward=9,
    )
    asked = [fact.obj_label for fact in facts["test"] if fact.obj_label != "Zanzibar"]
    assert found.controls["majority"] == {"p_at_1": asked.count("Asia") / len(asked)}
    most = max(map(asked.count, asked)) / len(asked)
    assert found.controls["constant"] == {"p_at_1": most, "score": most}


def test_naive_bayes_is_counted_on_all_train_facts_and_asked_the_same_facts(
    model: PromptedModel,
) -> None:
    facts = relation_facts()
    # Words of a subject that go with an answer, one of them in a fact that the model is not asked.
    facts["train"] = [
        Fact("P17", "Oslo", "Norway"), Fact("P17", "Lyon", "France"), Fact("P17", "a", "Zanzibar"),
    ]  # fmt: skip
    found = evaluate_relation(
        model,
        stored(model, 0, "{subject} {mask}"),
        facts,
        VOCABULARY,
        max_tokens_per_forward=9,
    )
    expected = {"Oslo": "Norway", "Lyon city": "France", "the city of Lyon": "France"}
    asked = [fact for fact in facts["test"] if fact.obj_label != "Zanzibar"]
    # Subjects of unknown words: of equally likely answers the first; "a ..." is no allowed answer.
    answers = [
        expected.get(fact.sub_label, "Zanzibar" if fact.sub_label[:2] == "a " else "France")
        for fact in asked
    ]
    hits = [a == fact.obj_label for a, fact in zip(answers, asked, strict=True)]
    assert found.controls["naive_bayes"] == {"p_at_1": sum(hits) / len(asked)}
    assert len(asked) == found.num_examples


def test_a_relation_that_the_model_cannot_answer_is_an_error(model: PromptedModel) -> None:
    facts = {
        "train": [Fact("P17", "Oslo", "Norway")],
        "test": [Fact("P17", "Oslo", "Zanzibar")],
    }
    with pytest.raises(DataError, match="P17: no test example has an answer that is one token"):
        evaluate_relation(
            model,
            stored(model, 0, "{subject} {mask}"),
            facts,
            VOCABULARY,
            max_tokens_per_forward=9,
        )


def rte(premise: str, hypothesis: str, label: str, idx: int) -> Example:
    return Example(str(idx), {"premise": premise, "hypothesis": hypothesis}, label)


def rte_examples() -> dict[str, list[Example]]:
    labels = ["entailment", "not_entailment"]
    return {
        split: [
            rte(premise, place, labels[(i + j + shift) % 2], 10 * i + j)
            for i, premise in enumerate(("Paris is in France", "Oslo is a city", "Japan, Asia"))
            for j, place in enumerate(("Norway", "Lyon is a city", "no"))
        ]
        for split, shift in (("train", 0), ("test", 1))
    }


def test_a_task_scores_as_by_one_example_at_a_time(model: PromptedModel, family: str) -> None:
    spelled = {
        "Paris is in France": "^Paris _is _in _France",
        "Oslo is a city": "^Oslo _is _a _city",
        "Japan, Asia": "^Japan , _Asia",
        "Norway": "_Norway",
        "Lyon is a city": "_Lyon _is _a _city",
        "no": "_no",
    }
    prompt = stored(model, 1, "{premise}? {hypothesis}, [P] {mask}.", verbalizer=YES_NO)
    examples = rte_examples()
    words = ids(family, model.codec, "_yes _no")
    slow = []
    for example in examples["test"]:
        values = example.values
        text = f"{spelled[values['premise']]} ? {spelled[values['hypothesis']]} , P M ."
        with torch.no_grad():
            scores = slow_scores(model, hand_row(family, model, text), prompt.vectors, words)
        slow.append("entailment" if scores[0] > scores[1] else "not_entailment")

    found = evaluate_rte(model, prompt, examples, 4)

    right = [example.label for example in examples["test"]]
    assert found.metrics == {"accuracy": sum(map(eq, slow, right)) / 9}
    assert found.num_examples == 9
    # Train has five entailments of nine, test four.
    assert found.controls == {
        "majority": {"accuracy": 4 / 9}, "constant": {"accuracy": 5 / 9, "score": 5 / 9},
    }  # fmt: skip
    assert [record["answer"] for record in found.predictions] == slow
    for record, example in zip(found.predictions, examples["test"], strict=True):
        assert (record["example"], record["label"]) == (example.name, example.label)


def test_a_task_is_cut_to_the_length_that_it_was_trained_with(model: PromptedModel) -> None:
    source = "{premise:shorten} {mask}"
    examples = {
        "train": [rte("no", "no", "entailment", 0)],
        "test": [rte("Paris Lyon Oslo France", "no", "entailment", 0)],
    }
    short = {"train": examples["train"], "test": [rte("Paris", "no", "entailment", 0)]}
    max_length = len(model.codec.prefix) + 1 + int(model.masked) + len(model.codec.suffix)
    cut = stored(model, 0, source, verbalizer=YES_NO, max_length=max_length)
    whole = stored(model, 0, source, verbalizer=YES_NO)

    def log_prob(prompt: StoredPrompt, asked: dict[str, list[Example]]) -> float:
        found = evaluate_rte(model, prompt, asked, 1)
        return float(found.predictions[0]["log_prob"])

    assert log_prob(cut, examples) == log_prob(whole, short)
    assert log_prob(cut, examples) != log_prob(whole, examples)


def evaluate_stored(model: PromptedModel, prompt: StoredPrompt) -> Evaluation:
    return evaluate_relation(model, prompt, relation_facts(), VOCABULARY, max_tokens_per_forward=8)


@pytest.mark.parametrize("encoder", ["lstm", "embedding"])
def test_saved_prompts_give_equal_scores_after_loading(
    model: PromptedModel, tmp_path: Path, encoder: str
) -> None:
    template = parse_template("[P*2] {subject} is in [P] {mask} .", ["subject"])
    facts = {"train": make_facts(6), "dev": make_facts(5, start=2)}
    trained = train_jobs(
        model,
        [fact_job(model, name, template, facts, VOCABULARY) for name in ("P17", "P30")],
        encoder=encoder,
    )
    prompts = {
        name: StoredPrompt(template.source, one.vectors, one.best_epoch, one.best_score)
        for name, one in trained.items()
    }

    save_prompts(tmp_path, "p-tuning", prompts)
    loaded = load_prompts(tmp_path)

    assert list(loaded) == ["P17", "P30"]
    for name, prompt in prompts.items():
        assert evaluate_stored(model, loaded[name]) == evaluate_stored(model, prompt)
        # The test facts are the dev facts here: what training saw is what evaluation gives.
        again = evaluate_relation(
            model,
            loaded[name],
            {"train": facts["train"], "test": facts["dev"]},
            VOCABULARY,
            max_tokens_per_forward=64,
        )
        assert again.metrics["p_at_1"] == loaded[name].dev_score == trained[name].best_score
    assert evaluate_stored(model, loaded["P17"]) != evaluate_stored(model, loaded["P30"])


def test_a_tuned_task_gives_its_dev_score_after_loading(
    tiny_folders: dict[str, Path], family: str, tmp_path: Path
) -> None:
    model = load_model(tiny_folders[family], device="cpu")
    source = "{premise:shorten}? {hypothesis} [P] {mask}."
    examples = rte_examples()
    trial = task_trial(
        "rte",
        parse_template(source, RTE.fields),
        {"train": examples["train"], "dev": examples["test"]},
        verbalizer=YES_NO,
        max_length=20,
    )
    weights = weights_file(tmp_path, "rte")
    weights.parent.mkdir()
    trained = train_jobs(
        model,
        [make_job(model, trial)],
        epochs=4,
        batch_size=4,
        dropout=0.1,
        model_optimizer=ADAM,
        best_checkpoint_path=weights,
    )["rte"]
    prompt = trial.stored_prompt(trained)
    save_prompts(tmp_path, "p-tuning", {"rte": prompt})

    fresh = load_model(tiny_folders[family], device="cpu", weights=weights)
    loaded = load_prompts(tmp_path)["rte"]
    found = evaluate_rte(fresh, loaded, examples, 3)

    assert found.metrics["accuracy"] == loaded.dev_score == trained.best_score


def test_scores_that_are_not_finite_are_refused_with_their_example(
    tiny_folders: dict[str, Path], family: str
) -> None:
    model = load_broken(tiny_folders[family])
    prompt = stored(model, 0, "a {subject} is {mask}")
    with pytest.raises(ModelError, match=r"^P17, test example 'Oslo': its scores .*contain NaN"):
        evaluate_relation(model, prompt, relation_facts(), VOCABULARY)
