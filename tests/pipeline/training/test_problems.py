import pytest

from pipeline.data.lama import Fact
from pipeline.errors import DataError, TemplateError
from pipeline.models.language_model import PromptedModel
from pipeline.prompts.template import parse_template
from pipeline.tasks import Example, get_task
from pipeline.training.problems import lama_problem, task_problem
from tests.tiny import FAMILIES
from tests.worked import hand_row, ids

HYBRID = parse_template("[P*2] {subject} is in [P] {mask} .", ["subject"])
RTE = get_task("rte")
PATTERN = parse_template("{premise:shorten}? [P] {mask}, {hypothesis}.", RTE.fields)
YES_NO = {"entailment": "yes", "not_entailment": "no"}


def fact(subject: str, object_: str) -> Fact:
    return Fact("P17", subject, object_)


def example(premise: str, hypothesis: str, label: str) -> Example:
    return Example("0", {"premise": premise, "hypothesis": hypothesis}, label)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_relation_becomes_a_problem_over_the_whole_vocabulary(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    facts = {
        "train": [fact("Oslo", "Norway"), fact("Lyon", "Zanzibar"), fact("Paris", "France")],
        "dev": [fact("Japan", "Asia")],
    }

    problem = lama_problem(model, "P17", HYBRID, facts, ["Asia", "France", "Norway", "Zanzibar"])

    assert (problem.name, problem.prompt_tokens) == ("P17", 3)
    assert problem.train.rows == [
        hand_row(family, model, "P P _Oslo _is _in P M _ ."),
        hand_row(family, model, "P P _Paris _is _in P M _ ."),
    ]
    assert problem.train.targets.tolist() == [2, 1]
    assert problem.dev.rows == [hand_row(family, model, "P P _Japan _is _in P M _ .")]
    assert problem.dev.targets.tolist() == [0]
    for questions in (problem.train, problem.dev):
        assert questions.word_ids.tolist() == ids(family, model.codec, "_Asia _France _Norway")


@pytest.mark.parametrize("empty", ["train", "dev"])
@pytest.mark.parametrize("facts", [[], [fact("Lyon", "Zanzibar")]])
def test_a_relation_without_a_single_answer_is_an_error_that_names_it(
    tiny_models: dict[str, PromptedModel], empty: str, facts: list[Fact]
) -> None:
    splits = {"train": [fact("Oslo", "Norway")], "dev": [fact("Oslo", "Norway")]} | {empty: facts}
    with pytest.raises(DataError, match=f"P17: no {empty} example has an answer that is one token"):
        lama_problem(tiny_models["bert"], "P17", HYBRID, splits, ["Norway", "Zanzibar"])


def test_a_field_that_a_causal_model_never_sees_is_an_error(
    tiny_models: dict[str, PromptedModel],
) -> None:
    examples = {split: [example("Paris", "no", "entailment")] for split in ("train", "dev")}
    with pytest.raises(
        TemplateError, match=r"\{hypothesis\} stands behind \{mask\}, where a causal"
    ):
        task_problem(
            tiny_models["llama"], RTE, PATTERN, examples,
            verbalizer=YES_NO, max_length=64, classifier=False,
        )  # fmt: skip


def test_prompt_tokens_that_a_causal_model_never_sees_are_an_error(
    tiny_models: dict[str, PromptedModel],
) -> None:
    facts = {split: [fact("Oslo", "Norway")] for split in ("train", "dev")}
    behind = parse_template("{subject} is in {mask} [P*3] .", ["subject"])
    with pytest.raises(TemplateError, match=r"P17, .*all prompt tokens stand behind \{mask\}"):
        lama_problem(tiny_models["gpt2"], "P17", behind, facts, ["Norway"])
    assert lama_problem(tiny_models["bert"], "P17", behind, facts, ["Norway"]).prompt_tokens == 3
    both = parse_template("{subject} [P] is in {mask} [P*3] .", ["subject"])
    assert lama_problem(tiny_models["gpt2"], "P17", both, facts, ["Norway"]).prompt_tokens == 4


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_a_task_becomes_a_problem_over_its_label_words(
    tiny_models: dict[str, PromptedModel], family: str
) -> None:
    model = tiny_models[family]
    examples = {
        "train": [example("Paris", "no", "not_entailment"), example("Oslo", "yes", "entailment")],
        "dev": [example("Lyon", "a", "entailment")],
    }

    problem = task_problem(
        model,
        RTE,
        PATTERN,
        examples,
        verbalizer=dict(reversed(YES_NO.items())),
        max_length=64,
        classifier=False,
    )

    assert (problem.name, problem.prompt_tokens) == ("rte", 1)
    assert problem.train.words == ["yes", "no"]
    assert problem.train.word_ids.tolist() == ids(family, model.codec, "_yes _no")
    assert problem.train.targets.tolist() == [1, 0]
    assert problem.dev.rows == [hand_row(family, model, "^Lyon ? P M , _a .")]


def test_the_premise_of_a_task_is_cut_to_max_length(tiny_models: dict[str, PromptedModel]) -> None:
    model = tiny_models["bert"]
    examples = [example("Paris Lyon Oslo France", "a", "entailment")]
    problem = task_problem(
        model,
        RTE,
        PATTERN,
        {"train": examples, "dev": examples},
        verbalizer=YES_NO,
        max_length=10,
        classifier=False,
    )
    assert problem.train.rows == [hand_row("bert", model, "^Paris _Lyon ? P M , _a .")]


def test_a_task_without_examples_is_an_error(tiny_models: dict[str, PromptedModel]) -> None:
    examples = {"train": [example("Paris", "no", "entailment")], "dev": []}
    with pytest.raises(DataError, match="rte: no dev example"):
        task_problem(
            tiny_models["bert"],
            RTE,
            PATTERN,
            examples,
            verbalizer=YES_NO,
            max_length=64,
            classifier=False,
        )


def test_a_verbalizer_of_several_tokens_is_an_error(tiny_models: dict[str, PromptedModel]) -> None:
    examples = [example("Paris", "no", "entailment")]
    with pytest.raises(TemplateError, match="'certainly' of label 'entailment' is 9 tokens"):
        task_problem(
            tiny_models["bert"],
            RTE,
            PATTERN,
            {"train": examples, "dev": examples},
            verbalizer=YES_NO | {"entailment": "certainly"},
            max_length=64,
            classifier=False,
        )


def test_a_template_that_does_not_fit_the_model_is_an_error(
    tiny_models: dict[str, PromptedModel],
) -> None:
    template = parse_template("{mask}: {subject}", ["subject"])
    facts = [fact("Oslo", "Norway")]
    with pytest.raises(TemplateError, match="nothing stands in front of"):
        lama_problem(
            tiny_models["gpt2"], "P17", template, {"train": facts, "dev": facts}, ["Norway"]
        )
