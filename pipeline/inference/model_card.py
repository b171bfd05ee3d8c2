"""The model card of an exported folder, with the code that uses it."""

from collections.abc import Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from pipeline.inference.registry import Candidate
from pipeline.prompts.template import Field
from pipeline.report.markdown import code_block, code_span, escaped

if TYPE_CHECKING:
    from pipeline.inference.export import Comparison, ExportedPrompt

# The file with templates and answers.
PROMPTS = "ptune-export.json"

_CARD = """---
library_name: transformers
pipeline_tag: {pipeline_tag}
tags: [p-tuning]
---

# {title}

A {kind} language model with added tokens that have trained vectors ([P-tuning]({paper})), so that a
template with them is ordinary text. Number of these tokens: {tokens}.
Only the scores of the answers below have a meaning, among each other.

## Use

In this folder, with torch and transformers:

{code}

`{prompts}` has the templates, as format strings, and the token of each answer. Inputs are
texts without special or added tokens, and without white space around them.{limit}

## Templates

{templates}

## Answers

{answers}

## Scores

{scores}

On {examples} test examples, log-probabilities differ from those of `ptune predict` on the CPU
by at most {difference:.2g}.

## Lineage

| folder | content | MD5 by DVC |
|---|---|---|
{lineage}

Exported by ptune {ptune} with transformers {transformers}.
"""

_CODE = """import json
from pathlib import Path
from transformers import {auto_class}, AutoTokenizer

tokenizer, model = AutoTokenizer.from_pretrained("."), {auto_class}.from_pretrained(".")
export = json.loads(Path("{prompts}").read_text(encoding="utf-8"))
prompt = export["prompts"][{name!r}]
answers = export["answers"][prompt["answers"]]
text = prompt["text"].format({values})
special = export["add_special_tokens"]
ids = tokenizer(text, add_special_tokens=special, return_tensors="pt").input_ids
at = {at}
log_probs = model(input_ids=ids).logits[0, at, list(answers.values())].log_softmax(0)
print(max(zip(log_probs.exp().tolist(), answers)))"""

_CONTENTS = {"trained": "the trained prompts", "model": "the language model", "splits": "the data"}


def model_card(
    candidate: Candidate,
    prompts: Mapping[str, "ExportedPrompt"],
    description: Mapping[str, Any],
    compared: "Comparison",
    *,
    masked: bool,
) -> str:
    """Return the model card, in Markdown.

    Args:
        candidate: what is exported.
        prompts: by task or relation, one or more.
        description: what the file `ptune-export.json` holds.
        compared: with the pipeline.
        masked: whether the model is masked.
    """
    first = next(iter(prompts.values()))
    relations = "" if candidate.task else f" ({len(prompts)} relations)"
    limit = first.form.max_length
    return _CARD.format(
        pipeline_tag="fill-mask" if masked else "text-generation",
        title=f"{escaped(candidate.target)}{relations}: {candidate.method}",
        kind="masked" if masked else "causal",
        paper="https://arxiv.org/abs/2103.10385",
        tokens=sum(len(prompt.tokens) for prompt in prompts.values()),
        code=code_block(_code(first, masked=masked), "python"),
        prompts=PROMPTS,
        limit=f" Training\nshortened inputs to {limit} tokens." if limit else "",
        templates=code_block(
            "\n".join(f"{name}: {own['text']}" for name, own in description["prompts"].items())
        ),
        answers=_answers(first),
        scores=_scores(candidate, first),
        examples=compared.examples,
        difference=compared.difference,
        lineage="\n".join(
            f"| {code_span(candidate.folders[name], cell=True)} | {content} "
            f"| `{candidate.hashes[name]}` |"
            for name, content in _CONTENTS.items()
        ),
        ptune=version("p-tuning-pipeline"),
        transformers=version("transformers"),
    )


def _code(prompt: "ExportedPrompt", *, masked: bool) -> str:
    example, _ = prompt.asked[0]
    fields = [part.name for part in prompt.form.template.parts if isinstance(part, Field)]
    return _CODE.format(
        auto_class="AutoModelForMaskedLM" if masked else "AutoModelForCausalLM",
        prompts=PROMPTS,
        name=prompt.trained.task,
        values=", ".join(f"{f}={example.values[f].strip()!r}" for f in dict.fromkeys(fields)),
        at="ids[0].tolist().index(tokenizer.mask_token_id)" if masked else "-1",
    )


def _answers(prompt: "ExportedPrompt") -> str:
    words = prompt.form.verbalizer
    if words is None:
        return f"{len(prompt.answers.answers)} words of one token each."
    rows = "\n".join(
        f"| {escaped(label)} | {escaped(words[label])} |" for label in prompt.answers.answers
    )
    return f"| label | word |\n|---|---|\n{rows}"


def _scores(candidate: Candidate, first: "ExportedPrompt") -> str:
    test = candidate.test_score
    shown = f"`{candidate.metric}`: dev {100 * candidate.dev_score:.1f}"
    shown += "" if test is None else f", test {100 * test:.1f}"
    if not candidate.task:
        return f"{shown}, the means over relations and trainings."
    dev = 100 * first.trained.prompt.dev_score
    return (
        f"{shown}, the means over trainings.\n"
        f"This training is {code_span(first.trained.name)}, with the best dev score: {dev:.1f}."
    )
