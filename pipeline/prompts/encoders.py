"""Prompt encoders: what makes the vectors of one prompt's tokens.

Source: P-tuning, arXiv:2103.10385 (v1 has the LSTM, v2 all three, its Table 8 compares them);
THUDM/P-tuning LAMA/p_tuning/prompt_encoder.py.
"""

import torch
from torch import Tensor, nn


class PromptEncoder(nn.Module):
    """Vectors for the tokens of one prompt.

    `lstm`: embeddings, a two-layer bidirectional LSTM, then a two-layer perceptron (the released
    LAMA code). `mlp`: embeddings, then the perceptron. `embedding`: the vectors themselves.
    """

    def __init__(self, kind: str, count: int, size: int, *, dropout: float) -> None:
        """Make an encoder; its weights are drawn from torch's current generator.

        Args:
            kind: `lstm`, `mlp` or `embedding`.
            count: number of prompt tokens, 1 or more.
            size: size of the language model's embeddings.
            dropout: share, between the layers of the LSTM and of the perceptron.

        Raises:
            ValueError: an unknown kind, or an odd size for `lstm`.
        """
        super().__init__()
        if kind not in ("lstm", "mlp", "embedding"):
            raise ValueError(f"unknown prompt encoder {kind!r}; choose lstm, mlp or embedding")
        if kind == "lstm" and size % 2:
            raise ValueError(f"an lstm prompt encoder needs an even embedding size, not {size}")
        self.embedding = nn.Embedding(count, size)
        self.lstm = (
            nn.LSTM(
                size, size // 2, num_layers=2, dropout=dropout, bidirectional=True, batch_first=True
            )
            if kind == "lstm"
            else None
        )
        self.mlp = (
            nn.Sequential(
                nn.Linear(size, size), nn.ReLU(), nn.Dropout(dropout), nn.Linear(size, size)
            )
            if kind != "embedding"
            else None
        )

    def start_from(self, vectors: Tensor) -> None:
        """Set the embeddings: (count, size) float. `embedding` prompts then begin as words."""
        with torch.no_grad():
            self.embedding.weight.copy_(vectors)

    def forward(self) -> Tensor:
        """Return (count, size) float: the prompt's vectors, in reading order."""
        vectors: Tensor = self.embedding.weight
        if self.lstm is not None:
            vectors = self.lstm(vectors.unsqueeze(0))[0].squeeze(0)
        if self.mlp is not None:
            vectors = self.mlp(vectors)
        return vectors
