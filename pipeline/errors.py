"""Errors that the user can fix.

The text of each error names the value, the place and the next step. Stages print it without a
traceback and exit with 1.
"""


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
