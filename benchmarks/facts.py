"""Made-up relations: subjects of a few words, objects of one token; the same for the same seed."""

import random

from benchmarks.released_style import Relation
from pipeline.models.dataset import PromptDataset, build_dataset
from pipeline.models.language_model import PromptedModel
from pipeline.prompts.template import Template
from pipeline.seeding import make_random
from pipeline.tasks.lama import apply_layout, manual_template
from pipeline.training.loop import TrainingJob

# The released code's rows: nine prompt tokens around subject and mask, six for a causal model.
_LAYOUT = "released-code"
_SUBJECT_WORDS = (2, 6)
_OBJECTS_OF_A_RELATION = 20

# How tokens of BPE and SentencePiece spell the space in front of a word.
_SPACES = "\u0120\u2581"


def allowed_words(model: PromptedModel, count: int) -> list[str]:
    """Return at most so many words that are one token within a sentence, by token id."""
    tokens = model.codec.tokenizer.get_vocab()
    words: list[str] = []
    for text, token in sorted(tokens.items(), key=lambda item: item[1]):
        if len(words) == count:
            break
        word = text.lstrip(_SPACES)
        plain = word.isascii() and word.isalnum()
        if plain and model.codec.single_token_id(word, space_before=True) == token:
            words.append(word)
    return words


def make_relations(
    model: PromptedModel, *, relations: int, facts: int, dev: int, words: list[str], seed: int
) -> list[Relation]:
    """Make relations for a model.

    Args:
        model: who is asked.
        relations: how many.
        facts: of each, to learn from.
        dev: further facts of each.
        words: the allowed words; subjects are made of them as well.
        seed: the same seed gives the same relations.
    """
    template = apply_layout(_LAYOUT, manual_template("[X] is [Y] ."), masked=model.masked)
    return [
        _relation(model, template, f"R{number + 1}", facts, dev, words, seed)
        for number in range(relations)
    ]


def _relation(
    model: PromptedModel,
    template: Template,
    name: str,
    facts: int,
    dev: int,
    words: list[str],
    seed: int,
) -> Relation:
    draw = make_random(seed, "facts", name)
    objects = draw.sample(words, min(_OBJECTS_OF_A_RELATION, len(words)))
    train_subjects = [_subject(draw, words) for _ in range(facts)]
    dev_subjects = [_subject(draw, words) for _ in range(dev)]

    def questions(subjects: list[str]) -> PromptDataset:
        examples = [({"subject": subject}, draw.choice(objects)) for subject in subjects]
        return build_dataset(model, template, examples, words)

    problem = TrainingJob(
        name, template.prompt_tokens, questions(train_subjects), questions(dev_subjects)
    )
    return Relation(template, train_subjects, dev_subjects, problem)


def _subject(draw: random.Random, words: list[str]) -> str:
    return " ".join(draw.choice(words) for _ in range(draw.randint(*_SUBJECT_WORDS)))
