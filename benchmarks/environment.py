"""Environment variables of the projects that benchmarks create."""

import os

# For git and the model hub, independent of the user's configuration.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "benchmark"), ("EMAIL", "benchmark@example.com"))
    },
}
