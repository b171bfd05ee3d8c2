"""The stages of the pipeline: thin commands that read, call the library, write and log."""

import atexit
from contextlib import ExitStack

from pipeline.cli.console import LiveLine

# Python imports this package before what a stage imports, torch and transformers among it, which
# takes seconds. `stages.runtime.stage` closes it; without a stage, as with `--help`, the handler.
importing = ExitStack()
importing.enter_context(LiveLine("importing torch and transformers"))
atexit.register(importing.close)
