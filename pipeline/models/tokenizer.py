"""From words to token ids, with each tokenizer's own rules for spaces and case.

A token that begins a word differs from one inside a word: BPE and SentencePiece vocabularies carry
the space in the token (` France`), WordPiece marks the inside (`##ance`). Text between prompt
tokens is tokenized as it would be in the middle of a sentence, so no rule for a family is needed.
Special tokens that are typed in an example are plain text; in a template they are special tokens.
"""

import re
from collections.abc import Iterator
from functools import lru_cache

from transformers import PreTrainedTokenizerFast

from pipeline.errors import ModelError

# Behind one of these, a tokenizer sees text as the continuation of a line. The second serves where
# the tokenizer drops the first, unless it would melt into the text's first word.
_ANCHORS = ("\n", "a")
# In a template, what separates two texts; a causal model has no such token, and it is left out.
SEPARATOR = "[SEP]"


class PieceTokenizer:
    """A tokenizer, asked for pieces of a sentence.

    Attributes:
        prefix: ids of the special tokens in front of every sequence, such as [CLS].
        suffix: ids of those behind it, such as [SEP].
        mask_id: id of the mask token; None where the tokenizer has none.
        pad_id: an id to fill rows with; masked out everywhere.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        *,
        start: str | None = None,
        rows: int | None = None,
    ) -> None:
        """Wrap a fast tokenizer of transformers.

        Args:
            tokenizer: of the model.
            start: what precedes every row of a causal model, as in `model.start`; None: what the
                tokenizer puts there.
            rows: of the model's word embeddings, if tokens without a row are to be found. One that
                only pads is replaced, and no word is such a token.

        Raises:
            ModelError: `bos`, and the tokenizer has no such token; or a special token has no row.
        """
        self.tokenizer = tokenizer
        self.mask_id: int | None = tokenizer.mask_token_id
        self._rows = len(tokenizer) if rows is None else rows
        pad_id: int | None = tokenizer.pad_token_id
        self.pad_id = pad_id if pad_id is not None and pad_id < self._rows else 0
        self._separator: str = (tokenizer.mask_token and tokenizer.sep_token) or ""
        self._unknown: int | None = tokenizer.unk_token_id
        tokenizer.split_special_tokens = True
        tokens = tokenizer.added_tokens_decoder.items()
        self._special = {str(token): number for number, token in tokens if token.special}
        longest_first = sorted(self._special, key=len, reverse=True)
        self._special_pattern = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        # SentencePiece's unigram model has them as pieces too: typed, these are unknown text.
        self._plain: dict[int, int] = {}
        if self._unknown is not None:
            self._plain = dict.fromkeys(self._special.values(), self._unknown)
        bare = self._ids("a")
        whole: list[int] = tokenizer("a")["input_ids"]
        first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
        self.prefix = whole[:first]
        self.suffix = whole[first + len(bare) :]
        self._anchors = [(anchor, self._ids(anchor)) for anchor in _ANCHORS]
        if start is not None:
            self.prefix = self._start_ids(start)
        mask = [] if self.mask_id is None else [self.mask_id]
        self._with_rows([*self.prefix, *self.suffix, *mask])

    def encode_segment(self, text: str, *, start: bool) -> list[int]:
        """Tokenize a stretch of text between prompt tokens, masks and the ends.

        Args:
            text: words; leading white space separates the first word from what precedes it.
                Trailing spaces are dropped: they belong to what follows.
            start: whether the text begins the sequence. White space there is kept, as far as the
                tokenizer has tokens for it.

        Raises:
            ModelError: the model has no row for a token of the text.
        """
        text = text.rstrip(" ")
        if not text:
            return []
        return self._with_rows(self._ids(text) if start else self._continuation(text))

    def _start_ids(self, start: str) -> list[int]:
        """Ids of `model.start`.

        A newline, where the tokenizer puts nothing in front: LAMA's connectors for GPT and GPT-2
        begin every sentence with one. The first position of a causal model has no context, and
        many models use it as an attention sink, so it should not be a word of the question.
        """
        if start == "none":
            return []
        if start == "auto":
            return self.prefix or self._ids("\n")
        if start == "bos":
            bos: int | None = self.tokenizer.bos_token_id
            if bos is None:
                raise ModelError(
                    "model.start: bos: the tokenizer of this model has no such token; write auto, "
                    "none or the text to start with"
                )
            return [bos]
        return self._ids(start)

    def split_special(self, text: str) -> Iterator[str | int]:
        """Split a template's text at its special tokens, which are replaced by their ids.

        Raises:
            ModelError: the model has no row for one.
        """
        text = text.replace(SEPARATOR, self._separator)
        for part in self._special_pattern.split(text) if self._special else [text]:
            token = self._special.get(part)
            yield part if token is None else self._with_rows([token])[0]

    def single_token_id(self, word: str, *, space_before: bool) -> int | None:
        """Id of a word that is one token at its place in a sentence, else None."""
        ids = self._continuation((" " if space_before else "") + word)
        known = len(ids) == 1 and ids[0] != self._unknown and ids[0] < self._rows
        return ids[0] if known else None

    def count_tokens(self, word: str, *, space_before: bool) -> int:
        """Number of tokens of a word at its place in a sentence."""
        return len(self._continuation((" " if space_before else "") + word))

    def truncate(self, text: str, tokens: int) -> str:
        """The first tokens of a text, at most `tokens`."""
        offsets = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)[
            "offset_mapping"
        ]
        return text if len(offsets) <= tokens else text[: offsets[tokens][0]].rstrip()

    @lru_cache(maxsize=65536)  # noqa: B019 - a codec lives as long as its process
    def _continuation(self, text: str) -> list[int]:
        for anchor, head in self._anchors:
            if anchor.isalnum() and text[0].isalnum():
                continue
            ids = self._ids(anchor + text)
            if head and ids[: len(head)] == head:
                return ids[len(head) :]
        return self._ids(text)

    def _with_rows(self, ids: list[int]) -> list[int]:
        """The same ids, if the model has a row for each.

        Raises:
            ModelError: it has not.
        """
        if missing := [one for one in ids if one >= self._rows]:
            token = self.tokenizer.convert_ids_to_tokens(missing[0])
            raise ModelError(
                f"the token {token!r} has the id {missing[0]}, but the model has {self._rows} word "
                f"embeddings for the {len(self.tokenizer)} tokens of its tokenizer; call "
                "resize_token_embeddings, train the new ones and save the model again"
            )
        return ids

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return [self._plain.get(one, one) for one in ids]
