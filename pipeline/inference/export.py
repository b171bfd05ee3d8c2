"""Export what a method trained as a plain folder of transformers, which needs no other code.

Trained vectors become added tokens of the vocabulary, so that a template is ordinary text. Before
the folder is in place, transformers alone loads it and must answer as this pipeline does.
"""

import inspect
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
)

from pipeline.data.lama import read_lama
from pipeline.data.superglue import read_examples
from pipeline.errors import ModelError, PipelineError
from pipeline.files import atomic_dir, read_json, write_json, write_text
from pipeline.inference.model_card import PROMPTS, model_card
from pipeline.inference.predictor import TrainedPrompt, best_by_task, load_trained
from pipeline.inference.registry import Candidate
from pipeline.models.dataset import AllowedAnswers, PromptFormat, allowed_answers
from pipeline.models.encoding import Row, build_row
from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_codec, load_model
from pipeline.models.scoring import score_examples
from pipeline.prompts.template import Field, Mask, PromptTokens, Template, Text
from pipeline.tasks import Example, Task, get_task
from pipeline.tasks.lama import fact_examples, lama_task

# Largest difference of a log-probability, absolute and relative, between the folder and the
# pipeline. Tokens must be equal, so all that differs is rounding: up to 4e-6 in tests of tiny
# models, and 7e-5 in a model of 30 layers.
TOLERANCE = 1e-4

# So many examples of a relation, or of a task, are compared.
_COMPARED = {"lama": 2, "superglue": 8, "tasks": 8}


@dataclass(frozen=True)
class Comparison:
    """How exactly the folder answers as the pipeline does.

    Attributes:
        examples: number of examples that were compared.
        difference: the largest of the log-probabilities of their answers.
    """

    examples: int
    difference: float


@dataclass(frozen=True)
class ExportedPrompt:
    """One prompt, and what the pipeline makes of some examples.

    Attributes:
        tokens: names of its added tokens, one for each vector.
        answers: the allowed ones.
        asked: examples, with their rows.
        log_probs: (examples, answers) float32, of the pipeline.
    """

    trained: TrainedPrompt
    form: PromptFormat
    tokens: Sequence[str]
    answers: AllowedAnswers
    asked: Sequence[tuple[Example, Row]]
    log_probs: Tensor


