"""Checkpoints of a training that is under way: whole or absent, and never too many."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from pipeline.files import read_progress, written_durably

# At most this share of the time goes into writing.
_WRITING_SHARE = 0.05


class Checkpoint:
    """One file that holds how far a training is."""

    def __init__(
        self, path: Path, *, seconds: float, on_save: Callable[[], None] = lambda: None
    ) -> None:
        """Name the file.

        Args:
            path: of the file; its folder exists.
            seconds: between two checkpoints, at least; more where writing takes long.
            on_save: called when it is written; the time that this takes counts as writing.
        """
        self._path = path
        self._seconds = seconds
        self._on_save = on_save
        self._cost = 0.0
        self._last = time.monotonic()

    def load(self, *keys: str) -> dict[str, Any] | None:
        """Return what was saved last; None where nothing was, or the file is damaged.

        `keys` are those that every state has.
        """

        def parse(path: Path) -> dict[str, Any]:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            for key in keys:
                state[key]
            return state

        return read_progress(self._path, parse)

    @property
    def due(self) -> bool:
        """Whether it is time for the next one."""
        wait = max(self._seconds, self._cost / _WRITING_SHARE)
        return time.monotonic() - self._last >= wait

    def save(self, state: dict[str, Any]) -> None:
        """Write nested dictionaries and lists of tensors, numbers and text."""
        started = time.monotonic()
        with written_durably(self._path) as partial, partial.open("wb") as file:
            torch.save(state, file)
        self._on_save()
        self._last = time.monotonic()
        self._cost = self._last - started
