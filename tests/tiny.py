"""Tiny language models of five families, saved as folders that the real loading code reads.

Their tokenizers know the words of `WORDS` as single tokens in the middle of a sentence, each in its
family's own way: WordPiece with `##`, BPE with the space in the token, SentencePiece with `▁`.
"""

from pathlib import Path

import torch
from tokenizers import (
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AlbertConfig,
    AlbertForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from pipeline.models.language_model import PromptedModel
from pipeline.models.loading import load_model

WORDS = (
    "Paris", "Lyon", "Oslo", "France", "Norway", "Europe", "Asia", "Japan", "yes", "no", "is",
    "located", "in", "the", "capital", "of", "a", "city", "Question", "Answer", "shares", "border",
    "with",
)  # fmt: skip
PUNCTUATION = (".", ",", "?", ":", "(", ")")
LETTERS = tuple("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789'-")

# Each word by itself, at the start of a line and behind a space.
_TEXT = [space + word for word in WORDS for space in ("", " ")]

FAMILIES = ("bert", "roberta", "albert", "gpt2", "llama")
MASKED = ("bert", "roberta", "albert")


def save_tiny(family: str, folder: Path) -> Path:
    """Save a two-layer model of a family with random weights, and its tokenizer."""
    tokenizer = make_tokenizer(family)
    torch.manual_seed(sum(map(ord, family)))
    size = {"vocab_size": len(tokenizer), "initializer_range": 0.3}
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
             "intermediate_size": 64, "max_position_embeddings": 128}  # fmt: skip
    pad = {"pad_token_id": tokenizer.pad_token_id}
    model = {
        "bert": lambda: BertForMaskedLM(BertConfig(**size, **shape, **pad)),
        "roberta": lambda: RobertaForMaskedLM(RobertaConfig(**size, **shape, **pad)),
        "albert": lambda: AlbertForMaskedLM(
            AlbertConfig(**size, **shape, **pad, embedding_size=16)
        ),
        "gpt2": lambda: GPT2LMHeadModel(
            GPT2Config(
                **size,
                n_embd=32,
                n_layer=2,
                n_head=2,
                n_positions=128,
                bos_token_id=0,
                eos_token_id=0,
            )
        ),
        "llama": lambda: LlamaForCausalLM(LlamaConfig(**size, **shape, num_key_value_heads=1)),
    }[family]()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for word in WORDS:
        assert len(tokenizer("a " + word, add_special_tokens=False)["input_ids"]) == 2, word
    return folder


def make_tokenizer(family: str) -> PreTrainedTokenizerFast:
    """Create the tokenizer of a family."""
    kinds = {"bert": _wordpiece, "roberta": _bpe, "albert": _unigram, "gpt2": _bpe,
             "llama": _sentencepiece_bpe}  # fmt: skip
    return kinds[family](family)


def load_broken(folder: Path, word: str = "Oslo") -> PromptedModel:
    """Load a model in which the embedding of a word is NaN."""
    model = load_model(folder, device="cpu")
    token = model.codec.single_token_id(word, space_before=True)
    with torch.no_grad():
        model.input_embeddings.weight[token] = torch.nan
    return model


def _wordpiece(_: str) -> PreTrainedTokenizerFast:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*specials, *WORDS, *PUNCTUATION, *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary = {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def _bpe(family: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE, with merges that build each word with and without its space."""
    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if family == "roberta" else ["<|end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(_TEXT, _trainer(specials, alphabet))
    tokenizer.decoder = decoders.ByteLevel()
    if family == "gpt2":
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", cls_token="<s>",
        sep_token="</s>", pad_token="<pad>", unk_token="<unk>", mask_token="<mask>",
    )  # fmt: skip


def _unigram(_: str) -> PreTrainedTokenizerFast:
    """SentencePiece's unigram model, lower case as ALBERT's."""
    specials = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    words = dict.fromkeys(f"▁{word.lower()}" for word in WORDS)
    letters = dict.fromkeys(letter.lower() for letter in LETTERS)
    pieces = [*((special, 0.0) for special in specials), *((word, -1.0) for word in words),
              *((p, -2.0) for p in PUNCTUATION), ("▁", -2.0),
              *((letter, -8.0) for letter in letters)]  # fmt: skip
    tokenizer = Tokenizer(models.Unigram(list(dict(pieces).items()), unk_id=1))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), normalizers.Strip()])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>", cls_token="[CLS]",
        sep_token="[SEP]", mask_token="[MASK]",
    )  # fmt: skip


def _sentencepiece_bpe(_: str) -> PreTrainedTokenizerFast:
    """SentencePiece's BPE without a pre-tokenizer, as in the first Llamas, with a BOS token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    alphabet = ["▁", "\n", *PUNCTUATION, *LETTERS]
    tokenizer.train_from_iterator(_TEXT, _trainer(["<unk>", "<s>", "</s>"], alphabet))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def _trainer(specials: list[str], alphabet: list[str]) -> trainers.BpeTrainer:
    """Return a trainer that merges until every word is one token."""
    return trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, special_tokens=specials,
        initial_alphabet=alphabet, show_progress=False,
    )  # fmt: skip
