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
import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from random import Random

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from pipeline.config.schema import SearchParams
from pipeline.errors import ModelError, TemplateError
from pipeline.files import read_json, read_progress, write_json
from pipeline.models.dataset import PromptDataset
from pipeline.models.encoding import NO_SLOT, Row
from pipeline.models.language_model import PromptedModel
from pipeline.models.packing import PackedExample, upload
from pipeline.models.scoring import (
    ScoreError,
    explain_nonfinite,
    plan_passes,
    score_batch,
    score_examples,
)
from pipeline.models.tokenizer import PieceTokenizer
from pipeline.seeding import make_random
from pipeline.training.loop import TrainingJob

TokenIds = tuple[int, ...]


@dataclass(frozen=True)
class SearchRecord:
    """The result of one iteration.

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
    """The result of a search.

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
    job: TrainingJob,
    params: SearchParams,
    *,
    allowed: Tensor,
    max_tokens_per_forward: int,
    checkpoint: Path | None,
    on_iteration: Callable[[SearchRecord], None],
) -> SearchResult:
    """Search the words of one prompt.

    Args:
        model: the language model; its weights stay bit-equal and are marked as frozen.
        job: the examples. Its name, its seed and the iteration determine all random numbers.
            Prompt tokens that no row has, such as those behind the mask of a causal model, keep
            their first words. The score is computed at the start and whenever a word has changed.
        params: the number of iterations, each of which tries up to `candidates` words at one
            place, on two random batches of `batch_size` examples.
        allowed: (words,) int64, ids of the words that a prompt may have.
        max_tokens_per_forward: maximum number of positions in a forward pass; it changes memory and
            speed, not the result.
        checkpoint: where the history is written after each iteration. A search that finds its
            history there resumes, also with more iterations than before; a history of other
            examples, words, embeddings or settings is overwritten. None keeps nothing.
        on_iteration: called after each iteration, except for those of the checkpoint.

    Raises:
        TemplateError: the rows have no prompt tokens.
        ValueError: they have more than the job's number, or no word is allowed.
        DataError: the checkpoint is not JSON.
        ModelError: a loss, a gradient or the scores of an example are not finite.
    """
    rows = [row for row in job.train.rows if isinstance(row, Row)]
    places = sorted({slot for row in rows for slot in row.slots} - {NO_SLOT})
    name, tokens = job.name, job.prompt_tokens
    if not places:
        raise TemplateError(
            f"{name}: no prompt token to search words for; put [P] into the template"
        )
    if places[-1] >= tokens or not len(allowed):
        raise ValueError(f"{name}: {tokens} tokens for {places}, {len(allowed)} words allowed")
    model.network.eval().requires_grad_(False)
    search = _Search(model, job, params, places, allowed.to(model.device), max_tokens_per_forward)
    start = tuple(
        make_random(job.seed, "search", name, "start").choices(allowed.tolist(), k=tokens)
    )
    fingerprint = search.fingerprint(start)
    history = _read_history(checkpoint, fingerprint)[: params.iterations + 1]
    for iteration in range(len(history), params.iterations + 1):
        before = history[-1] if history else None
        token_ids, train_loss = start, None
        if before is not None:
            token_ids, train_loss = search.change_a_word(before.token_ids, iteration)
        if before is not None and token_ids == before.token_ids:
            dev_loss, dev_score = before.dev_loss, before.dev_score
        else:
            dev_loss, dev_score = search.score_dev(token_ids)
        history.append(SearchRecord(iteration, token_ids, train_loss, dev_loss, dev_score))
        # Reported before it is saved: a kill may cause a second report, but never none.
        on_iteration(history[-1])
        if checkpoint is not None:
            records = [asdict(record) for record in history]
            write_json(checkpoint, {"search": fingerprint, "history": records})
    best = _best(history)
    return SearchResult(best.token_ids, best.iteration, history)


