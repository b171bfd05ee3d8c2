"""The environment of the projects that benchmarks make."""

import os

# What git and the model hub are told in the projects, whoever runs this.
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    **{
        f"GIT_{who}_{what}": value
        for who in ("AUTHOR", "COMMITTER")
        for what, value in (("NAME", "benchmark"), ("EMAIL", "benchmark@example.com"))
    },
}
