"""Metrics, controls without a language model, and the records of an evaluation."""
