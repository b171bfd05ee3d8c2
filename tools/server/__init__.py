"""A shared history on this machine: MLflow on PostgreSQL, and an object store for its artifacts.

All programs are real, listen on the loopback addresses alone and keep what they have in one folder.
"""