class _Vocabulary:
    """The tokenizer of the folder, and the tokens that are added to it.

    Attributes:
        ids: name -> id of each added token.
        vectors: of the added tokens, (embedding size,) float each, in the order of `ids`.
        originals: added token -> the token of the model that has the same vector.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        tokenizer.split_special_tokens = False
        self.tokenizer = tokenizer
        self.ids: dict[str, int] = {}
        self.vectors: list[Tensor] = []
        self.originals: dict[int, int] = {}

    def add(self, names: Sequence[str], vectors: Iterable[Tensor]) -> None:
        """Add tokens with these vectors."""
        known = self.tokenizer.get_vocab()
        taken = [name for name in names if name in known]
        if taken:
            raise ModelError(f"the model's tokenizer has a token {taken[0]} already; rename it")
        added = [AddedToken(name, special=True, normalized=False) for name in names]
        self.tokenizer.add_tokens(added, special_tokens=True)
        known = self.tokenizer.get_vocab()
        self.ids.update({name: known[name] for name in names})
        self.vectors.extend(vectors)

    def copy(self, original: int, vector: Tensor) -> str:
        """Return the name of an added token with the same vector as a token of the model."""
        name = f"[W{original}]"
        if name not in self.ids:
            self.add([name], [vector])
            self.originals[self.ids[name]] = original
        return name

    def read_behind_special(self, text: str) -> list[int]:
        """Tokens of a text that follows a special or added token."""
        tokens = self.tokenizer.added_tokens_decoder.values()
        first = next(str(token) for token in tokens if token.special and not token.rstrip)
        ids: list[int] = self.tokenizer(first + text, add_special_tokens=False)["input_ids"]
        return ids[1:]


def export(candidate: Candidate, folder: Path, *, force: bool = False) -> Comparison:
    """Write the candidate's best prompts and its language model, as float32, into a folder.

    Args:
        candidate: what to export.
        folder: complete or absent afterwards.
        force: whether an earlier export in its place is replaced.

    Returns:
        The result of the comparison with the pipeline, on the CPU in single precision.

    Raises:
        PipelineError: the folder exists, or the method needs more than added tokens.
        ModelError: the tokenizer or transformers alone give other tokens or other scores.
        DataError: a file of the trained folder is missing, cut or replaced.
    """
    target = folder.resolve()
    _check_target(target, folder, force=force)
    if candidate.method == "classifier":
        raise PipelineError(
            f"classifier of {candidate.target}: it has a head that transformers has no class for, "
            "so it cannot be exported; choose another method with --method"
        )
    if (quantization := candidate.model.get("quantization")) is not None:
        raise PipelineError(
            f"{candidate.method} of {candidate.target}: trained with model.quantization: "
            f"{quantization}, but an export has the model's full weights, which give other scores; "
            "train with null"
        )
    source = Path(candidate.folders["model"])
    best = best_by_task(load_trained(Path(candidate.folders["trained"])).values())
    tasks = _read_tasks(candidate, list(best))
    model = _load(candidate, source, best)
    prompts = _ask(candidate, model, best, tasks)
    vocabulary = _Vocabulary(load_codec(source, masked=model.masked, start=None).tokenizer)
    description = _describe(model, vocabulary, prompts)
    _set_embeddings(model, vocabulary)
    with atomic_dir(target) as partial:
        vocabulary.tokenizer.save_pretrained(partial)
        model.network.save_pretrained(partial)
        write_json(partial / PROMPTS, description)
        masked = model.masked
        del model  # two need not fit in memory
        compared = _compare(partial, prompts, vocabulary, masked=masked)
        card = model_card(candidate, prompts, description, compared, masked=masked)
        write_text(partial / "README.md", card)
    return compared


def _check_target(target: Path, shown: Path, *, force: bool) -> None:
    if not target.exists():
        return
    if not force:
        raise PipelineError(f"{shown}: exists; name another folder, or replace it with --force")
    if not target.is_dir() or (any(target.iterdir()) and not (target / PROMPTS).is_file()):
        raise PipelineError(f"{shown}: not an export ({PROMPTS} is missing), so it is not replaced")


def _read_tasks(
    candidate: Candidate, names: Sequence[str]
) -> dict[str, tuple[Task, list[Example]]]:
    """The task or the relations, each with test examples."""
    splits = Path(candidate.folders["splits"])
    if not candidate.task:
        data = read_lama(splits, ["test"])
        if data.objects:
            raise PipelineError(
                "lama.objects: all: objects of several tokens are compared over several rows; only "
                "words at one position can be exported"
            )
        return {
            name: (lama_task(name, data.vocabulary), fact_examples(data.facts[name]["test"]))
            for name in names
        }
    own = candidate.definition
    task = own.task if own else get_task(candidate.task)
    if task.has_choices:
        raise PipelineError(
            f"{candidate.task}: its answers are the examples' own texts of several tokens, which "
            "are compared over several rows; only words at one position can be exported"
        )
    return {candidate.task: (task, read_examples(splits / "test.jsonl", task.examples))}


def _load(candidate: Candidate, source: Path, best: Mapping[str, TrainedPrompt]) -> PromptedModel:
    weights = [one.prompt.weights_path for one in best.values() if one.prompt.weights is not None]
    if len(weights) > 1:
        raise PipelineError(
            f"{candidate.method} of {candidate.target}: each of the {len(weights)} relations has a "
            "tuned model, and a folder holds one; choose a method with a frozen model (--method)"
        )
    return load_model(
        source,
        device="cpu",
        dtype="float32",
        start=candidate.model.get("start"),
        weights=weights[0] if weights else None,
    )


def _ask(
    candidate: Candidate,
    model: PromptedModel,
    best: Mapping[str, TrainedPrompt],
    tasks: Mapping[str, tuple[Task, list[Example]]],
) -> dict[str, ExportedPrompt]:
    """Let the pipeline answer some examples of each task, those that need not be shortened."""
    prompts = {}
    answers: dict[bool, AllowedAnswers] = {}
    for name, trained in best.items():
        task, examples = tasks[name]
        vectors = trained.prompt.vectors
        if vectors is not None and vectors.shape[1] != model.embedding_size:
            raise ModelError(
                f"{trained.name}: trained with another model than {candidate.folders['model']}; "
                "run `dvc repro`, or `dvc checkout`"
            )
        form = PromptFormat.from_prompt(task, trained.prompt)
        space = form.template.space_before_mask
        if space not in answers:
            answers[space] = allowed_answers(model, form)
        asked = list(islice(_rows(model, form, examples), _COMPARED[candidate.benchmark]))
        if not asked:
            raise PipelineError(
                f"{trained.name}: each of {len(examples)} test examples is shortened to fit, so "
                "none can be compared; raise max_length"
            )
        numbers = range(1, 1 + (0 if vectors is None else len(vectors)))
        label = "P" if candidate.task else f"{name}."
        rows = [row for _, row in asked]
        # One row a pass, as the folder is used.
        scores = score_examples(model, rows, vectors, answers[space].ids, max_tokens_per_forward=1)
        tokens = [f"[{label}{number}]" for number in numbers]
        prompts[name] = ExportedPrompt(trained, form, tokens, answers[space], asked, scores)
    return prompts


def _rows(
    model: PromptedModel, form: PromptFormat, examples: Iterable[Example]
) -> Iterator[tuple[Example, Row]]:
    """Encode examples, and leave out those that would be shortened."""
    limit = min(form.max_length or model.max_length, model.max_length)
    for example in examples:
        row = build_row(
            form.template,
            example.values,
            model.codec,
            masked=model.masked,
            max_length=sys.maxsize,
        )
        if len(row.token_ids) <= limit:
            yield example, row


@torch.no_grad()
def _describe(
    model: PromptedModel, vocabulary: _Vocabulary, prompts: Mapping[str, ExportedPrompt]
) -> dict[str, Any]:
    """Add the tokens of all prompts; return what `ptune-export.json` holds."""
    codec, tokenizer = model.codec, vocabulary.tokenizer
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    suffix = codec.suffix if model.masked else []
    special = tokenizer("a")["input_ids"] == [*codec.prefix, *bare, *suffix]
    front = "" if special else _escape(str(tokenizer.decode(codec.prefix)))
    for prompt in prompts.values():
        if prompt.trained.prompt.vectors is not None:
            vocabulary.add(prompt.tokens, prompt.trained.prompt.vectors)
    texts = {
        name: front + _spell(prompt.form.template, prompt.tokens, model, vocabulary)
        for name, prompt in prompts.items()
    }
    places = {True: "word behind a space", False: "word without a space"}
    return {
        "add_special_tokens": special,
        "prompts": {
            name: {
                "text": texts[name],
                "answers": places[prompt.form.template.space_before_mask],
            }
            for name, prompt in prompts.items()
        },
        "answers": {
            places[prompt.form.template.space_before_mask]: dict(
                zip(prompt.answers.answers, prompt.answers.ids.tolist(), strict=True)
            )
            for prompt in prompts.values()
        },
    }


def _spell(
    template: Template, tokens: Sequence[str], model: PromptedModel, vocabulary: _Vocabulary
) -> str:
    """Write a template as a format string that the tokenizer reads as training did.

    Training tokenizes the text behind a special token as the continuation of a line. Tokenizers may
    see it as the start of one instead: those that put a space in front of it need none of their
    own, and words that begin without a space are replaced by added tokens with the same vectors.
    """
    codec, next_token = model.codec, iter(tokens)
    sections: list[list[Text | Field]] = [[]]
    marks: list[str] = []

    def mark(token: str) -> None:
        marks.append(_escape(token))
        sections.append([])

    for part in template.parts:
        match part:
            case Text():
                for piece in codec.split_special(part.text):
                    if isinstance(piece, str):
                        sections[-1].append(Text(piece))
                    else:
                        mark(str(vocabulary.tokenizer.convert_ids_to_tokens(piece)))
            case Field():
                sections[-1].append(part)
            case PromptTokens():
                for _ in range(part.count):
                    mark(next(next_token))
            case Mask() if not model.masked:
                break
            case Mask():
                mark(str(vocabulary.tokenizer.mask_token))
    texts = [_join(sections[0]).rstrip(" ")]
    for parts in sections[1:]:
        text = _continue(_join(parts).rstrip(" "), parts, model, vocabulary)
        texts.append(text)
    if model.masked:
        texts[-1] = texts[-1].rstrip()
    return texts[0] + "".join(a + b for a, b in zip(marks, texts[1:], strict=True))


def _continue(
    text: str, parts: Sequence[Text | Field], model: PromptedModel, vocabulary: _Vocabulary
) -> str:
    """Write a text that follows a special token; `text` is that of the parts."""
    codec = model.codec
    if text.startswith(" "):
        wanted = codec.encode_segment(" a", start=False)
        own_space = vocabulary.read_behind_special(" a") != wanted
        return text[1:] if own_space else text
    if not text or not parts or not isinstance(parts[0], Text):
        return text  # it begins with a field: the comparison finds whether this is possible
    lead = parts[0].text.rstrip(" ").partition(" ")[0]
    ids = codec.encode_segment(lead, start=False)
    if vocabulary.read_behind_special(lead) == ids:
        return text
    vectors = model.input_embeddings(torch.tensor(ids, device=model.device))
    copies = [_escape(vocabulary.copy(*each)) for each in zip(ids, vectors, strict=True)]
    rest = text[len(_escape(lead)) :]
    return "".join(copies) + _continue(rest, [], model, vocabulary)


def _join(parts: Sequence[Text | Field]) -> str:
    return "".join(
        _escape(part.text) if isinstance(part, Text) else f"{{{part.name}}}" for part in parts
    )


def _escape(text: str) -> str:
    """Double the braces, for `str.format`."""
    return text.replace("{", "{{").replace("}", "}}")


@torch.no_grad()
def _set_embeddings(model: PromptedModel, vocabulary: _Vocabulary) -> None:
    """Give the added tokens their vectors, as the embedding layer returns them."""
    if not vocabulary.vectors:
        return
    network, ids = model.network, torch.tensor(list(vocabulary.ids.values()))
    size = max(model.vocabulary_size, int(ids.max()) + 1)
    vectors = torch.stack(vocabulary.vectors).to(model.dtype)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # rows of an output layer that is not tied
        options = inspect.signature(network.resize_token_embeddings).parameters
        random = {"mean_resizing": False} if "mean_resizing" in options else {}
        network.resize_token_embeddings(size, **random)
    embeddings = network.get_input_embeddings()
    weight = embeddings.get_parameter("weight")
    weight[ids] = vectors
    read = embeddings(ids)
    if not torch.equal(read, vectors):  # Gemma scales them
        weight[ids] = vectors * (vectors.norm() / read.norm())
        if not torch.allclose(embeddings(ids), vectors, rtol=1e-5, atol=1e-6):
            raise ModelError(
                f"model type '{network.config.model_type}': its embedding layer changes the rows "
                "of its weight by more than a factor, so that no row gives a trained vector"
            )


@torch.no_grad()
def _compare(
    folder: Path, prompts: Mapping[str, ExportedPrompt], vocabulary: _Vocabulary, *, masked: bool
) -> Comparison:
    """Answer the examples as the model card says, and compare tokens and scores."""
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    auto_class = AutoModelForMaskedLM if masked else AutoModelForCausalLM
    network = auto_class.from_pretrained(folder, local_files_only=True)
    description = read_json(folder / PROMPTS)
    largest = 0.0
    for name, prompt in prompts.items():
        text = description["prompts"][name]["text"]
        for (example, row), expected in zip(prompt.asked, prompt.log_probs, strict=True):
            filled = text.format(**{k: value.strip() for k, value in example.values.items()})
            ids = tokenizer(
                filled, add_special_tokens=description["add_special_tokens"], return_tensors="pt"
            ).input_ids
            _check_tokens(vocabulary, filled, ids[0].tolist(), prompt, row)
            logits = network(input_ids=ids).logits[0, row.answer_position, prompt.answers.ids]
            found = logits.float().log_softmax(0)
            difference = (found - expected).abs().max().item()
            if not torch.allclose(found, expected, rtol=TOLERANCE, atol=TOLERANCE):
                raise ModelError(
                    f"{prompt.trained.name}, example '{example.name}': the exported folder gives "
                    f"other scores: log-probabilities differ by {difference:.2g}; this model "
                    "cannot be exported"
                )
            largest = max(largest, difference)
    return Comparison(sum(len(prompt.asked) for prompt in prompts.values()), largest)


def _check_tokens(
    vocabulary: _Vocabulary, text: str, ids: Sequence[int], prompt: ExportedPrompt, row: Row
) -> None:
    """Check that the tokenizer reads the text as the row that the pipeline built."""
    expected = [
        token if slot < 0 else vocabulary.ids[prompt.tokens[slot]]
        for token, slot in zip(row.token_ids, row.slots, strict=True)
    ]
    found = [vocabulary.originals.get(token, token) for token in ids]
    if found == expected:
        return
    pairs = enumerate(zip_longest(expected, found))
    at = next(place for place, (wanted, read) in pairs if wanted != read)
    wanted, read = (
        " ".join(vocabulary.tokenizer.convert_ids_to_tokens(own[at : at + 3])) or "the end"
        for own in (expected, found)
    )
    raise ModelError(
        f"{prompt.trained.name}: this model's tokenizer reads the text {text!r} in another way "
        f"than training did: from token {at + 1}, {read} instead of {wanted}; write a space "
        "between prompt tokens or {mask} and the field behind them, and train again"
    )
