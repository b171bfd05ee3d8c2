"""What can go wrong in a way that the user can mend.

The text of each error names the value, the place and the next step. Stages print it as it is,
without a traceback, and exit with 1.
"""


class PipelineError(Exception):
    """Base of every error that is the user's to mend."""


class ParamsError(PipelineError):
    """`params.yaml` holds something that cannot be."""


class TemplateError(PipelineError):
    """A template or a verbalizer cannot be read, or does not fit the model."""


class DataError(PipelineError):
    """A data file is missing, cut, or not of its format."""


class ChecksumError(DataError):
    """A file is not the one that was asked for."""


class DownloadError(PipelineError):
    """Something could not be fetched."""


class ModelError(PipelineError):
    """A language model is unknown, or cannot be loaded or used."""


class TrackingError(PipelineError):
    """MLflow cannot be reached or refuses the store."""
