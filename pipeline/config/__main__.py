"""Read `params.yaml` and say what is wrong in it: `python -m pipeline.config`.

`tools/venv.pth` runs this before `dvc repro`, which reads lists of the file before any stage runs,
and fails where a full disk or a kill has damaged its own files.
"""

import sys
from pathlib import Path

from pipeline.config.schema import load_params
from pipeline.errors import PipelineError
from pipeline.workflow.project import repair

if __name__ == "__main__":
    try:
        load_params(Path("params.yaml"))
        repair(Path.cwd())
    except PipelineError as error:
        sys.exit(f"error: {error}")
