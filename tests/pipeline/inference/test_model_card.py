"""The model card with names that a reader of Markdown would act on."""

from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.errors import printable
from pipeline.inference.export import Comparison
from pipeline.inference.model_card import model_card
from pipeline.prompts.template import parse_template
from tests.hostile import NAMES, rendered, text_of


@pytest.mark.parametrize("name", NAMES)
def test_names_of_users_are_text(name: str) -> None:
    folders = ("trained", "model", "splits")
    candidate: Any = SimpleNamespace(
        target=name, task=name, method="p-tuning", metric="accuracy", dev_score=0.5, test_score=0.5,
        folders=dict.fromkeys(folders, name), hashes=dict.fromkeys(folders, "1" * 32),
    )  # fmt: skip
    prompt: Any = SimpleNamespace(
        trained=SimpleNamespace(task=name, name=name, prompt=SimpleNamespace(dev_score=0.5)),
        form=SimpleNamespace(
            template=parse_template("{text} {mask}", ["text"]),
            max_length=None,
            verbalizer={name: name},
        ),
        tokens=["[P1]"],
        answers=SimpleNamespace(answers=[name]),
        asked=[(SimpleNamespace(values={"text": name}), None)],
    )
    card = model_card(
        candidate,
        {name: prompt},
        {"prompts": {name: {"text": f"{{text}} {name}"}}},
        Comparison(examples=3, difference=1e-6),
        masked=True,
    )
    line = printable(" ".join(name.split()))
    paper = "https://arxiv.org/abs/2103.10385"
    text = text_of(rendered(card.partition("---\n\n")[2]), links=[paper])
    assert text.startswith(f"{line}: p-tuning\n")
    assert f"{printable(name)}: {{text}} {printable(name)}\n" in text  # the template
    assert f"This training is {line}, with" in text
    assert f"\n{line}\n{line}\n" in text  # label and word
    assert text.count(f"\n{line}\nthe ") == len(folders)
