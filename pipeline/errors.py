"""Errors that the user can fix.

The text of each error names the value, the place and the next step. Stages print it without a
traceback and exit with 1.
"""

from collections.abc import Iterator
from contextlib import contextmanager


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
