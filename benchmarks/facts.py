"""Made-up relations: subjects of a few words, objects of one token; the same for the same seed."""

import random

from benchmarks.released_style import Relation
from pipeline.config.grid import TrialConfig
from pipeline.config.schema import MethodParams
from pipeline.models.language_model import PromptedModel
from pipeline.seeding import make_random
from pipeline.tasks import Example
from pipeline.tasks.lama import apply_layout, lama_task, manual_template, subject_example
from pipeline.training.jobs import Trial, TrialData, make_job

# The released code's rows: nine prompt tokens around subject and mask, six for a causal model.
_LAYOUT = "released-code"
_SUBJECT_WORDS = (2, 6)
_OBJECTS_OF_A_RELATION = 20

# How tokens of BPE and SentencePiece spell the space in front of a word.
_SPACES = "\u0120\u2581"


def allowed_words(model: PromptedModel, count: int) -> list[str]:
    """At most `count` words that are one token within a sentence, by token id."""
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
    model: PromptedModel,
    config: MethodParams,
    sizes: tuple[int, int, int],
    words: list[str],
    *,
    seed: int,
) -> list[Relation]:
    """Make relations for a model: the same for the same seed.

    `sizes` are the number of relations, of facts of each for train, and of further ones for dev;
    `words` are the allowed words, of which subjects are made as well.
    """
    template = apply_layout(_LAYOUT, manual_template("[X] is [Y] ."), masked=model.masked)
    relations, facts, dev = sizes
    setting = TrialConfig(1, {}, template, None, None, config)
    return [
        _relation(model, setting, f"R{number + 1}", facts, dev, words, seed)
        for number in range(relations)
    ]


def _relation(
    model: PromptedModel,
    setting: TrialConfig,
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

    def examples(subjects: list[str]) -> list[Example]:
        return [subject_example(subject, draw.choice(objects)) for subject in subjects]

    splits = {"train": examples(train_subjects), "dev": examples(dev_subjects)}
    trial = Trial(name, setting, 1, seed, TrialData(lama_task(name, words), splits, {}))
    return Relation(setting.template, train_subjects, dev_subjects, make_job(model, trial))


def _subject(draw: random.Random, words: list[str]) -> str:
    return " ".join(draw.choice(words) for _ in range(draw.randint(*_SUBJECT_WORDS)))
