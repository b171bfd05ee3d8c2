"""The stages of the pipeline: thin commands that read, call the library, write and log."""
