"""Prompts of words: a search of the vocabulary that the gradient guides.

The vectors of such a prompt are input embeddings of words, so it is scored and stored as a trained
one. One word changes at a time: the gradient at its place proposes words, the exact loss decides
among them, and dev decides which prompt of the whole search is kept.

Source: AutoPrompt, arXiv:2010.15980; ucinlp/autoprompt, autoprompt/create_trigger.py. On purpose
otherwise: a prompt starts as random words, not as mask tokens, so that causal models start alike
and no mask is left at the end; the start may itself be the best; a word that is its own
replacement is not tried.
"""

import hashlib
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from pipeline.errors import TemplateError
from pipeline.files import read_json, write_json
from pipeline.models.dataset import PromptDataset
from pipeline.models.encoding import NO_SLOT, Row
from pipeline.models.language_model import PromptedModel
from pipeline.models.scoring import predict, score_batch
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.seeding import make_random
from pipeline.training.loop import Score

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class SearchRecord:
    """What one iteration gave.

    Attributes:
        iteration: 0 is the start.
        token_ids: the prompt at the iteration's end.
        train_loss: mean cross-entropy of that prompt over the iteration's second batch, among the
            whole vocabulary, in nats; None for iteration 0.
        dev_loss: mean cross-entropy among the allowed answers, in nats.
        dev_score: of the score function; higher is better.
    """

    iteration: int
    token_ids: TokenIds
    train_loss: float | None
    dev_loss: float
    dev_score: float


@dataclass(frozen=True)
class SearchResult:
    """How a search ended.

    Attributes:
        token_ids: the words of the prompt with the highest dev score, of equals the latest.
        best_iteration: the iteration that made it; 0 is the start.
        history: one record an iteration, iteration 0 first.
    """

    token_ids: TokenIds
    best_iteration: int
    history: list[SearchRecord]


def search_words(
    model: PromptedModel,
    *,
    name: str,
    tokens: int,
    train: PromptDataset,
    dev: PromptDataset,
    allowed: Tensor,
    score: Score,
    iterations: int,
    candidates: int,
    batch: int,
    max_rows_per_forward: int,
    seed: int,
    checkpoint: Path | None,
    on_iteration: Callable[[SearchRecord], None],
) -> SearchResult:
    """Search the words of one prompt.

    Args:
        model: the language model; its weights stay bit-equal and are marked as frozen.
        name: of the relation or task; with the seed, its randomness hangs on it.
        tokens: number of prompt tokens in the template. Those that no row has, as the ones behind
            the mask of a causal model, stay as they start.
        train: the examples to learn from.
        dev: the examples that choose the prompt.
        allowed: (words,) int64, ids of the words that may stand in a prompt.
        score: log-probabilities (examples, words) and targets (examples,) -> a number; asked at
            the start and whenever a word has changed.
        iterations: how many places are looked at, one an iteration.
        candidates: most words that an iteration tries.
        batch: examples of each of an iteration's two batches, drawn anew.
        max_rows_per_forward: most rows of one pass; it changes memory and speed, not the result.
        seed: with the name and the iteration, of all that is random.
        checkpoint: where the history is written after each iteration. A search that finds its own
            there goes on behind it, and may ask for more iterations than before; one of other
            examples, words, embeddings or settings is written over. None keeps nothing.
        on_iteration: called after each iteration, not again for those of the checkpoint.

    Raises:
        TemplateError: the rows have no prompt tokens.
        ValueError: they have more than `tokens`, or no word is allowed.
        DataError: the checkpoint is not JSON.
    """
    places = sorted(
        {slot for row in train.rows if isinstance(row, Row) for slot in row.slots} - {NO_SLOT}
    )
    if not places:
        raise TemplateError(
            f"{name}: no prompt token to search words for; put [P] into the template"
        )
    if places[-1] >= tokens or not len(allowed):
        raise ValueError(f"{name}: {tokens} tokens for {places}, {len(allowed)} words allowed")
    model.network.eval().requires_grad_(False)
    allowed = allowed.to(model.device)
    words = model.input_embeddings[allowed].float()
    start = tuple(make_random(seed, "search", name, "start").choices(allowed.tolist(), k=tokens))
    search = _fingerprint(
        (name, tokens, candidates, batch, seed), train, dev, allowed, _vectors(model, start)
    )
    history = _read_history(checkpoint, search)[: iterations + 1]
    for iteration in range(len(history), iterations + 1):
        before = history[-1] if history else None
        token_ids, train_loss = start, None
        if before is not None:
            token_ids, train_loss = _change_a_word(
                model,
                train,
                before.token_ids,
                places,
                words=words,
                allowed=allowed,
                candidates=candidates,
                batch=batch,
                max_rows_per_forward=max_rows_per_forward,
                random=partial(make_random, seed, "search", name, str(iteration)),
            )
        if before is not None and token_ids == before.token_ids:
            dev_loss, dev_score = before.dev_loss, before.dev_score
        else:
            dev_loss, dev_score = _score_dev(model, dev, token_ids, score, max_rows_per_forward)
        history.append(SearchRecord(iteration, token_ids, train_loss, dev_loss, dev_score))
        # Told before it is noted: told twice after a kill, but never not at all.
        on_iteration(history[-1])
        if checkpoint is not None:
            write_json(checkpoint, {"search": search, "history": [asdict(r) for r in history]})
    best = _best(history)
    return SearchResult(best.token_ids, best.iteration, history)


