"""Read `params.yaml` and say what is wrong in it: `python -m pipeline.config`.

`tools/venv.pth` runs this before `dvc repro`, which reads lists of the file before any stage runs.
"""

import sys
from pathlib import Path

from pipeline.config.schema import load_params
from pipeline.errors import ParamsError

if __name__ == "__main__":
    try:
        load_params(Path("params.yaml"))
    except ParamsError as error:
        sys.exit(f"error: {error}")
