"""A shared history on this machine: MLflow on PostgreSQL, and an object store for its artifacts.

All programs are the real ones. They listen on loopback addresses only and store their data in one
folder.
"""
