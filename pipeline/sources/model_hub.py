"""Models of the Hugging Face hub: their names and files."""

import re

# The hub's own rule, so that a name is judged without the hub.
_PART = r"(?!.*(?:--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
_NAME = re.compile(rf"{_PART}/{_PART}(?<!\.git)(?:@(?!.*\.\.)\w[\w./-]*)?", re.ASCII)

# Names from the hub's first days, without an organization. No new ones are given, and one that is
# not among them is a slip of the pen.
_LEGACY = frozenset(
    {
        "albert-base-v1", "albert-base-v2", "albert-large-v1", "albert-large-v2",
        "albert-xlarge-v1", "albert-xlarge-v2", "albert-xxlarge-v1", "albert-xxlarge-v2",
        "bert-base-cased", "bert-base-chinese", "bert-base-german-cased",
        "bert-base-multilingual-cased", "bert-base-multilingual-uncased", "bert-base-uncased",
        "bert-large-cased", "bert-large-cased-whole-word-masking", "bert-large-uncased",
        "bert-large-uncased-whole-word-masking", "distilgpt2", "distilroberta-base", "gpt2",
        "gpt2-large", "gpt2-medium", "gpt2-xl", "roberta-base", "roberta-large",
    }
)  # fmt: skip

# What transformers loads by itself: no weights in other formats, no code.
MODEL_FILES = [
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "model.safetensors.index.json",
    "model-*-of-*.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "spiece.model",
    "tokenizer.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
]


def is_hub_name(name: str) -> bool:
    """Tell whether a name has the form `organization/name`, with or without `@revision`.

    Names without an organization are only the ones that the hub knows from its first days.
    """
    return _NAME.fullmatch(name) is not None or name.partition("@")[0] in _LEGACY