def score_dev(
    model: PromptedModel, job: TrainingJob, prompt: str, vectors: Tensor | None, max_tokens: int
) -> tuple[float, float]:
    """Loss and score of a prompt on the dev examples of a job.

    Args:
        model: the language model.
        job: the examples.
        prompt: its text, for messages.
        vectors: (tokens, size) float; None where the template has none.
        max_tokens: maximum number of positions in a forward pass.

    Raises:
        ModelError: the scores of an example are not finite.
    """
    dev = job.dev
    try:
        log_probs = score_examples(
            model, dev.rows, vectors, dev.word_ids, max_tokens_per_forward=max_tokens
        )
    except ScoreError as error:
        place = f"{job.trial}, prompt '{prompt}', dev example {error.position + 1}"
        raise ModelError(f"{place}: {error}") from None
    loss = float(nll_loss(log_probs, dev.targets))
    return loss, job.score(log_probs.argmax(dim=1), dev.targets)


def filter_words(codec: PieceTokenizer, words_count: int, forbidden: Collection[str]) -> Tensor:
    """Select the tokens that a prompt may have.

    Left out are special and other added tokens; tokens that are not printable text by themselves,
    such as white space, control characters and single bytes of a longer character; forbidden words,
    in any casing, at the start of a word or inside one; and tokens that begin with a capital
    letter, most of which are names.

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
    left_out |= {
        codec.single_token_id(w, space_before=space) for w in forbidden for space in (True, False)
    }
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
    dataset: PromptDataset,
    chosen: Sequence[int],
    token_ids: TokenIds,
    max_tokens_per_forward: int,
) -> Tensor:
    """(tokens, size) float32: the gradient of the mean loss at a prompt's vectors.

    Args:
        model: the language model; no gradients are left at its weights.
        dataset: rows with prompt tokens.
        chosen: positions of the examples whose loss it is.
        token_ids: the words of the prompt.
        max_tokens_per_forward: maximum number of positions in a forward pass.
    """
    vectors = _vectors(model, token_ids).unsqueeze(0).requires_grad_()
    for losses, _ in _losses(model, dataset, chosen, vectors, max_tokens_per_forward):
        (losses.sum() / len(chosen)).backward(inputs=[vectors])
    gradient: Tensor | None = vectors.grad
    assert gradient is not None
    return gradient[0]


def propose_words(
    gradient: Tensor, words: Tensor, allowed: Tensor, count: int, *, current: int
) -> list[int]:
    """The tokens with the lowest estimated loss at one place, the best first.

    To first order, putting a word's vector w in the place of v changes the loss by (w - v) times
    the gradient; v is the same for all words.

    Args:
        gradient: (size,) float32, of the loss at the place's vector.
        words: (words, size) float32, the vectors of the allowed words.
        allowed: (words,) int64, their tokens.
        count: how many tokens; fewer where fewer are allowed.
        current: the token at that place; it is not proposed.
    """
    change = (words @ gradient).masked_fill(allowed == current, torch.inf)
    others = int((allowed != current).sum())
    best = change.topk(min(count, others), largest=False).indices
    proposed: list[int] = allowed[best].tolist()
    return proposed


@torch.no_grad()
def prompt_losses(
    model: PromptedModel,
    dataset: PromptDataset,
    chosen: Sequence[int],
    prompts: Sequence[TokenIds],
    max_tokens_per_forward: int,
) -> list[float]:
    """Each prompt's mean loss over the same examples; the prompts share the passes.

    Args:
        model: the language model.
        dataset: rows with prompt tokens.
        chosen: positions of the examples.
        prompts: the words of each prompt, all of the same number.
        max_tokens_per_forward: maximum number of positions in a forward pass.
    """
    vectors = torch.stack([_vectors(model, token_ids) for token_ids in prompts])
    passes = list(_losses(model, dataset, chosen, vectors, max_tokens_per_forward))
    losses = torch.empty(len(chosen) * len(prompts), dtype=torch.float64)
    losses[[i for _, own in passes for i in own]] = (
        torch.cat([own for own, _ in passes]).cpu().double()
    )
    means: list[float] = losses.view(len(prompts), -1).mean(dim=1).tolist()
    return means


@dataclass(frozen=True)
class _Search:
    """The constants of a search."""

    model: PromptedModel
    job: TrainingJob
    params: SearchParams
    places: Sequence[int]
    allowed: Tensor
    max_tokens: int

    def change_a_word(self, token_ids: TokenIds, iteration: int) -> tuple[TokenIds, float]:
        """The best prompt that differs in at most one place, and its loss."""
        model, train = self.model, self.job.train

        def random(purpose: str) -> Random:
            return make_random(self.job.seed, "search", self.job.name, str(iteration), purpose)

        def draw(purpose: str) -> list[int]:
            examples = range(len(train.rows))
            return random(purpose).sample(examples, min(self.params.batch_size, len(examples)))

        place = random("place").choice(self.places)
        batch = draw("examples of the gradient")
        gradient = prompt_gradient(model, train, batch, token_ids, self.max_tokens)
        proposed = propose_words(
            gradient[place],
            self._allowed_embeddings,
            self.allowed,
            self.params.candidates,
            current=token_ids[place],
        )
        # The prompt as it is comes first: of equal losses the first is taken.
        prompts = [
            (*token_ids[:place], word, *token_ids[place + 1 :])
            for word in (token_ids[place], *proposed)
        ]
        batch = draw("examples of the choice")
        losses = prompt_losses(model, train, batch, prompts, self.max_tokens)
        if not all(map(math.isfinite, [*losses, *gradient.flatten().tolist()])):
            raise ModelError(
                f"{self.job.trial}, iteration {iteration}: the loss or its gradient is not "
                f"finite: {explain_nonfinite(model)}"
            )
        best = losses.index(min(losses))
        return prompts[best], losses[best]

    def score_dev(self, token_ids: TokenIds) -> tuple[float, float]:
        """Loss and score of a prompt on dev."""
        vectors = _vectors(self.model, token_ids)
        prompt = " ".join(self.model.codec.tokenizer.convert_ids_to_tokens(list(token_ids)))
        return score_dev(self.model, self.job, prompt, vectors, self.max_tokens)

    def fingerprint(self, start: TokenIds) -> str:
        """Hash all that determines the words; the model is represented by its start vectors."""
        job, params = self.job, self.params
        settings = (job.name, job.prompt_tokens, params.candidates, params.batch_size, job.seed)
        datasets = [
            (data.rows, data.word_ids[data.targets].tolist(), data.word_ids.tolist())
            for data in (job.train, job.dev)
        ]
        vectors = _vectors(self.model, start).tolist()
        text = repr((settings, datasets, self.allowed.tolist(), vectors))
        return hashlib.sha256(text.encode()).hexdigest()

    @cached_property
    def _allowed_embeddings(self) -> Tensor:
        """(words, size) float32."""
        vectors: Tensor = self.model.input_embeddings(self.allowed)
        return vectors.detach().float()


def _losses(
    model: PromptedModel,
    dataset: PromptDataset,
    chosen: Sequence[int],
    vectors: Tensor,
    max_tokens_per_forward: int,
) -> Iterator[tuple[Tensor, list[int]]]:
    """Yield losses of each prompt with each example, a pass at a time.

    Yields:
        (items,) float32: cross-entropy of the right word among the whole vocabulary; and the
        numbers of the items, prompt by prompt.
    """
    tokens = vectors.shape[1]
    items = [(prompt, example) for prompt in range(len(vectors)) for example in chosen]
    examples = [PackedExample.of(dataset.rows[e], prompt * tokens) for prompt, e in items]
    right = dataset.word_ids[dataset.targets[[example for _, example in items]]].to(model.device)
    passes = plan_passes(model, examples, max_tokens=max_tokens_per_forward)
    for each, batch in zip(passes, upload(passes, model.device), strict=True):
        log_probs = score_batch(model, batch, vectors, None)
        yield nll_loss(log_probs, right[each.examples], reduction="none"), each.examples


def _vectors(model: PromptedModel, token_ids: TokenIds) -> Tensor:
    """(tokens, size) float32, a copy."""
    ids = torch.tensor(token_ids, device=model.device)
    vectors: Tensor = model.input_embeddings(ids)
    return vectors.detach().float()


def _best(history: Sequence[SearchRecord]) -> SearchRecord:
    changed = [now for before, now in pairwise(history) if now.token_ids != before.token_ids]
    return max([history[0], *changed], key=lambda record: (record.dev_score, record.iteration))


def _read_history(checkpoint: Path | None, fingerprint: str) -> list[SearchRecord]:
    def parse(file: Path) -> list[SearchRecord]:
        stored = read_json(file)
        if stored["search"] != fingerprint:
            return []
        return [
            SearchRecord(**{**r, "token_ids": tuple(r["token_ids"])}) for r in stored["history"]
        ]

    return [] if checkpoint is None else read_progress(checkpoint, parse) or []
