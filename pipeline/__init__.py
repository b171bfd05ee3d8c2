"""P-tuning as a library: data, prompts, models, training, evaluation, report.

Nothing here knows Typer or the project's paths: `stages` does.
"""