def filter_words(codec: PieceTokenizer, words_count: int, forbidden: Collection[str]) -> Tensor:
    """Choose the tokens that may stand in a prompt.

    Left out are special and other added tokens; tokens without a printable text of their own, such
    as white space, control characters and single bytes of a longer character; forbidden words, in
    any casing, at the start of a word or inside one; and tokens that begin with a capital letter,
    most of which are names.

    Args:
        codec: the model's tokenizer.
        words_count: number of the model's input embeddings; some models have more than tokens.
        forbidden: words, such as the answers of the train examples.

    Returns:
        (words,) int64, rising.

    Source: create_trigger.py, `--filter`. It keeps single characters, and in byte-level
    vocabularies capitals inside a word; here one rule is for all tokens and families.
    """
    tokenizer = codec.tokenizer
    left_out: set[int | None] = {*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}
    # What a tokenizer makes of a word may differ by more than its casing, such as in accents.
    left_out |= {codec.single_token_id(w, space_before=space) for w in forbidden for space in (True, False)}
    folded = {word.strip().casefold() for word in forbidden}
    ids = [i for i in sorted(tokenizer.get_vocab().values()) if i < words_count]
    texts = tokenizer.batch_decode([[i] for i in ids], clean_up_tokenization_spaces=False)
    kept = []
    for token, decoded in zip(ids, texts, strict=True):
        # The marks of SentencePiece and WordPiece, where a tokenizer decodes to them.
        text = decoded.replace("▁", " ").strip().removeprefix("##")
        named = text[:1].isupper() or text.casefold() in folded
        if text and text.isprintable() and "\ufffd" not in text and not named:
            kept.append(token)
    return torch.tensor([token for token in kept if token not in left_out], dtype=torch.int64)


def prompt_gradient(
    model: PromptedModel,
    questions: PromptDataset,
    chosen: Sequence[int],
    token_ids: TokenIds,
    max_rows_per_forward: int,
) -> Tensor:
    """Return (tokens, size) float32: the gradient of the mean loss at a prompt's vectors.

    Args:
        model: the language model; no gradients are left at its weights.
        questions: rows with prompt tokens.
        chosen: positions of the examples whose loss it is.
        token_ids: the words of the prompt.
        max_rows_per_forward: most rows of one pass.
    """
    vectors = _vectors(model, token_ids).unsqueeze(0).requires_grad_()
    for items in _passes(questions, chosen, 1, max_rows_per_forward):
        loss = _losses(model, questions, items, vectors).sum() / len(chosen)
        loss.backward(inputs=[vectors])
    gradient: Tensor | None = vectors.grad
    assert gradient is not None
    return gradient[0]


def propose_words(
    gradient: Tensor, words: Tensor, allowed: Tensor, count: int, *, current: int
) -> list[int]:
    """Return the tokens that promise the lowest loss at one place, the best first.

    To first order, putting a word's vector w in the place of v changes the loss by (w - v) times
    the gradient; v is the same for all words.

    Args:
        gradient: (size,) float32, of the loss at the place's vector.
        words: (words, size) float32, the vectors of the allowed words.
        allowed: (words,) int64, their tokens.
        count: how many tokens; fewer where fewer are allowed.
        current: the token that stands there now; it is not proposed.
    """
    change = (words @ gradient).masked_fill(allowed == current, torch.inf)
    others = int((allowed != current).sum())
    best = change.topk(min(count, others), largest=False).indices
    proposed: list[int] = allowed[best].tolist()
    return proposed


