"""Stages side by side: in what order they start, and the dvc that each is run by."""
