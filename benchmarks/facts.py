"""Made-up relations: subjects of a few words, objects of one token; the same for the same seed."""

import random
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.config.grid import TrialConfig
from pipeline.config.schema import MethodParams
from pipeline.models.dataset import PromptDataset, build_dataset
from pipeline.models.language_model import PromptedModel
from pipeline.seeding import make_random
from pipeline.tasks import Example
from pipeline.tasks.lama import apply_layout, lama_task, manual_template, subject_example
from pipeline.training.jobs import Trial, TrialData, make_job
from pipeline.training.loop import TrainingJob

# All prompt tokens before the words of the row: the only layout of peft.
IN_FRONT = "[P*9] {before}{mask}{after}"

_SUBJECT_WORDS = (2, 6)
_OBJECTS_OF_A_RELATION = 20

# How tokens of BPE and SentencePiece spell the space in front of a word.
_SPACES = "\u0120\u2581"


class Sizes(NamedTuple):
    """The number of relations, and of the facts of each."""

    relations: int
    facts: int
    dev: int
    test: int


@dataclass(frozen=True)
class Relation:
    """What is trained, with its train and dev facts, and the test facts."""

    job: TrainingJob
    test: PromptDataset


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
    layout: str,
    sizes: Sizes,
    words: list[str],
    *,
    seed: int,
) -> list[Relation]:
    """Make relations for a model: the same facts for the same seed, whatever the layout.

    `words` are the allowed words, of which subjects are made as well.
    """
    template = apply_layout(layout, manual_template("[X] is [Y] ."), masked=model.masked)
    setting = TrialConfig(1, {}, template, None, None, config)

    def relation(name: str) -> Relation:
        draw = make_random(seed, "facts", name)
        objects = draw.sample(words, min(_OBJECTS_OF_A_RELATION, len(words)))

        def examples(count: int) -> list[Example]:
            return [
                subject_example(_subject(draw, words), draw.choice(objects)) for _ in range(count)
            ]

        splits = {"train": examples(sizes.facts), "dev": examples(sizes.dev)}
        trial = Trial(name, setting, 1, seed, TrialData(lama_task(name, words), splits, {}))
        test = build_dataset(model, trial.format, examples(sizes.test))
        return Relation(make_job(model, trial), test)

    return [relation(f"R{number + 1}") for number in range(sizes.relations)]


def _subject(draw: random.Random, words: list[str]) -> str:
    return " ".join(draw.choice(words) for _ in range(draw.randint(*_SUBJECT_WORDS)))
