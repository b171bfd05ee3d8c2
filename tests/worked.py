"""What tests work out by hand: the tokens of short sentences, and one row's scores at a time.

Sentences are spelled token by token: `^Paris` begins a line, `_Paris` is a new word within it, `.`
and `##ance` follow what precedes them without a space, `P` is a prompt token, `M` the mask.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from pipeline.data.lama import Fact
from pipeline.models.encoding import NO_SLOT, Row
from pipeline.models.language_model import PromptedModel
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.training.prompt_encoders import PromptEncoder

PREFIX = {"bert": "[CLS]", "roberta": "<s>", "albert": "[CLS]", "gpt2": "", "llama": "<s>"}
SUFFIX = {"bert": "[SEP]", "roberta": "</s>", "albert": "[SEP]", "gpt2": "", "llama": ""}
_NEW_LINE = {"bert": "", "roberta": "", "albert": "▁", "gpt2": "", "llama": "▁"}
_NEW_WORD = {"bert": "", "roberta": "Ġ", "albert": "▁", "gpt2": "Ġ", "llama": "▁"}

VOCABULARY = ["France", "Norway", "Europe", "Asia", "Japan"]
SUBJECTS = ["Paris", "Oslo", "Lyon city", "the city of Lyon", "Japan", "a b", "Norway's capital"]


def tokens(family: str, spelled: str) -> list[str]:
    """Return the tokens of a spelled sentence, without special tokens."""
    found = []
    for part in spelled.split():
        token = part.replace("^", _NEW_LINE[family]).replace("_", _NEW_WORD[family])
        found.append(token.lower() if family == "albert" else token)
    return [token for token in found if token]


def ids(family: str, codec: PieceTokenizer, spelled: str) -> list[int]:
    """Return the token ids of a spelled sentence, without special tokens."""
    vocabulary = codec.tokenizer.get_vocab()
    return [vocabulary[token] for token in tokens(family, spelled)]


def hand_row(family: str, model: PromptedModel, spelled: str) -> Row:
    """Return the row of a spelled sentence; for a causal model, of what is in front of `M`."""
    codec = model.codec
    parts = spelled.split()
    if not model.masked:
        parts = parts[: parts.index("M")]
    row_ids = [codec.tokenizer.convert_tokens_to_ids(PREFIX[family])] if PREFIX[family] else []
    slots = [NO_SLOT] * len(row_ids)
    answer = -1
    next_slot = 0
    for part in parts:
        if part == "P":
            row_ids.append(codec.pad_id)
            slots.append(next_slot)
            next_slot += 1
        elif part == "M":
            answer = len(row_ids)
            row_ids.append(codec.tokenizer.mask_token_id)
            slots.append(NO_SLOT)
        else:
            piece = ids(family, codec, part)
            row_ids += piece
            slots += [NO_SLOT] * len(piece)
    if not model.masked:
        return Row(tuple(row_ids), tuple(slots), len(row_ids) - 1)
    row_ids.append(codec.tokenizer.convert_tokens_to_ids(SUFFIX[family]))
    return Row(tuple(row_ids), (*slots, NO_SLOT), answer)


def slow_scores(
    model: PromptedModel, row: Row, vectors: Tensor | None, word_ids: Sequence[int] | None = None
) -> Tensor:
    """Return (words,) log-probabilities by a full forward pass of the transformers model."""
    embeds = []
    for token, slot in zip(row.token_ids, row.slots, strict=True):
        embeds.append(vectors[slot] if slot >= 0 else model.input_embeddings(torch.tensor(token)))
    logits = model.network(inputs_embeds=torch.stack(embeds)[None]).logits[0, row.answer_position]
    if word_ids is not None:
        logits = torch.stack([logits[word] for word in word_ids])
    return logits - torch.logsumexp(logits, dim=0)


def slow_answer(
    family: str, model: PromptedModel, spelled: str, answer: str, vectors: Tensor | None
) -> float:
    """Return the mean log-probability of an answer's tokens, one full forward pass each.

    A masked model has a mask for each of them, a causal one the tokens before it.
    """
    wanted = ids(family, model.codec, answer)
    total = 0.0
    for number, token in enumerate(wanted):
        if model.masked:
            parts = spelled.replace("M", " ".join(["M"] * len(wanted)))
            row = hand_row(family, model, parts)
            first = row.token_ids.index(model.codec.mask_id)
            row = replace(row, answer_position=first + number)
        else:
            before = " ".join(answer.split()[:number])
            row = hand_row(family, model, spelled.replace("M", f"{before} M"))
        total += float(slow_scores(model, row, vectors)[token])
    return total / len(wanted)


def torch_vectors(encoder: PromptEncoder) -> Tensor:
    """Return (count, size): what torch's own modules make of an encoder's weights."""
    rows: Tensor = encoder.embedding.weight
    if encoder.kind == "lstm":
        rows = encoder.lstm(rows)[0]
    return encoder.mlp(rows) if encoder.kind != "embedding" else rows


def make_facts(count: int, *, start: int = 0, relation: str = "P17") -> list[Fact]:
    """Return so many facts; the same `start` gives the same facts."""
    return [
        Fact(
            relation,
            SUBJECTS[(start + i) % len(SUBJECTS)],
            VOCABULARY[(start + i * i) % len(VOCABULARY)],
        )
        for i in range(count)
    ]