@torch.no_grad()
def prompt_losses(
    model: PromptedModel,
    questions: PromptDataset,
    chosen: Sequence[int],
    prompts: Sequence[TokenIds],
    max_rows_per_forward: int,
) -> list[float]:
    """Return each prompt's mean loss over the same examples; the prompts share the passes.

    Args:
        model: the language model.
        questions: rows with prompt tokens.
        chosen: positions of the examples.
        prompts: the words of each prompt, as many in all.
        max_rows_per_forward: most rows of one pass.
    """
    vectors = torch.stack([_vectors(model, token_ids) for token_ids in prompts])
    passes = list(_passes(questions, chosen, len(prompts), max_rows_per_forward))
    losses = torch.cat([_losses(model, questions, items, vectors) for items in passes])
    # Example by example, all prompts of each: see _passes.
    means: list[float] = losses.cpu().double().view(-1, len(prompts)).mean(dim=0).tolist()
    return means


def _change_a_word(
    model: PromptedModel,
    train: PromptDataset,
    token_ids: TokenIds,
    places: Sequence[int],
    *,
    words: Tensor,
    allowed: Tensor,
    candidates: int,
    batch: int,
    max_rows_per_forward: int,
    random: Callable[[str], Random],
) -> tuple[TokenIds, float]:
    """Return the best prompt that differs in one place at most, and its loss."""

    def draw(purpose: str) -> list[int]:
        examples = range(len(train.rows))
        return random(purpose).sample(examples, min(batch, len(examples)))

    place = random("place").choice(places)
    gradient = prompt_gradient(
        model, train, draw("examples of the gradient"), token_ids, max_rows_per_forward
    )
    proposed = propose_words(gradient[place], words, allowed, candidates, current=token_ids[place])
    # The prompt as it is comes first: of equal losses the first is taken.
    prompts = [
        (*token_ids[:place], w, *token_ids[place + 1 :]) for w in (token_ids[place], *proposed)
    ]
    losses = prompt_losses(
        model, train, draw("examples of the choice"), prompts, max_rows_per_forward
    )
    best = losses.index(min(losses))
    return prompts[best], losses[best]


def _passes(
    questions: PromptDataset, chosen: Sequence[int], prompts: int, max_rows_per_forward: int
) -> Iterator[list[tuple[int, int]]]:
    """Yield the (example, prompt) pairs of each pass: every prompt with every example.

    Examples of like length share a pass, so that little is spent on filling.
    """
    ordered = sorted(chosen, key=lambda i: (len(questions.rows[i].token_ids), i))
    items = [(example, prompt) for example in ordered for prompt in range(prompts)]
    for start in range(0, len(items), max_rows_per_forward):
        yield items[start : start + max_rows_per_forward]


def _losses(
    model: PromptedModel,
    questions: PromptDataset,
    items: Sequence[tuple[int, int]],
    vectors: Tensor,
) -> Tensor:
    """Return (items,) float32: cross-entropy of the right word among the whole vocabulary."""
    log_probs = score_batch(
        model,
        [questions.rows[example] for example, _ in items],
        [prompt for _, prompt in items],
        vectors,
        None,
    )
    right = questions.word_ids[questions.targets[[example for example, _ in items]]]
    return nll_loss(log_probs, right.to(model.device), reduction="none")


def _vectors(model: PromptedModel, token_ids: TokenIds) -> Tensor:
    """Return (tokens, size) float32, a copy."""
    return model.input_embeddings.detach()[torch.tensor(token_ids, device=model.device)].float()


def _score_dev(
    model: PromptedModel,
    dev: PromptDataset,
    token_ids: TokenIds,
    score: Score,
    max_rows_per_forward: int,
) -> tuple[float, float]:
    vectors = _vectors(model, token_ids)
    log_probs = predict(
        model, dev.rows, vectors, dev.word_ids, max_rows_per_forward=max_rows_per_forward
    )
    return float(nll_loss(log_probs, dev.targets)), score(log_probs, dev.targets)


def _best(history: Sequence[SearchRecord]) -> SearchRecord:
    changed = [now for before, now in pairwise(history) if now.token_ids != before.token_ids]
    return max([history[0], *changed], key=lambda record: (record.dev_score, record.iteration))


def _fingerprint(
    settings: tuple[object, ...],
    train: PromptDataset,
    dev: PromptDataset,
    allowed: Tensor,
    start: Tensor,
) -> str:
    """Tell searches apart: by all that decides their words, the model by its start vectors."""
    questions = [
        (asked.rows, asked.word_ids[asked.targets].tolist(), asked.word_ids.tolist())
        for asked in (train, dev)
    ]
    text = repr((settings, questions, allowed.tolist(), start.tolist()))
    return hashlib.sha256(text.encode()).hexdigest()


def _read_history(checkpoint: Path | None, search: str) -> list[SearchRecord]:
    if checkpoint is None or not checkpoint.exists():
        return []
    stored = read_json(checkpoint)
    if stored["search"] != search:
        return []
    return [SearchRecord(**{**r, "token_ids": tuple(r["token_ids"])}) for r in stored["history"]]
