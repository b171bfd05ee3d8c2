"""Errors that the user can fix, and warnings.

The text of each error names the value, the place and the next step. Stages print it without a
traceback and exit with 1.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


class PipelineError(Exception):
    """Base of all errors that the user can fix."""


class ParamsError(PipelineError):
    """`params.yaml` is invalid."""


class TemplateError(PipelineError):
    """A template or a verbalizer is invalid, or does not fit the model."""


class DataError(PipelineError):
    """A data file is missing, truncated, or not in its format."""


class ChecksumError(DataError):
    """A file does not have the expected content."""


class DownloadError(PipelineError):
    """Something could not be downloaded."""


class ModelError(PipelineError):
    """A language model is unknown, or cannot be loaded or used."""


class TrackingError(PipelineError):
    """MLflow cannot be reached or cannot use the store."""


@contextmanager
def memory_errors_named() -> Iterator[None]:
    """Turn torch's error for a GPU without enough memory into one with the next step.

    Raises:
        ModelError: the GPU's memory was not enough.
    """
    try:
        yield
    except RuntimeError as error:
        # By its name: torch is not loaded for an error of something else.
        if type(error).__name__ != "OutOfMemoryError":
            raise
        reason = str(error).partition(". ")[0]
        raise ModelError(
            f"the GPU has too little memory ({reason}); lower runtime.max_tokens_per_forward, or, "
            "where a method tunes the model, raise its model.gradient_accumulation_steps"
        ) from error


# C0 without tab and line feed, C1, line and paragraph separators, directions, surrogates.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return text with its control characters shown, which a terminal would obey.

    They may come from inputs, and from names and tags of other users' runs. Line ends and tabs are
    kept. Overrides of the direction of text count as control characters, as they would show a name
    as another one, and so do halves of a character, which cannot be printed.
    """
    return _CONTROL.sub(_code_of, text)


def _code_of(control: re.Match[str]) -> str:
    number = ord(control[0])
    return f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}"


def warn(text: str) -> None:
    """Print a warning on standard error; a closed terminal is not an error."""
    with suppress(OSError):
        sys.stderr.write(f"warning: {printable(text)}\n")
